"""Losses with keys, and the baselines of self-supervision, against loops in float64, some rows missing; their state."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from clx.losses.base import LOSSES, Loss, Tempered
from clx.losses.beclr import Clustered
from clx.losses.moco import MoCo
from clx.losses.prototypes import balanced
from clx.losses.queue_variants import synthetic
from clx.losses.queues import NOBODY, Queue

B, D, T = 5, 4, 0.3
NAMES = ("image/0", "image/1", "image/2")
Rows = dict[str, list[Tensor | None]]


def rows_of(missing: bool, seed: int = 0) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    present = {name: torch.ones(B, dtype=torch.bool) for name in NAMES}
    if missing:
        present["image/0"][1] = present["image/2"][0] = present["image/2"][4] = False
    z = {name: torch.randn(B, D, generator=g, dtype=torch.float64) for name in NAMES}
    keys = {name: torch.randn(B, D, generator=g, dtype=torch.float64) for name in NAMES}
    for name in NAMES:
        z[name][~present[name]] = keys[name][~present[name]] = torch.nan
    return {
        "z": {name: x.requires_grad_() for name, x in z.items()},
        "keys": keys,
        "present": present,
        "sample_id": torch.arange(B) + 10 * seed,
        "labels": torch.tensor([0, 1, 0, -1, 2]),
    }


def call(loss: Loss, data: dict[str, Any]) -> Tensor:
    return loss(data["z"], **{key: data[key] for key in loss.needs() & data.keys()})


def there(x: dict[str, Tensor], present: dict[str, Tensor], scaled: bool = True) -> Rows:
    return {
        n: [(r / r.norm() if scaled else r) if present[n][i] else None for i, r in enumerate(rows)]
        for n, rows in x.items()
    }


def mean(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).mean()


def both(a: list[Tensor | None], b: list[Tensor | None]) -> list[tuple[int, Tensor, Tensor]]:
    return [(i, x, y) for i, (x, y) in enumerate(zip(a, b, strict=True)) if x is not None and y is not None]


def directed(a: Rows, b: Rows, of: Callable[[list[tuple[int, Tensor, Tensor]]], Tensor]) -> Tensor:
    return mean([of(both(a[m], b[n])) for m, n in itertools.permutations(NAMES, 2)])


def predicted(loss: Any, d: dict[str, Any]) -> Rows:
    """What the predictor tells of each name's rows that are there, with the statistics of these."""
    layers, found = loss.predictor, {}
    for name, x in d["z"].items():
        here = d["present"][name]
        hidden = x[here] @ layers[0].weight.T
        spread = ((hidden - hidden.mean(0)) ** 2).mean(0)
        hidden = ((hidden - hidden.mean(0)) / (spread + 1e-5).sqrt() * layers[1].weight + layers[1].bias).clamp(min=0)
        told = iter(hidden @ layers[3].weight.T + layers[3].bias)
        found[name] = [((r := next(told)) / r.norm()) if yes else None for yes in here]
    return found


def cosine(pairs: list[tuple[int, Tensor, Tensor]]) -> Tensor:
    return mean([x @ y for _, x, y in pairs])


def among_the_batch(pairs: list[tuple[int, Tensor, Tensor]]) -> Tensor:
    keys = [y for _, _, y in pairs]
    return 2 * T * mean([torch.stack([x @ k / T for k in keys]).logsumexp(0) - x @ y / T for _, x, y in pairs])


def queued(loss: Any, d: dict[str, Any]) -> Tensor:
    """With what the queues hold before."""
    q, k, terms = there(d["z"], d["present"]), there(d["keys"], d["present"]), []
    for a, b in itertools.combinations(NAMES, 2):
        queue, row_terms = loss.queues[b], []
        for i, x, y in both(q[a], k[b]):
            others = [row for row, owner in zip(queue.rows, queue.ids, strict=True) if owner != d["sample_id"][i]]
            others = sorted(others, key=lambda row: -(x @ row).item())[: loss.hardest]
            row_terms.append(torch.stack([x @ y / T, *(x @ row / T for row in others)]).logsumexp(0) - x @ y / T)
        terms.append(mean(row_terms))
    return mean(terms)


