"""MLCD by loops; sparsemax: exact zeros, its gradient, several labels; and which labels each head says to apply."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from clx.losses.asymmetric import asymmetric
from clx.losses.base import LOSSES
from clx.losses.label_prototypes import LabelPrototypes
from clx.losses.multilabel_softmax import MultilabelSoftmax
from clx.losses.set_heads import MLCD, BinaryCrossEntropy, label_ranking
from clx.losses.sparsemax import Sparsemax, sparsemax, sparsemax_loss


def nearest(z: Tensor) -> Tensor:
    """The shares nearest to a row, by trying every support."""
    best, found = torch.inf, torch.zeros_like(z)
    for size in range(1, len(z) + 1):
        for support in itertools.combinations(range(len(z)), size):
            p = torch.zeros_like(z)
            kept = z[list(support)]
            p[list(support)] = kept - (kept.sum() - 1) / size
            if (p >= 0).all() and float((p - z).square().sum()) < best:
                best, found = float((p - z).square().sum()), p
    return found


def rows() -> Tensor:
    g = torch.Generator().manual_seed(2)
    z = torch.randn(6, 5, generator=g, dtype=torch.float64)
    z[4] = torch.tensor([1.0, 1, 1, 0, 0])
    return z.requires_grad_()


def test_shares_are_the_nearest_and_add_up() -> None:
    z = rows()
    p = sparsemax(z)
    for row, share in zip(z.detach(), p.detach(), strict=True):
        torch.testing.assert_close(share, nearest(row))
    torch.testing.assert_close(p.sum(1), torch.ones(6, dtype=torch.float64))
    assert (p == 0).sum() > 6
    torch.testing.assert_close(sparsemax(z + 7), p)


def test_gradients() -> None:
    z = rows()
    assert torch.autograd.gradcheck(sparsemax, (z[:4],))
    q = torch.rand(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    q = q / q.sum(1, keepdim=True)
    value = sparsemax_loss(z, q)
    (g,) = torch.autograd.grad(value.sum(), z)
    torch.testing.assert_close(g, (sparsemax(z) - q).detach())
    assert (value > 0).all()
    torch.testing.assert_close(sparsemax_loss(z, sparsemax(z).detach()), torch.zeros(6, dtype=torch.float64))


def test_large_predictions_lose_no_digit() -> None:
    z, q = torch.tensor([[2e4, 2e4 - 0.5, 0.0]]), torch.tensor([[0.5, 0.5, 0.0]])
    exact = sparsemax_loss(z.double(), q.double()).float()
    torch.testing.assert_close(sparsemax_loss(z, q), exact, rtol=1e-5, atol=1e-6)


def test_rows_without_a_label_teach_nothing() -> None:
    loss = Sparsemax()
    sets = torch.tensor([[1.0, 0, 1], [0, 0, 0], [torch.nan] * 3])
    predictions = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    value = loss({"x": torch.zeros(3, 2)}, predictions=predictions, label_sets=sets)
    (g,) = torch.autograd.grad(value, predictions)
    assert loss.log == {"dropped_labels": 2}
    assert (g[1:] == 0).all()
    torch.testing.assert_close(value, sparsemax_loss(predictions[:1], sets[:1] / 2)[0])


def test_mlcd_is_its_formula() -> None:
    z, loss = rows(), MLCD()
    sets = torch.tensor([[1, 0, 1, 0, 0], [0] * 5, [1] * 5, [0, 0, 0, 0, 1], [1, 1, 0, 0, 0], [math.nan] * 5]).double()
    terms = []
    for scores, own in zip(z, sets, strict=True):
        if not own.isnan().any():
            low = sum(math.exp(-s) for s, y in zip(scores.tolist(), own.tolist(), strict=True) if y)
            high = sum(math.exp(s) for s, y in zip(scores.tolist(), own.tolist(), strict=True) if not y)
            terms.append(math.log(1 + low) + math.log(1 + high))
    value = loss({"x": z}, predictions=z, label_sets=sets)
    assert value.item() == pytest.approx(sum(terms) / 5)
    assert loss.log == {"dropped_labels": 1}
    assert torch.autograd.gradcheck(lambda p: MLCD()({"x": p}, predictions=p, label_sets=sets), (z,))
    far = torch.tensor([[300.0, -300], [-300, 300]], requires_grad=True)
    huge = MLCD()({"x": far}, predictions=far, label_sets=torch.tensor([[1.0, 0], [1, 0]]))
    huge.backward()
    assert huge.item() == pytest.approx(300)
    assert far.grad is not None
    assert far.grad.isfinite().all()


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (BinaryCrossEntropy(), [True, False, False]),
        (MLCD(), [True, False, False]),
        (Sparsemax(), [True, True, False]),
        (Sparsemax(above=0.4), [True, False, False]),
    ],
)
def test_which_labels_apply(loss: BinaryCrossEntropy | Sparsemax, said: list[bool]) -> None:
    assert loss.applying(loss.chances(torch.tensor([[0.3, -0.1, -4.0]]))).tolist() == [said]


def test_asymmetric_and_ranking_against_loops() -> None:
    z = (3 * rows()).detach().requires_grad_()
    sets = (torch.rand(6, 5, generator=torch.Generator().manual_seed(3)) < 0.4).double()
    sets[3], sets[5] = 1, 0  # all labels, and none
    for own, others, shift in ((1.0, 2.0, 0.05), (0.0, 4.0, 0.2), (0.0, 0.0, 0.0)):
        found = asymmetric(z, sets, own, others, shift).mean()
        total = torch.zeros((), dtype=torch.float64)
        for x, y in zip(z.flatten(), sets.flatten(), strict=True):
            p = 1 / (1 + (-x).exp())
            q = (p - shift).clamp(min=0)
            total = total - ((1 - p.detach()) ** own * p.log() if y else q.detach() ** others * (1 - q).log())
        torch.testing.assert_close(found, total / 30)
        for one, other in zip(torch.autograd.grad(found, z), torch.autograd.grad(total / 30, z), strict=True):
            torch.testing.assert_close(one, other)
    found, total = label_ranking(z, sets, 0.7).mean(), torch.zeros((), dtype=torch.float64)
    for scores, labels in zip(z, sets, strict=True):
        for a, b in itertools.product(range(5), repeat=2):
            if labels[a] and not labels[b]:
                total = total + (0.7 - scores[a] + scores[b]).clamp(min=0)
    torch.testing.assert_close(found, total / 6)
    torch.testing.assert_close(torch.autograd.grad(found, z), torch.autograd.grad(total / 6, z))


def test_label_prototypes_against_loops() -> None:
    g = torch.Generator().manual_seed(5)
    z, v = (torch.randn(n, 4, generator=g, dtype=torch.float64).requires_grad_() for n in (6, 6))
    sets = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0], [torch.nan] * 3], dtype=torch.float64)
    loss = LabelPrototypes(cluster=0.7, separation=0.3, orthogonality=2.0, contrast=3.0)
    loss.setup(["x"], 4, ["a", "b", "c"])
    found = loss({"x": z}, head=SimpleNamespace(rows=v), label_sets=sets)
    overlap = {(0, 1): 2 / 3, (0, 2): 0.0, (1, 2): 0.0} | {(k, k): 1.0 for k in range(3)}

    def cosine(a: Tensor, b: Tensor) -> Tensor:
        return a @ b / a.norm() / b.norm()

    near, far, square, alike, unlike = [], [], [], [], []
    for i, k in itertools.product(range(5), range(3)):
        own = torch.stack([cosine(z[i], v[p]) for p in (2 * k, 2 * k + 1)]).max()
        near.append(own * sets[i, k])
    for i in range(5):
        far.append(torch.stack([cosine(z[i], v[p]) for p in range(6) if not sets[i, p // 2]]).max())
    for p, q in itertools.product(range(6), repeat=2):
        w, s = overlap[min(p // 2, q // 2), max(p // 2, q // 2)], cosine(v[p], v[q])
        square.append((s - float(p == q)) ** 2)
        alike.append(torch.stack([s * w, torch.tensor(w).double()]))
        unlike.append(torch.stack([s * (1 - w), torch.tensor(1 - w).double()]))
    (a, m), (b, n) = torch.stack(alike).sum(0), torch.stack(unlike).sum(0)
    means = [torch.stack(each).mean() for each in (near, far, square)]
    wanted = -0.7 * means[0] + 0.3 * means[1] + 2 * means[2] - 3 * (a / m - b / n) / 6**0.5
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found, [z, v]), torch.autograd.grad(wanted, [z, v]))
    assert loss.log == {"dropped_labels": 1}
    loss.eval()(
        {"x": z}, head=SimpleNamespace(rows=v), label_sets=torch.ones_like(sets)
    )  # all labels apply: none is pushed away, and validation counts nothing
    assert loss.get_buffer("together").tolist() == [[3, 2, 0], [2, 2, 0], [0, 0, 1]]


def test_high_predictions_of_labels_that_do_not_apply_are_finite() -> None:
    z = torch.tensor([[200.0, -200.0]], requires_grad=True)
    for shift in (0.0, 0.05):
        value = asymmetric(z, torch.tensor([[0.0, 1.0]]), 1.0, 2.0, shift).sum()
        (g,) = torch.autograd.grad(value, z)
        assert value.isfinite()
        assert g.isfinite().all()
        assert g[0, 1] < -0.9


SETS = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [torch.nan] * 4, [0, 1, 1, 0]], dtype=torch.float64)


@pytest.mark.parametrize("form", ["decoupled", "softmax"])
def test_softmax_of_sets_against_loops(form: str) -> None:
    """Rows without a label, and unknown ones, are left out."""
    s = torch.randn(5, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64).requires_grad_()
    rows = []
    for i in (0, 1, 4):
        own = [k for k in range(4) if SETS[i, k]]
        terms = []
        for p in own:
            beside = range(4) if form == "softmax" else [p, *(k for k in range(4) if k not in own)]
            terms.append(-torch.log(s[i, p].exp() / torch.stack([s[i, k].exp() for k in beside]).sum()))
        rows.append(torch.stack(terms).mean())
    wanted = torch.stack(rows).mean()
    loss = MultilabelSoftmax(form=form)
    found = loss({"x": s}, predictions=s, label_sets=SETS)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found, s), torch.autograd.grad(wanted, s))
    assert loss.log == {"dropped_labels": 2}


def test_which_labels_a_softmax_of_sets_says_to_apply() -> None:
    """Those above the widest gap between the best and the log-sum-exp of all others, by hand; half of them at most."""
    loss = MultilabelSoftmax()
    scores = torch.tensor([[0.0, 5, 4.5, 0.2, 0, 0], [9, 9, 9, 0, 0, -20], [5, 1, 0, 0, 0, 0], [3, 3, 3, 3, 3, -9]])
    chances = loss.chances(scores)
    assert loss.applying(chances).nonzero().tolist() == [[0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [2, 0]]
    cut = (4.5 + math.log(3 + math.exp(0.2))) / 2
    torch.testing.assert_close(chances[0], (scores[0] - cut).sigmoid())
    assert loss.chances(torch.tensor([[2.0]])).item() == pytest.approx(1 / (1 + math.exp(-2)))
    best = MultilabelSoftmax(form="top-k", k=2)
    assert best.chances(scores.double()).sum(1).tolist() == pytest.approx([2] * 4)
    with pytest.raises(ValueError, match="k = 5: of 3 labels all would be among the best"):
        MultilabelSoftmax(form="top-k").setup(["x"], 4, ["a", "b", "c"])
    with pytest.raises(ValueError, match="k changes nothing with form: decoupled"):
        MultilabelSoftmax(k=3)


@pytest.mark.parametrize("name", ["binary-cross-entropy", "asymmetric", "mlcd", "multilabel-softmax", "cross-entropy"])
@pytest.mark.parametrize("unknown", [[], [(0, 2), (1, 0)]])
def test_labels_that_stand_for_others_are_as_if_these_were_there(name: str, unknown: list[tuple[int, int]]) -> None:
    """A label that stands for three is three of the same score; the mean over all known labels stays that."""
    s = torch.randn(3, 3, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    sets = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=torch.float64)
    for place in unknown:
        sets[place] = torch.nan
    answers = (
        [{"labels": torch.tensor([0, 1, 0])}] * 2
        if name == "cross-entropy"
        else [{"label_sets": sets}, {"label_sets": sets[:, [0, 1, 2, 2, 2]]}]
    )
    loss = LOSSES[name]()
    some = loss({"x": s}, predictions=s, stands_for=torch.tensor([1.0, 1, 3]), **answers[0])
    torch.testing.assert_close(some, loss({"x": s}, predictions=s[:, [0, 1, 2, 2, 2]], **answers[1]))
    plain = loss({"x": s}, predictions=s, stands_for=torch.ones(3), **answers[0])
    torch.testing.assert_close(plain, loss({"x": s}, predictions=s, **answers[0]))
    assert (some - plain).abs() > 1e-2


def test_rows_with_no_more_known_labels_than_the_best_are_counted_as_left_out() -> None:
    s = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    sets = torch.tensor([[1.0, 0, 0, 1], [1, 0, torch.nan, torch.nan]])
    loss = MultilabelSoftmax(form="top-k", k=2)
    both = loss({"x": s}, predictions=s, label_sets=sets)
    assert loss.log["dropped_labels"] == 1
    torch.testing.assert_close(both, loss({"x": s[:1]}, predictions=s[:1], label_sets=sets[:1]))


def test_what_looks_at_all_labels_takes_no_sample() -> None:
    s, ones = torch.zeros(2, 3), torch.ones(3)
    with pytest.raises(ValueError, match="form: top-k finds its k among all labels"):
        MultilabelSoftmax(form="top-k", k=1)({"x": s}, predictions=s, label_sets=torch.eye(3)[:2], stands_for=ones)
    with pytest.raises(ValueError, match="label_smoothing is over all classes"):
        LOSSES["cross-entropy"](label_smoothing=0.1)(
            {"x": s}, predictions=s, labels=torch.tensor([0, 1]), stands_for=ones
        )
