"""MOIT against loops over its formula, and what it makes of wrong labels."""

import pytest
import torch
from torch import Tensor

from clx.losses.moit import MOIT, View, clean_rows, interpolated
from clx.losses.primitives.functional import unit

LABELS = torch.tensor([0, 1, 0, 2, 1, -1])
B = len(LABELS)


def contrast(rows: list[Tensor], item: list[int], partner: list[int], share: list[float], t: float) -> Tensor:
    total, n = torch.zeros(()), len(rows)
    label = [int(LABELS[i]) for i in range(B)]
    for r in range(n):
        others = [c for c in range(n) if c != r]
        logs = dict(zip(others, torch.stack([rows[r] @ rows[c] / t for c in others]).log_softmax(0), strict=True))
        own, beside = item[r], partner[r]
        w1 = {c: (item[c] == own) + (label[item[c]] == label[own] and item[c] != own) for c in others}
        w2 = {c: (item[c] == beside) + (label[item[c]] == label[beside] >= 0) for c in others}
        for part, weight in ((share[r], w1), (1 - share[r], w2)):
            if sum(weight.values()):
                total = total - part * sum(w * logs[c] for c, w in weight.items()) / sum(weight.values())
    return total / n


@pytest.mark.parametrize("pure", [False, True])
def test_equals_the_loops(pure: bool) -> None:
    torch.manual_seed(0)
    z = {f"image/{v}": torch.randn(B, 4, dtype=torch.float64).requires_grad_() for v in range(3)}
    weight = torch.randn(4, 3, dtype=torch.float64)
    mixed = {
        "image/0": (torch.tensor([1, 2, 5, 3, 0, 4]), 0.7),
        "image/1": (torch.tensor([4, 0, 1, 5, 2, 3]), 0.6),
    }
    loss = MOIT(temperature=0.3, per_class=0)
    loss.setup(list(z), 4, ("a", "b", "c"), B)
    value = loss(
        z,
        labels=LABELS,
        sample_id=torch.arange(B),
        head=lambda rows: rows @ weight,
        mixed=None if pure else mixed,
        progress=0.1,
    )
    if pure:
        mixed = dict.fromkeys(z, (torch.arange(B), 1.0))  # type: ignore[arg-type]
    known = [i for i in range(B) if LABELS[i] >= 0]
    rows, item, partner, share, classes = [], [], [], [], torch.zeros(())
    for name, (other, part) in mixed.items():
        for i in known:
            rows.append(unit(z[name])[i])
            item.append(i), partner.append(int(other[i])), share.append(part)
            logs = (z[name][i] @ weight).log_softmax(0)
            j = int(LABELS[other[i]])
            classes = classes - (part * logs[LABELS[i]] + (1 - part) * (logs[j] if j >= 0 else 0)) / len(known)
    expected = contrast(rows, item, partner, share, 0.3) + classes / len(mixed)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    for x in z.values():
        ours, theirs = (torch.autograd.grad(e, x, retain_graph=True, allow_unused=True)[0] for e in (value, expected))
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10)


def test_remembered_rows_are_columns_and_places_that_are_empty_none() -> None:
    torch.manual_seed(0)
    loss = MOIT(per_class=2)
    loss.setup(["image/0", "image/1"], 4, ("a", "b"), 10)
    z = {f"image/{v}": torch.randn(3, 4) for v in range(2)}
    labels, items = torch.tensor([0, 1, 1]), torch.arange(3)
    views = [View(unit(rows), items, 1.0) for rows in z.values()]
    columns = loss.recent(views, items, labels)
    assert columns.items.tolist() == [0, 1, 2, 0, 1, 2, -2, -2]
    torch.testing.assert_close(
        interpolated(views, items, labels, 0.1, columns), interpolated(views, items, labels, 0.1)
    )
    columns = loss.recent(views, items, labels)  # the first two places are the oldest now
    assert columns.items.tolist() == [2, 0, 1, 2, -1, -1, 0, 1]


def test_a_batch_larger_than_the_memory_goes_without_it_and_says_so() -> None:
    loss = MOIT(per_class=1)
    loss.setup(["image/0"], 4, ("a", "b"), 10)
    known = {"labels": torch.tensor([0, 1, 0, 1, 0]), "sample_id": torch.arange(5), "head": lambda rows: rows[:, :2]}
    loss({"image/0": torch.randn(5, 4)}, **known)
    assert loss.log == {"memory_skipped": 1}
    loss({"image/0": torch.randn(5, 4)}, **known | {"labels": torch.tensor([0, 1, 0, 1, -1])})
    assert loss.log == {"dropped_labels": 1}


def flipped(count: int = 200) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of four clusters, their labels of which three in ten are wrong, and which these are."""
    draw = torch.Generator().manual_seed(0)
    truth = torch.arange(count) % 4
    x = unit(torch.eye(4)[truth] + 0.1 * torch.randn(count, 4, generator=draw))
    wrong = torch.rand(count, generator=draw) < 0.3
    return x, torch.where(wrong, (truth + 1) % 4, truth), wrong


def test_wrong_labels_are_doubted() -> None:
    x, labels, wrong = flipped()
    clean = clean_rows(x, labels, 20, 4, balance="none")
    assert torch.equal(clean, ~wrong)
    balanced = clean_rows(x, labels, 20, 4)
    assert (balanced & wrong).sum() < 0.1 * balanced.sum()


def test_once_an_epoch_what_is_remembered_votes_and_it_is_saved() -> None:
    x, labels, wrong = flipped()
    loss, ids = MOIT(nearest=20, balance="none", per_class=0), torch.arange(len(x))
    loss.setup(["image"], 4, tuple("abcd"), len(x))
    known = {"labels": labels, "head": lambda rows: rows, "progress": 0.9}
    for part in ids.split(50):
        loss({"image": x[part]}, sample_id=part, **{**known, "labels": labels[part]})
        assert "doubted_labels" not in loss.log
    value = loss({"image": x}, sample_id=ids, **known)
    assert loss.log["doubted_labels"] == int(wrong.sum())
    other = MOIT(nearest=20, balance="none", per_class=0)
    other.setup(["image"], 4, tuple("abcd"), len(x))
    other.load_state_dict(loss.state_dict())
    torch.testing.assert_close(other({"image": x}, sample_id=ids, **known), value)
    assert not torch.equal(loss({"image": x}, sample_id=ids, **{**known, "progress": 0.1}), value)


def test_a_vote_of_a_step_that_is_not_taken_is_taken_back() -> None:
    x, labels, _ = flipped()
    loss, ids = MOIT(nearest=20, balance="none", per_class=0), torch.arange(len(x))
    loss.setup(["image"], 4, tuple("abcd"), len(x))
    for part in ids.split(50):
        before = loss.memory.clone()
        loss.begin_step()
        loss({"image": x[part]}, sample_id=part, labels=labels[part], head=lambda rows: rows)
    assert loss.memory[:, 1].any()  # the last step has let them vote
    loss.take_back()
    assert torch.equal(loss.memory, before)