def vicreg(x: list[Tensor], y: list[Tensor]) -> Tensor:
    n = len(x)
    near = mean([((a - b) ** 2).mean() for a, b in zip(x, y, strict=True)])
    spread, apart = torch.zeros(()), torch.zeros(())
    for rows in (x, y):
        m = sum(rows) / n
        for c in range(D):
            spread = spread + (1 - (sum((r[c] - m[c]) ** 2 for r in rows) / (n - 1) + 1e-4).sqrt()).clamp(min=0) / D / 2
            for e in set(range(D)) - {c}:
                apart = apart + (sum((r[c] - m[c]) * (r[e] - m[e]) for r in rows) / (n - 1)) ** 2 / D
    return 25 * near + 25 * spread + apart


def barlow(x: list[Tensor], y: list[Tensor]) -> Tensor:
    n, sides = len(x), []
    for rows in (x, y):
        m = sum(rows) / n
        sides.append([(r - m) / (sum((s - m) ** 2 for s in rows) / n + 1e-5).sqrt() for r in rows])
    total = torch.zeros(())
    for c, e in itertools.product(range(D), repeat=2):
        correlation = sum(a[c] * b[e] for a, b in zip(*sides, strict=True)) / n
        total = total + ((1 - correlation) ** 2 if c == e else 0.0051 * correlation**2)
    return total


def over_pairs(d: dict[str, Any], of: Callable[[list[Tensor], list[Tensor]], Tensor], scaled: bool = False) -> Tensor:
    z, terms = there(d["z"], d["present"], scaled), []
    for a, b in itertools.combinations(NAMES, 2):
        rows = both(z[a], z[b])
        terms.append(of([x for _, x, _ in rows], [y for _, _, y in rows]))
    return mean(terms)


def distilled(d: dict[str, Any], form: str) -> Tensor:
    z, k, terms = there(d["z"], d["present"]), there(d["keys"], d["present"]), []
    if form == "features":
        return mean([mean([1 - x @ y for _, x, y in both(z[name], k[name])]) for name in NAMES])
    for a, b in itertools.combinations(NAMES, 2):
        items = [i for i, _, _ in both(z[a], z[b])]
        for m, n in ((a, b), (b, a)):
            for i in items:
                ours = torch.stack([z[m][i] @ z[n][j] for j in items])
                theirs = torch.stack([k[m][i] @ k[n][j] for j in items])
                if form == "similarities":
                    terms.append(-((theirs / 0.2).softmax(0) * (ours / T).log_softmax(0)).sum() / len(items))
                else:
                    at = items.index(i)
                    gaps = ((ours[at] - ours) - (theirs[at] - theirs)) ** 2
                    terms.append(gaps.sum() / (len(items) * (len(items) - 1)))
    return torch.stack(terms).sum() / 6


def sinkhorn(scores: list[Tensor], sharpness: float) -> list[Tensor]:
    """In linear space, as the paper writes it."""
    q = torch.stack([torch.exp(s / sharpness) for s in scores])
    for _ in range(3):
        q = q / q.sum(0)
        q = q / q.sum(1, keepdim=True)
    return list(q)


def rehearsed(loss: Any, d: dict[str, Any]) -> Tensor:
    """The teacher's rows of the label as positives, a row without label alone; the student's others as negatives."""
    x, s, terms = there(d["z"], d["present"]), there(d["keys"], d["present"]), []
    weights = d.get("weights", torch.ones(B))
    for name in NAMES:
        rows, found = both(x[name], s[name]), []
        for i, row, _ in rows:
            same = [
                p @ row / T for j, _, p in rows if j == i or (d["labels"][i] >= 0 and d["labels"][i] == d["labels"][j])
            ]
            below = torch.stack([row @ other / T for j, other, _ in rows if j != i]).logsumexp(0)
            found.append(weights[i] * -mean([each - below for each in same]))
        terms.append(mean(found))
    return mean(terms)


def prototyped(loss: Any, d: dict[str, Any], keyed: bool) -> Tensor:
    c = loss.directions / loss.directions.norm(dim=1, keepdim=True)
    z, codes = there(d["z"], d["present"]), {}
    if keyed:
        slow = 0.996 * loss.slow + 0.004 * loss.directions.detach()
        slow = slow / slow.norm(dim=1, keepdim=True)
        k = there(d["keys"], d["present"])
        codes = {n: [None if r is None else ((slow @ r - loss.center) / 0.04).softmax(0) for r in k[n]] for n in NAMES}
    else:
        for n in NAMES:
            found = iter(sinkhorn([c.detach() @ r.detach() for r in z[n] if r is not None], 0.05))
            codes[n] = [None if r is None else next(found) for r in z[n]]
    return directed(z, codes, lambda rows: mean([-(q * (c @ x / T).log_softmax(0)).sum() for _, x, q in rows]))


def with_neighbours(loss: Any, d: dict[str, Any]) -> Tensor:
    """Each key with its two nearest of the memory's rows in the cluster of its nearest prototype, and the spread."""
    told, keys, memory = predicted(loss, d), there(d["keys"], d["present"]), loss.keys_seen

    def near(rows: list[tuple[int, Tensor, Tensor]]) -> Tensor:
        terms = []
        for _, p, key in rows:
            cluster = int((memory.prototypes @ key).argmax())
            same = [row for row, at in zip(memory.rows, memory.of, strict=True) if int(at) == cluster]
            nearest = sorted(same, key=lambda row: -(row @ key).item())[:2] if memory.begun else []
            terms.append(mean([p @ key, *(p @ row for row in nearest)]))
        return mean(terms)

    z = [(i, r) for rows in there(d["z"], d["present"]).values() for i, r in enumerate(rows) if r is not None]
    apart = [torch.exp(u @ v / 2) for (i, u), (j, v) in itertools.product(z, repeat=2) if i != j]
    return 0.1 * mean(apart).log() - directed(told, keys, near)


CASES: dict[str, tuple[str, dict[str, Any], Callable[[Any, dict[str, Any]], Tensor]]] = {
    "moco": ("moco", {"queue": 7}, queued),
    "moco hardest": ("moco", {"queue": 7, "hardest": 3}, queued),
    "moco-v3": (
        "moco-v3",
        {"hidden": 6},
        lambda loss, d: 2 * directed(predicted(loss, d), there(d["keys"], d["present"]), among_the_batch),
    ),
    "byol": (
        "byol",
        {"hidden": 6},
        lambda loss, d: 4 - 4 * directed(predicted(loss, d), there(d["keys"], d["present"]), cosine),
    ),
    "simsiam": (
        "simsiam",
        {"hidden": 6},
        lambda loss, d: (
            -directed(predicted(loss, d), there({n: x.detach() for n, x in d["z"].items()}, d["present"]), cosine)
        ),
    ),
    "vicreg": ("vicreg", {}, lambda loss, d: over_pairs(d, vicreg)),
    "barlow-twins": ("barlow-twins", {}, lambda loss, d: over_pairs(d, barlow)),
    "distil similarities": ("distil", {"teacher_temperature": 0.2}, lambda loss, d: distilled(d, "similarities")),
    "distil features": ("distil", {"form": "features"}, lambda loss, d: distilled(d, "features")),
    "distil margins": ("distil", {"form": "margins"}, lambda loss, d: distilled(d, "margins")),
    "nspt": ("nspt", {}, rehearsed),
    "nspt weighted": ("nspt", {"weighted": True}, rehearsed),
    "swav": ("swav", {"prototypes": 3}, lambda loss, d: prototyped(loss, d, keyed=False)),
    "dino": ("dino", {"prototypes": 3}, lambda loss, d: prototyped(loss, d, keyed=True)),
    "beclr": ("beclr", {"hidden": 6, "memory_rows": 12, "prototypes": 3, "neighbours": 2}, with_neighbours),
    "beclr, memory not full": ("beclr", {"hidden": 6, "memory_rows": 40, "prototypes": 3}, with_neighbours),
}


def made(name: str, weighted: bool = False, **fields: Any) -> Any:
    torch.manual_seed(0)
    tempered = {"temperature": T} if issubclass(LOSSES[name], Tempered) else {}
    loss = LOSSES[name](**tempered, **fields)
    loss.setup(NAMES, D)
    return loss.double()


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_loops(case: str, missing: bool) -> None:
    """The second call, so that there is what was remembered of the first."""
    name, fields, oracle = CASES[case]
    loss = made(name, **fields)
    call(loss, rows_of(missing, seed=1))
    d = rows_of(missing)
    d |= {"weights": torch.tensor([0.0, 2.5, 0, 2.5, 0.5])} if fields.get("weighted") else {}
    d["sample_id"] = rows_of(missing, seed=1)["sample_id"]  # the rows of the first call come again
    expected = oracle(loss, d)
    leaves = [*d["z"].values(), *loss.parameters()]
    wanted = torch.autograd.grad(expected, leaves, allow_unused=True)
    value = call(loss, d)
    torch.testing.assert_close(value, expected.double(), rtol=1e-9, atol=1e-10)
    for a, b in zip(torch.autograd.grad(value, leaves, allow_unused=True), wanted, strict=True):
        torch.testing.assert_close(
            *(torch.zeros(1) if g is None else torch.nan_to_num(g) for g in (a, b)), rtol=1e-7, atol=1e-9
        )


def test_distillation_within_one_input_leaves_a_row_with_itself_out() -> None:
    d, loss = rows_of(False), made("distil", teacher_temperature=0.2)
    z, k = (there({n: d[key][n] for n in NAMES[:1]}, d["present"])["image/0"] for key in ("z", "keys"))
    terms = []
    for i in range(B):
        ours, theirs = (torch.stack([rows[i] @ rows[j] for j in range(B) if j != i]) for rows in (z, k))  # type: ignore
        terms.append(-((theirs / 0.2).softmax(0) * (ours / T).log_softmax(0)).sum())
    value = loss({"image/0": d["z"]["image/0"]}, keys={"image/0": d["keys"]["image/0"]})
    torch.testing.assert_close(value, mean(terms))


def test_distillation_by_blocks_is_that_of_all_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for form, more in (("similarities", {"learn_temperature": True}), ("margins", {})):
        loss, found = made("distil", form=form, **more), []
        for block in (1 << 20, 11):
            monkeypatch.setattr("clx.losses.distil.BLOCK", block)
            d = rows_of(True)
            value = call(loss, d)
            found.append([value, *torch.autograd.grad(value, [*d["z"].values(), *loss.parameters()])])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a.nan_to_num(), b.nan_to_num())


def test_distillation_needs_equal_widths_for_features_alone() -> None:
    d = rows_of(False)
    d["keys"] = {name: torch.cat([x, x], 1) for name, x in d["keys"].items()}
    assert call(made("distil"), d).isfinite()
    with pytest.raises(ValueError, match=r"of width 4, with the second model's of 8: set embed_dim to that"):
        call(made("distil", form="features"), d)
    with pytest.raises(ValueError, match="learn_temperature changes nothing with form: margins"):
        made("distil", form="margins", learn_temperature=True)


def test_a_queue_keeps_the_newest() -> None:
    torch.manual_seed(0)
    queue = Queue(5, 2)
    torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(5))
    assert queue.ids.tolist() == [NOBODY] * 5
    put = [queue.put(torch.full((n, 2), float(n)), torch.arange(n) + 10 * n).tolist() for n in (2, 2, 3)]
    assert put == [[0, 1], [2, 3], [4, 0, 1]]
    assert queue.ids.tolist() == [31, 32, 20, 21, 30]
    old, ids = queue.now(torch.zeros(1, 2))
    queue.put(torch.arange(14.0).view(7, 2), torch.arange(7))  # more than there are places
    assert sorted(queue.ids.tolist()) == [2, 3, 4, 5, 6]
    assert ids.tolist() == [31, 32, 20, 21, 30]
    assert old[2].tolist() == [2.0, 2.0]
    queue.put(torch.ones(1, 1), torch.tensor([9]))  # narrower rows have zeros behind
    assert [1.0, 0.0] in queue.rows.tolist()


def test_what_is_remembered_is_not_in_evaluation() -> None:
    for name, fields in (("moco", {"queue": 7}), ("dino", {"prototypes": 3}), ("byol", {"hidden": 6})):
        loss = made(name, **fields).eval()
        before = {key: value.clone() for key, value in loss.state_dict().items()}
        call(loss, rows_of(False))
        assert all(torch.equal(value, before[key]) for key, value in loss.state_dict().items())
        call(loss.train(), rows_of(False))
        assert any(not torch.equal(value, before[key]) for key, value in loss.state_dict().items())


def test_labels_leave_rows_of_the_same_class_out_of_the_queue() -> None:
    loss = made("moco", queue=B, exclude="labels")
    call(loss, rows_of(False))
    d = rows_of(False, seed=1)
    queue, x = loss.queues["image/1"], there(d["z"], d["present"])["image/0"]
    y = there(d["keys"], d["present"])["image/1"]
    assert queue.ids[:5].tolist() == [0, 1, 0, NOBODY - 1 - 3, 2]
    kept = [
        [row for row, owner in zip(queue.rows, [0, 1, 0, -9, 2], strict=True) if owner != k] for k in (0, 1, 0, -1, 2)
    ]
    wanted = mean(
        [
            torch.stack([a @ b / T, *(a @ r / T for r in rows)]).logsumexp(0) - a @ b / T
            for a, b, rows in zip(x, y, kept, strict=True)
        ]  # type: ignore
    )
    two = {name: d["z"][name] for name in NAMES[:2]}
    torch.testing.assert_close(loss(two, keys=d["keys"], sample_id=d["sample_id"], labels=d["labels"]), wanted)


@pytest.mark.parametrize(("by", "given"), [("labels", "labels"), ("group", "groups")])
def test_a_queue_for_each_value(by: Any, given: str) -> None:
    """What is told from rows of one's own label or group alone is what a loss of these rows is."""
    torch.manual_seed(0)
    loss = MoCo(queue=4, temperature=T, by=by)
    loss.setup(NAMES[:2], D, ("a", "b") if by == "labels" else ("a", "b", "c"))
    if by == "group":
        loss.setup_groups(2)
    loss.double()
    d, labels = rows_of(False), torch.tensor([0, 1, 0, -1, 1])
    two = {name: d["z"][name] for name in NAMES[:2]}
    assert set(loss.queues) == {"image/1 0", "image/1 1"}
    terms = []
    for k in range(2):
        here = labels == k
        alone = MoCo(queue=4, temperature=T)
        alone.setup(NAMES[:2], D)
        alone.double().queues["image/1"].load_state_dict(loss.queues[f"image/1 {k}"].state_dict())
        part = {name: x[here] for name, x in two.items()}
        terms.append(alone(part, keys={n: x[here] for n, x in d["keys"].items()}, sample_id=d["sample_id"][here]))
    value = loss(two, keys=d["keys"], sample_id=d["sample_id"], **{given: labels})
    torch.testing.assert_close(value, mean(terms))  # two rows of each
    assert [loss.queues[f"image/1 {k}"].ids.tolist() for k in range(2)] == [[0, 2, -1, -1], [1, 4, -1, -1]]
    assert loss.requires() & {"labels", "groups"} == {given}
    with pytest.raises(ValueError, match=f"by is '{by}', but the batch has no {given}"):
        loss(two, keys=d["keys"], sample_id=d["sample_id"])


VARIANTS: list[dict[str, Any]] = [
    {"mix": {"top": 4, "pairs": 3, "with_query": 2}},
    {"extrapolate": 2.0},
    {"interpolate": 1.6},
    {"interpolate": 1.6, "extrapolate": 2.0, "by_dimension": True, "hardest": 3},
    {"pseudo_labels": 2},
    {"normalise": False, "both_ways": True},
]


@pytest.mark.parametrize("fields", VARIANTS)
def test_variants_are_finite_and_draw_from_the_generator_alone(fields: dict[str, Any]) -> None:
    def value(seed: int) -> tuple[Tensor, Tensor]:
        loss, d = made("moco", queue=6, **fields), rows_of(True)
        call(loss, rows_of(True, seed=1))
        d["generator"] = torch.Generator().manual_seed(seed)
        found = call(loss, d)
        return found.detach(), torch.autograd.grad(found, d["z"]["image/0"])[0]

    plain = made("moco", queue=6)
    call(plain, rows_of(True, seed=1))
    once, gradient = value(1)
    assert once.isfinite()
    assert gradient.isfinite().all()
    assert torch.equal(value(1)[0], once)
    draws = not fields.keys() & {"pseudo_labels", "normalise"}
    assert (value(2)[0] != once) == draws
    assert once != call(plain, rows_of(True))


def test_synthetic_negatives_are_made_of_rows_that_are_negatives() -> None:
    query, queue = torch.eye(4)[2:3], torch.eye(4)[[0, 1, 1, 1]]
    made = synthetic(query, queue, torch.tensor([[False, True, True, True]]), {"top": 4, "pairs": 50}, None)
    torch.testing.assert_close(made, torch.eye(4)[[0]].expand(1, 50, 4))
    loss = MoCo(queue=B, mix={"top": B, "pairs": 2, "with_query": 2}, exclude="labels")
    loss.setup(NAMES[:2], D)
    data = rows_of(False) | {"labels": torch.zeros(B, dtype=torch.long)}
    data["z"] = {name: data["z"][name] for name in NAMES[:2]}
    assert call(loss, data).item() > 0  # random rows
    value = call(loss, data)  # keys of the same label, none of which is a negative
    assert value.item() == 0
    assert torch.autograd.grad(value, data["z"]["image/0"])[0].eq(0).all()


def test_synthetic_negatives_make_it_harder_and_hard_ones_easier() -> None:
    def value(**fields: Any) -> float:
        d = rows_of(False)
        d["generator"] = torch.Generator().manual_seed(0)
        return float(call(made("moco", queue=64, **fields), d).detach())

    assert value(hardest=8) < value() < value(mix={"top": 8, "pairs": 8, "with_query": 8})


def test_pseudo_labels_are_the_nearest_of_the_rows_that_were_put_in() -> None:
    loss = made("moco", queue=9, pseudo_labels=2, pseudo_weight=1.0)
    plain = made("moco", queue=9)
    for each in (loss, plain):
        call(each, rows_of(False, seed=1))
    d = rows_of(False)
    two = {name: d["z"][name] for name in NAMES[:2]}
    x, rows = there(two, d["present"])["image/0"], loss.queues["image/1"].rows[:B].clone()
    total = torch.zeros(())
    for a in x:
        assert a is not None
        near = {int(j) for j in (rows @ a).topk(2).indices}
        for j, row in enumerate(rows):
            p = torch.sigmoid(a @ row / T)
            total = total - (torch.log(p) if j in near else torch.log(1 - p))
    given = {"keys": d["keys"], "sample_id": d["sample_id"]}
    torch.testing.assert_close(loss(two, **given) - plain(two, **given), total.double() / B / B)


def test_codes_are_shared_out_over_prototypes() -> None:
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(12, 3, generator=g, dtype=torch.float64) + torch.tensor([1.0, 0, 0])
    codes = balanced(scores, 0.5, rounds=50)
    torch.testing.assert_close(codes.sum(1), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(codes.sum(0), torch.full((3,), 4.0, dtype=torch.float64))
    assert balanced(scores.float() * 200, 0.05).isfinite().all()  # exp of 4,000 is none


def test_clusters_begin_when_the_memory_is_full_and_rows_go_to_the_nearest() -> None:
    """Six directions of which each cluster has one, as 98 % of rows find; the published code has 0 %."""
    torch.manual_seed(0)
    memory, draw = Clustered(120, 8, 6), torch.Generator().manual_seed(1)

    def rows(n: int) -> tuple[Tensor, Tensor]:
        kinds = torch.arange(n) % 6
        x = torch.eye(8)[kinds] + 0.1 * torch.randn(n, 8, generator=draw)
        return x / x.norm(dim=1, keepdim=True), kinds

    for _ in range(3):
        assert not memory.begun
        assert not memory.neighbours(rows(6)[0], 2)[1].any()
        memory.learn(rows(40)[0], torch.arange(40), 0.05, draw)
    assert memory.begun
    x, kinds = rows(60)
    memory.learn(x, torch.arange(60), 0.05, draw)
    near, known = memory.neighbours(x, 5)
    assert known.all()
    assert (near.argmax(2) == kinds[:, None]).float().mean() > 0.98
    torch.testing.assert_close(memory.prototypes.norm(dim=1), torch.ones(6))
    assert (memory.of == (memory.rows @ memory.prototypes.T).argmax(1)).float().mean() > 0.8


def test_the_centre_is_the_running_mean_of_what_the_copy_says() -> None:
    loss, d = made("dino", prototypes=3), rows_of(True)
    call(loss, d)
    slow = loss.slow / loss.slow.norm(dim=1, keepdim=True)
    said = [slow @ r for rows in there(d["keys"], d["present"]).values() for r in rows if r is not None]
    torch.testing.assert_close(loss.center, 0.1 * torch.stack(said).mean(0))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"queue": 8, "hardest": 9}, "hardest = 9, but the queue has 8 rows"),
        ({"queue": 8, "mix": {"top": 9}}, "mix.top = 9, but"),
        ({"queue": 8, "pseudo_labels": 8}, "pseudo_labels = 8, but"),
    ],
)
def test_more_than_the_queue_has_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MoCo(**fields)


def test_a_loss_begins_near_the_logarithm_of_the_queue() -> None:
    torch.manual_seed(0)
    loss = MoCo(queue=1000, temperature=1.0)
    loss.setup(["a/0", "a/1"], 64)
    z = {name: torch.randn(32, 64) for name in ("a/0", "a/1")}
    keys = {name: torch.randn(32, 64) for name in z}
    assert loss(z, keys=keys, sample_id=torch.arange(32)).item() == pytest.approx(math.log(1001), abs=0.1)


def test_a_full_queue_shares_in_the_codes() -> None:
    loss, size = made("swav", prototypes=3, queue=8, queue_from=0.5), len(NAMES)
    for seed in (1, 2):  # ten rows of each view
        call(loss, rows_of(False, seed=seed))
    c = (loss.directions / loss.directions.norm(dim=1, keepdim=True)).detach()
    old = {name: loss.queues[name].rows.clone() for name in NAMES}
    d = rows_of(False)
    z = there(d["z"], d["present"])

    def expected(queued: bool) -> Tensor:
        codes = {}
        for n in NAMES:
            before = [*old[n]] if queued else []
            codes[n] = sinkhorn([c @ r.detach() for r in [*before, *z[n]] if r is not None], 0.05)[len(before) :]
        return directed(z, codes, lambda rows: mean([-(q * (c @ x / T).log_softmax(0)).sum() for _, x, q in rows]))  # type: ignore[arg-type]

    assert (expected(True) - expected(False)).abs() > 1e-3
    loss.remembers = False
    for progress, queued in ((0.4, False), (0.5, True)):
        torch.testing.assert_close(loss(d["z"], present=d["present"], progress=progress), expected(queued))
    assert all(torch.equal(loss.queues[n].rows, old[n]) for n in NAMES)
    assert size == len(loss.queues)


def test_prototypes_are_held_still_at_first() -> None:
    for name in ("swav", "dino"):
        loss, d = made(name, prototypes=3, frozen=0.5), rows_of(True)
        d.pop("sample_id")
        early, late = (
            torch.autograd.grad(
                call(loss, d | {"progress": progress}), [d["z"]["image/1"], loss.directions], allow_unused=True
            )
            for progress in (0.4, 0.5)
        )
        assert early[0].nan_to_num().any()
        assert early[1] is None
        assert late[1].any()


def test_nobody_learns_from_local_views() -> None:
    for name in ("swav", "dino"):
        torch.manual_seed(0)
        loss = LOSSES[name](prototypes=3, temperature=T, local=["small"])  # type: ignore[call-arg]
        loss.setup(["image/0", "image/1", "small/0"], D)
        loss, found = loss.double(), []
        other = rows_of(False)
        keyed = {"image/0": "image/0", "image/1": "image/1", "small/0": "image/2"}
        z, keys = ({new: other[key][old] for new, old in keyed.items()} for key in ("z", "keys"))
        for changed in (False, True):
            shown = z | ({"small/0": z["small/0"].detach().flip(1)} if changed else {})
            given = {"keys": keys} if name == "dino" else {}
            value = loss.eval()(shown, **given)
            found.append(torch.autograd.grad(value, z["image/0"])[0])
        torch.testing.assert_close(*found)
        (of_small,) = torch.autograd.grad(loss(z, **given), z["small/0"])
        assert of_small.any()
        for local, said in (
            (["tiny"], "local names tiny, but the inputs are image, small"),
            (["image", "small"], "all"),
        ):
            with pytest.raises(ValueError, match=said):
                LOSSES[name](local=local).setup(["image/0", "small/0"], D)  # type: ignore[call-arg]


def test_the_copys_temperature_changes_evenly() -> None:
    loss = made("dino", prototypes=3, first_teacher_temperature=0.04, teacher_temperature=0.08, warmup=0.4)
    assert [round(loss.of_teacher(p), 4) for p in (0.0, 0.1, 0.2, 0.4, 0.9, 1.0)] == [
        0.04,
        0.05,
        0.06,
        0.08,
        0.08,
        0.08,
    ]
    d = rows_of(False)
    values = [call(loss.eval(), d | {"progress": p}) for p in (0.0, 1.0)]
    fixed = [call(made("dino", prototypes=3, teacher_temperature=t).eval(), d) for t in (0.04, 0.08)]
    torch.testing.assert_close(values, fixed)
    for fields in ({"warmup": 0.3}, {"first_teacher_temperature": 0.04}):
        with pytest.raises(ValueError, match="go together"):
            LOSSES["dino"](**fields)  # type: ignore[arg-type]


def test_clusters_are_found_anew_when_a_round_begins() -> None:
    torch.manual_seed(0)
    memory, draw = Clustered(40, 8, 4), torch.Generator().manual_seed(0)
    memory.learn(torch.nn.functional.normalize(torch.randn(40, 8), dim=1), torch.arange(40), 0.05, draw)
    rows = torch.nn.functional.normalize(torch.randn(2, 8), dim=1)
    for now, again in ((0, False), (1, True), (1, False), (3, True)):
        state = draw.get_state()
        memory.learn(rows, torch.arange(2), 0.05, draw, now)
        assert torch.equal(state, draw.get_state()) != again  # k-means begins with drawn rows
        assert int(memory.round) == now
