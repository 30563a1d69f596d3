"""Every loss against plain loops over its formula, in float64, some rows missing; values and gradients."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import loss_loops
from clx.losses.base import LOSSES, Tempered
from clx.losses.primitives.draws import beta
from clx.losses.supremix import SupReMix
from clx.losses.symile import Symile

B, D = 5, 4
NAMES = ("image", "text", "audio")
Rows = dict[str, list[Tensor | None]]


def lse(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).logsumexp(0)


def mean(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).mean()


def nll(positive: Tensor, others: list[Tensor]) -> Tensor:
    return lse([positive, *others]) - positive


def unit_rows(z: dict[str, Tensor], present: dict[str, Tensor]) -> Rows:
    return {n: [x[i] / x[i].norm() if present[n][i] else None for i in range(len(x))] for n, x in z.items()}


def pairs_of(rows: Rows, loss: Any) -> Tensor:
    """Mean over pairs of names of a loss on the items that have both."""
    terms = []
    for a, b in itertools.combinations(rows, 2):
        both = [i for i in range(B) if rows[a][i] is not None and rows[b][i] is not None]
        if len(both) > 1:
            terms.append(loss([rows[a][i] for i in both], [rows[b][i] for i in both]))
    return mean(terms)


Keep = Callable[[int, int], bool]
"""Whether item j is a negative of item i."""


def others(i: int, j: int) -> bool:
    return i != j


def infonce(x: list[Tensor], y: list[Tensor], t: Tensor, keep: Keep = others) -> Tensor:
    n = range(len(x))
    return mean([nll(x[i] @ y[i] / t, [x[i] @ y[j] / t for j in n if keep(i, j)]) for i in n])


def clip(x: list[Tensor], y: list[Tensor], t: Tensor, keep: Keep = others) -> Tensor:
    return (infonce(x, y, t, keep) + infonce(y, x, t, keep)) / 2


def two_n(x: list[Tensor], y: list[Tensor], t: Tensor, keep: Keep = others) -> list[tuple[int, Tensor, list[Tensor]]]:
    """For each of the 2n rows: its item, its positive and its negatives."""
    rows, n = [*x, *y], len(x)
    return [
        (
            k % n,
            rows[k] @ rows[(k + n) % (2 * n)] / t,
            [rows[k] @ rows[m] / t for m in range(2 * n) if keep(k % n, m % n)],
        )
        for k in range(2 * n)
    ]


def nt_xent(x: list[Tensor], y: list[Tensor], t: Tensor, keep: Keep = others) -> Tensor:
    return mean([nll(positive, negative) for _, positive, negative in two_n(x, y, t, keep)])


def dcl(x: list[Tensor], y: list[Tensor], t: Tensor, keep: Keep = others) -> Tensor:
    return mean([lse(negative) - positive for _, positive, negative in two_n(x, y, t, keep)])


def dclw(x: list[Tensor], y: list[Tensor], t: Tensor, sigma: float) -> Tensor:
    softmax = torch.stack([a @ b / sigma for a, b in zip(x, y, strict=True)]).softmax(0)
    w = (2 - len(x) * softmax).detach()
    return mean([lse(negative) - w[i] * positive for i, positive, negative in two_n(x, y, t)])


def siglip(x: list[Tensor], y: list[Tensor], t: Tensor, bias: Tensor, keep: Keep = others) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(x)):
        for j in range(len(y)):
            logit = x[i] @ y[j] / t + bias
            if i == j or keep(i, j):
                total = total + torch.log1p(torch.exp(-logit if i == j else logit))
    return total / len(x)


def hard(x: list[Tensor], y: list[Tensor], t: Tensor, tau_plus: float, beta: float, keep: Keep = others) -> Tensor:
    terms = []
    for _, positive, negative in two_n(x, y, t, keep):
        e = torch.stack(negative).exp()
        weights = e**beta / (e**beta).mean()
        p, n = positive.exp(), len(negative)
        g = torch.maximum(((weights * e).mean() - tau_plus * p) / (1 - tau_plus), torch.exp(-1 / t))
        terms.append(-torch.log(p / (p + n * g)))
    return mean(terms)


def alignment_uniformity(rows: Rows, alpha: float, t: float, weight: float) -> Tensor:
    def distance(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().sum()

    align = pairs_of(rows, lambda x, y: mean([distance(a, b) ** (alpha / 2) for a, b in zip(x, y, strict=True)]))
    spread = []
    for views in rows.values():
        there = [v for v in views if v is not None]
        potentials = [torch.exp(-t * distance(a, b)) for a, b in itertools.combinations(there, 2)]
        spread.append(mean(potentials).log())
    return align + weight * mean(spread)


def by_item(rows: Rows) -> list[dict[str, Tensor]]:
    return [{n: r for n in rows if (r := rows[n][i]) is not None} for i in range(B)]


def mv_infonce(rows: Rows, t: Tensor) -> Tensor:
    items, terms = by_item(rows), []
    for i, own in enumerate(items):
        if len(own) > 1:
            positive = [own[a] @ own[b] / t for a in own for b in own if a != b]
            others = [u @ v / t for u in own.values() for j in range(B) if j != i for v in items[j].values()]
            terms.append(lse([*positive, *others]) - lse(positive))
    return mean(terms)


def mv_dhel(rows: Rows, t: Tensor) -> Tensor:
    items, terms = by_item(rows), []
    for i, own in enumerate(items):
        if len(own) > 1:
            positive = lse([own[a] @ own[b] / t for a, b in itertools.combinations(own, 2)])
            total = -positive
            for n in own:
                total = total + lse([own[n] @ items[j][n] / t for j in range(B) if j != i and n in items[j]])
            terms.append(total)
    return mean(terms)


def poly_view(rows: Rows, t: Tensor, form: str) -> Tensor:
    items, terms = by_item(rows), []
    for i, own in enumerate(items):
        for a in own:
            if form == "sufficient":
                terms.extend(sufficient(items, i, a, t))
                continue
            others = [own[a] @ v / t for j in range(B) if j != i for v in items[j].values()]
            losses = [nll(own[a] @ own[b] / t, others) for b in own if b != a]
            if form == "geometric":
                terms.extend(losses)
            elif losses:
                terms.append(-torch.log(torch.stack([torch.exp(-x) for x in losses]).mean()))
    return mean(terms)


def mean_of_others(own: dict[str, Tensor], a: str) -> Tensor:
    return torch.stack([v for n, v in own.items() if n != a]).mean(0)


def sufficient(items: list[dict[str, Tensor]], i: int, a: str, t: Tensor) -> list[Tensor]:
    if len(items[i]) < 2:
        return []
    means = {j: (m := mean_of_others(own, a)) / m.norm() for j, own in enumerate(items) if a in own and len(own) > 1}
    u = items[i][a]
    return [nll(u @ means[i] / t, [u @ means[j] / t for j in means if j != i])]


def average_view(rows: Rows, t: Tensor, of: Any, renormalise: bool) -> Tensor:
    items, terms = by_item(rows), []
    for a in rows:
        usable = [own for own in items if a in own and len(own) > 1]
        means = [mean_of_others(own, a) for own in usable]
        means = [m / m.norm() for m in means] if renormalise else means
        terms.append(of([own[a] for own in usable], means))
    return mean(terms)


def dhel_of_two(x: list[Tensor], y: list[Tensor], t: Tensor) -> Tensor:
    n, terms = range(len(x)), []
    for i in n:
        spread = lse([x[i] @ x[j] / t for j in n if j != i]) + lse([y[i] @ y[j] / t for j in n if j != i])
        terms.append(spread - x[i] @ y[i] / t)
    return mean(terms)


def cosent(cosines: list[Tensor], scores: list[float], t: Tensor) -> Tensor:
    """Every ordered pair of pairs of which one has the lower score."""
    pairs = list(zip(cosines, scores, strict=True))
    terms = [torch.exp((c - d) / t) for c, low in pairs for d, high in pairs if low < high]
    return torch.log(1 + sum(terms, torch.zeros((), dtype=torch.float64)))


def scored_pairs_of(rows: Rows, scores: Tensor, t: Tensor) -> Tensor:
    """Mean of `cosent` over pairs of names, on the items that have both and a score."""
    terms = []
    for a, b in itertools.combinations(rows, 2):
        both = [i for i in range(B) if rows[a][i] is not None and rows[b][i] is not None and not scores[i].isnan()]
        terms.append(cosent([rows[a][i] @ rows[b][i] for i in both], [scores[i].item() for i in both], t))
    return mean(terms)


def flat(rows: Rows) -> list[tuple[int, Tensor]]:
    return [(i, r) for n in rows for i, r in enumerate(rows[n]) if r is not None]


def supcon(rows: Rows, labels: Tensor, t: Tensor, form: str) -> Tensor:
    every, terms = flat(rows), []
    for k, (i, u) in enumerate(every):
        others = [(j, v) for m, (j, v) in enumerate(every) if m != k]
        alike = [v for j, v in others if j == i or (labels[i] >= 0 and labels[j] == labels[i])]
        if not alike:
            continue
        below = lse([u @ v / t for _, v in others])
        if form == "out":
            terms.append(mean([below - u @ v / t for v in alike]))
        else:
            terms.append(below - (lse([u @ v / t for v in alike]) - math.log(len(alike))))
    return mean(terms)


def symile(factors: list[list[Tensor]], t: Tensor, orders: Any = None) -> Tensor:
    count, n = len(factors), len(factors[0])

    def score(rows: tuple[int, ...]) -> Tensor:
        return torch.stack([factors[m][i] for m, i in enumerate(rows)]).prod(0).sum() / t

    terms = []
    for m in range(count):
        for i in range(n):
            positive = score((i,) * count)
            if orders is None:
                tuples = [r for r in itertools.product(range(n), repeat=count) if r[m] == i and r != (i,) * count]
            else:
                tuples = []
                for j in range(n):
                    if j != i:
                        rest = iter(int(order[j]) for order in orders[m])
                        tuples.append(tuple(i if k == m else next(rest) for k in range(count)))
            terms.append(nll(positive, [score(r) for r in tuples]))
    return mean(terms)


def rank_n_contrast(every: list[tuple[int, Tensor]], y: Tensor, t: Tensor) -> Tensor:
    terms, n = [], range(len(every))

    def far(a: int, b: int) -> Tensor:
        return (y[every[a][0]] - y[every[b][0]]).abs().sum()

    def s(a: int, b: int) -> Tensor:
        return -(every[a][1] - every[b][1]).norm() / t

    for i in n:
        for j in n:
            if i != j:
                terms.append(lse([s(i, k) for k in n if k != i and far(i, k) >= far(i, j)]) - s(i, j))
    return mean(terms)


def conr(every: list[tuple[int, Tensor]], y: Tensor, p: Tensor, t: Tensor, w: float, e: float) -> Tensor:
    """An item of one row is a positive of its own."""
    terms = []
    for k, (i, u) in enumerate(every):
        positive, negative = [], []
        for m, (j, v) in enumerate(every):
            if m == k and sum(item == i for item, _ in every) > 1:
                continue
            if (y[i] - y[j]).norm() <= w:
                positive.append(u @ v / t)
            elif (p[i] - p[j]).norm() <= w:
                negative.append(u @ v / t + e * (y[i] - y[j]).norm())
        if positive and negative:
            terms.append(lse(positive + negative) - mean(positive))
    return mean(terms)


def supremix(
    every: list[tuple[int, Tensor]], y: Tensor, t: Tensor, share: Tensor | None, w: float | None, squared: bool
) -> Tensor:
    """With the mixtures made, as constants. An item of one row is its own positive where it has no other."""
    terms, label = [], [float(y[i]) for i, _ in every]

    def growth(distance: float) -> float:
        return math.log1p(distance**2 if squared else distance)

    for i, (item, u) in enumerate(every):
        columns, positive = [], []
        for k, (_, v) in enumerate(every):
            if k == i:
                continue
            columns.append(u @ v / t + growth(abs(label[i] - label[k])))
            if label[k] == label[i]:
                positive.append(u @ v / t)
            elif share is not None:
                a = share[i, k]
                target = a * label[i] + (1 - a) * label[k]
                mixture = (a * u + (1 - a) * v).detach()
                columns.append(u @ mixture / t + growth(abs(label[i] - target)))
        for (j, (_, a_)), (k, (_, b_)) in itertools.product(enumerate(every), repeat=2):
            if w is not None and label[j] < label[i] < label[k] and label[i] - label[j] < w > label[k] - label[i]:
                a = (label[k] - label[i]) / (label[k] - label[j])
                s = u @ (a * a_ + (1 - a) * b_).detach() / t
                columns.append(s)
                positive.append(s)
        if not positive and [other for other, _ in every].count(item) == 1:
            columns.append(u @ u / t)
            positive.append(u @ u / t)
        if positive:
            terms.append(lse(columns) - mean(positive))
    return mean(terms)


def data(missing: bool) -> dict[str, Any]:
    g = torch.Generator().manual_seed(11)
    present = {n: torch.ones(B, dtype=torch.bool) for n in NAMES}
    if missing:
        present["text"][1] = present["audio"][0] = present["audio"][1] = False
    return {
        "z": {n: torch.randn(B, D, generator=g, dtype=torch.float64).requires_grad_() for n in NAMES},
        "present": present,
        "labels": torch.tensor([0, 1, 0, -1, 1]),
        "targets": torch.tensor([[1.0], [2.0], [2.0], [3.5], [9.0]], dtype=torch.float64),
        "predictions": torch.tensor([[1.0], [1.5], [8.5], [3.0], [2.5]], dtype=torch.float64),
        "sample_id": torch.arange(B),
        "repeats": torch.arange(B),
    }


T = 0.3
CASES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "cosent": ("cosent", {}, lambda r, d, t: scored_pairs_of(r, d["targets"][:, 0], t)),
    "infonce": ("infonce", {}, lambda r, d, t: pairs_of(r, lambda x, y: infonce(x, y, t))),
    "clip": ("clip", {}, lambda r, d, t: pairs_of(r, lambda x, y: clip(x, y, t))),
    "nt-xent": (
        "nt-xent",
        {},
        lambda r, d, t: pairs_of(r, lambda x, y: nt_xent(x, y, t)),
    ),
    "dcl": ("dcl", {}, lambda r, d, t: pairs_of(r, lambda x, y: dcl(x, y, t))),
    "dclw": ("dclw", {"sigma": 0.5}, lambda r, d, t: pairs_of(r, lambda x, y: dclw(x, y, t, 0.5))),
    "siglip": (
        "siglip",
        {"bias": -2.0},
        lambda r, d, t: pairs_of(r, lambda x, y: siglip(x, y, t, torch.tensor(-2.0))),
    ),
    "debiased": (
        "debiased",
        {"tau_plus": 0.2},
        lambda r, d, t: pairs_of(r, lambda x, y: hard(x, y, t, 0.2, 0)),
    ),
    "hcl": ("hcl", {"beta": 0.7}, lambda r, d, t: pairs_of(r, lambda x, y: hard(x, y, t, 0.1, 0.7))),
    "align-uniform": (
        "align-uniform",
        {"alpha": 1.5, "kernel": 1.2, "uniformity": 0.4},
        lambda r, d, t: alignment_uniformity(r, 1.5, 1.2, 0.4),
    ),
    "mv-infonce": ("mv-infonce", {}, lambda r, d, t: mv_infonce(r, t)),
    "mv-dhel": ("mv-dhel", {}, lambda r, d, t: mv_dhel(r, t)),
    "poly-view geometric": ("poly-view", {}, lambda r, d, t: poly_view(r, t, "geometric")),
    "poly-view arithmetic": (
        "poly-view",
        {"form": "arithmetic"},
        lambda r, d, t: poly_view(r, t, "arithmetic"),
    ),
    "poly-view sufficient": (
        "poly-view",
        {"form": "sufficient"},
        lambda r, d, t: poly_view(r, t, "sufficient"),
    ),
    "average-view nt-xent": (
        "average-view",
        {},
        lambda r, d, t: average_view(r, t, lambda x, y: nt_xent(x, y, t), False),
    ),
    "average-view mv-dhel": (
        "average-view",
        {"two_view": "mv-dhel", "renormalise": True},
        lambda r, d, t: average_view(r, t, lambda x, y: dhel_of_two(x, y, t), True),
    ),
    "pairwise": (
        "pairwise",
        {"two_view": "mv-dhel"},
        lambda r, d, t: pairs_of(r, lambda x, y: dhel_of_two(x, y, t)),
    ),
    "supcon out": ("supcon", {}, lambda r, d, t: supcon(r, d["labels"], t, "out")),
    "supcon in": ("supcon", {"form": "in"}, lambda r, d, t: supcon(r, d["labels"], t, "in")),
    "rank-n-contrast": (
        "rank-n-contrast",
        {},
        lambda r, d, t: rank_n_contrast(
            [(i, d["z"][n][i]) for n in NAMES for i in range(B) if d["present"][n][i]], d["targets"], t
        ),
    ),
    "conr": (
        "conr",
        {"window": 1.0, "pushing": 0.3},
        lambda r, d, t: conr(flat(r), d["targets"], d["predictions"], t, 1.0, 0.3),
    ),
    "supremix positives": (
        "supremix",
        {"mixing": "positive", "window": 3.0, "magnify": "squared"},
        lambda r, d, t: supremix(flat(r), d["targets"], t, None, 3.0, True),
    ),
    "supremix none": (
        "supremix",
        {"mixing": "none"},
        lambda r, d, t: supremix(flat(r), d["targets"], t, None, None, False),
    ),
}


CASES |= loss_loops.CASES
ELSEWHERE = loss_loops.ELSEWHERE | {
    "m3col",
    "core-tuning",
    "moit",
    "laso",
    *("codiemb", "distil-scores", "granularities"),  # test_scores.py
    "relation",
    *("sparsemax", "mlcd", "label-prototypes", "multilabel-softmax"),  # test_set_heads.py
    "symile",
    "ts2vec",
    "dbpm",
    "l1",
    "mse",
    "huber",
    "cross-entropy",
    *("asymmetric", "binary-cross-entropy", "label-ranking"),
    *("moco", "moco-v3", "byol", "simsiam", "vicreg", "barlow-twins", "distil", "swav", "dino"),  # test_second_model.py
    "nspt",
    "beclr",
    "clusterns",
    *("dense", "late", "self-guided", "attention"),  # test_inner_states.py
    *("reconstruct", "cmim", "masked-token", "replaced-token"),  # test_decoded.py
}
"""Losses with loops of their own, below or in a file of their name, and heads that call torch's."""


def test_every_loss_has_an_oracle() -> None:
    assert set(LOSSES) == {name for name, _, _ in CASES.values()} | ELSEWHERE


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_loops(case: str, missing: bool) -> None:
    name, fields, oracle = CASES[case]
    d = data(missing)
    tempered = issubclass(LOSSES[name], Tempered)
    if tempered:
        fields = {"temperature": T, "learn_temperature": True, **fields}
    loss = LOSSES[name](**fields).double()
    value = loss(d["z"], **{k: d[k] for k in loss.needs() & d.keys()})
    temperature = torch.tensor(T, dtype=torch.float64, requires_grad=True)
    expected = oracle(unit_rows(d["z"], d["present"]), d, temperature)
    torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-9)
    leaves = list(d["z"].values())
    got = torch.autograd.grad(value, leaves, retain_graph=True)
    for a, b in zip(got, torch.autograd.grad(expected, leaves, retain_graph=True), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
    if tempered:
        (a,) = torch.autograd.grad(value, [loss.log_temperature])
        (b,) = torch.autograd.grad(expected, [temperature])
        torch.testing.assert_close(a, b[None] * T, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("tuples", ["all", "shuffled"])
def test_symile_equals_the_loops(count: int, tuples: str) -> None:
    names = [f"m{k}" for k in range(count)]
    g = torch.Generator().manual_seed(3)
    z = {n: torch.randn(4, D, generator=g, dtype=torch.float64).requires_grad_() for n in names}
    present = {n: torch.ones(4, dtype=torch.bool) for n in names}
    present["m1"][2] = present["m0"][0] = False
    loss = Symile(temperature=T, tuples=tuples).double()
    loss.setup(names, D)
    loss.double()
    value = loss(z, present=present, generator=torch.Generator().manual_seed(7))
    absent = loss.absent / loss.absent.norm(dim=1, keepdim=True)
    factors = [
        [z[n][i] / z[n][i].norm() if present[n][i] else absent[m] for i in range(4)] for m, n in enumerate(names)
    ]
    again = torch.Generator().manual_seed(7)
    orders = [[torch.randperm(4, generator=again) for _ in names[1:]] for _ in names]
    expected = symile(factors, loss.tau, None if tuples == "all" else orders)
    torch.testing.assert_close(value, expected)
    leaves = [*z.values(), loss.absent, loss.log_temperature]
    for a, b in zip(
        torch.autograd.grad(value, leaves, retain_graph=True),
        torch.autograd.grad(expected, leaves),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_symile_of_two_is_clip() -> None:
    d = data(missing=False)
    z = {n: d["z"][n] for n in NAMES[:2]}
    torch.testing.assert_close(LOSSES["symile"](temperature=T)(z), LOSSES["clip"](temperature=T)(z))


@pytest.mark.parametrize("mixing", ["negative", "both"])
def test_supremix_equals_made_mixtures(mixing: str) -> None:
    d = data(missing=True)
    loss = SupReMix(temperature=T, mixing=mixing, window=3.0).double()  # type: ignore[arg-type]
    kwargs = {"targets": d["targets"], "present": d["present"]}
    value = loss(d["z"], **kwargs, generator=torch.Generator().manual_seed(4))
    every = flat(unit_rows(d["z"], d["present"]))
    share = beta(2.0, 8.0, (len(every),) * 2, every[0][1], torch.Generator().manual_seed(4))
    window = 3.0 if mixing == "both" else None
    expected = supremix(every, d["targets"], torch.tensor(T, dtype=torch.float64), share, window, False)
    torch.testing.assert_close(value, expected)
    leaves = list(d["z"].values())
    for a, b in zip(torch.autograd.grad(value, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("mixing", ["negative", "none"])
def test_supremix_without_hard_positives_learns_from_one_view(mixing: str) -> None:
    """Where no two targets are equal, each row is its own positive, and is parted the more from farther targets."""
    loss = SupReMix(temperature=0.5, mixing=mixing).double()  # type: ignore[arg-type]
    x = torch.tensor([[1.0, 0.1], [1.0, -0.1], [1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    value = loss({"image": x}, targets=torch.tensor([[0.0], [1.0], [9.0]]))
    assert not loss.log
    (slope,) = torch.autograd.grad(value, [x])
    assert slope[0, 1] < 0 < slope[1, 1]
    if mixing == "none":
        s = torch.nn.functional.normalize(x.detach(), dim=1)
        s = s @ s.T / 0.5 + torch.tensor([[0.0, 2, 10], [2, 0, 9], [10, 9, 0]]).log().fill_diagonal_(0)
        torch.testing.assert_close(value, (s.logsumexp(1) - s.diagonal()).mean())


def test_supremix_draws_hard_positives_beyond_the_cap() -> None:
    d = data(missing=False)
    some = SupReMix(mixing="positive", window=5.0, max_positives=2)
    value = some(d["z"], targets=d["targets"], generator=torch.Generator().manual_seed(1))
    again = some(d["z"], targets=d["targets"], generator=torch.Generator().manual_seed(1))
    assert torch.equal(value, again)
    assert value != SupReMix(mixing="positive", window=5.0)(d["z"], targets=d["targets"])


WITH_EXCLUDE: dict[str, Any] = {
    "infonce": infonce,
    "clip": clip,
    "siglip": lambda x, y, t, keep: siglip(x, y, t, torch.tensor(-10.0), keep),
    "nt-xent": nt_xent,
    "pairwise": nt_xent,
    "dcl": dcl,
    "debiased": lambda x, y, t, keep: hard(x, y, t, 0.1, 0.0, keep),
    "hcl": lambda x, y, t, keep: hard(x, y, t, 0.1, 1.0, keep),
}


@pytest.mark.parametrize("name", WITH_EXCLUDE)
@pytest.mark.parametrize("exclude", ["labels", "sample_id", "repeats"])
def test_false_negatives_can_be_left_out(name: str, exclude: str) -> None:
    d = data(missing=False)
    z = {n: d["z"][n] for n in NAMES[:2]}
    ids = torch.tensor([3, 4, 3, -1, -1]) if exclude != "repeats" else torch.tensor([3, 4, 3, 5, 6])
    loss = LOSSES[name](exclude=exclude)
    value = loss(z, **{exclude: ids})
    assert value != LOSSES[name](exclude="none")(z)
    # an id per row says nothing
    torch.testing.assert_close(loss(z, **{exclude: torch.arange(B)}), LOSSES[name]()(z))
    if exclude == "repeats":  # None where the data have none
        assert torch.equal(loss(z), LOSSES[name](exclude="none")(z))
    else:
        torch.testing.assert_close(loss(z, **{exclude: torch.full((B,), -1)}), LOSSES[name]()(z))
        with pytest.raises(ValueError, match="has no"):
            loss(z)
    rows = unit_rows(z, {n: torch.ones(B, dtype=torch.bool) for n in z})
    expected = WITH_EXCLUDE[name](
        rows["image"],
        rows["text"],
        torch.tensor(loss.temperature, dtype=torch.float64),
        lambda i, j: i != j and (ids[i] != ids[j] or ids[i] < 0),
    )
    torch.testing.assert_close(value, expected)
    leaves = list(z.values())
    for a, b in zip(torch.autograd.grad(value, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(a, b)


def test_supervised_heads() -> None:
    p = torch.tensor([[1.0, 5.0], [2.0, -3.0]])
    y = torch.tensor([[1.5, torch.nan], [5.0, -3.0]])
    z = {"image": torch.randn(2, 3)}
    errors = torch.tensor([0.5, 3.0, 0.0])
    assert LOSSES["l1"]()(z, predictions=p, targets=y) == pytest.approx(errors.mean().item())
    assert LOSSES["mse"]()(z, predictions=p, targets=y) == pytest.approx(errors.square().mean().item())
    expected = (0.5 * 0.25 + (3 - 0.5)) / 3
    assert LOSSES["huber"]()(z, predictions=p, targets=y) == pytest.approx(expected)
    loss = LOSSES["cross-entropy"]()
    assert loss(z, predictions=p, labels=torch.tensor([-1, 0])) == pytest.approx(math.log1p(math.exp(-5)))
    assert loss.log == {"dropped_labels": 1}
    mixed = {"image": (torch.tensor([1, 0]), 0.7)}
    assert loss(z, predictions=p, labels=torch.tensor([-1, 0]), mixed=mixed) == pytest.approx(0)
    assert loss.log == {"dropped_labels": 2}, "the row without a label, and the one whose partner has none"
    with pytest.raises(ValueError, match="beyond"):
        loss(z, predictions=p, labels=torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="differ in shape"):
        LOSSES["l1"]()(z, predictions=p, targets=y[:, :1])
    sets = torch.tensor([[1.0, 0.0], [torch.nan, torch.nan]])
    loss = LOSSES["binary-cross-entropy"]()
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(5))) / 2  # the first row: 1.0 applies, 5.0 does not
    assert loss(z, predictions=p, label_sets=sets) == pytest.approx(expected)
    assert loss.log == {"dropped_labels": 1}
    with pytest.raises(ValueError, match="differ in shape"):
        loss(z, predictions=p, label_sets=sets[:, :1])
    shares = torch.tensor([[0.8, 0.2], [0.3, 0.7], [0.5, 0.5]])
    loss = LOSSES["mutual-information"]()
    expected = sum(float((s * s.log()).sum()) for s in shares[:2]) / -2 + 0.55 * math.log(0.55) + 0.45 * math.log(0.45)
    assert loss(z, predictions=shares.log() + 3, labels=torch.tensor([-1, -1, 1])) == pytest.approx(expected)
    assert loss(z, predictions=shares.log(), labels=torch.tensor([0, 1, 1])) == 0


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("moco", {"mix": {"top": 8}}, "say how many by pairs, with_query, or both"),
        ("moco", {"by_dimension": True}, "by_dimension changes nothing with neither extrapolate nor interpolate"),
        ("moco", {"pseudo_weight": 1.0}, "pseudo_weight changes nothing with no pseudo_labels"),
        ("cmim", {"contrast": False, "contrast_temperature": 0.2}, "contrast_temperature changes nothing"),
        ("distil", {"form": "margins", "learn_temperature": True}, "learn_temperature changes nothing with form"),
    ],
)
def test_settings_that_change_nothing_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LOSSES[name](**settings)


def test_hardness_of_own_negatives_wants_some() -> None:
    loss = LOSSES["infonce"](hardness=9.0, hardness_of="own")
    with pytest.raises(ValueError, match="name their inputs in negatives"):
        loss({"a": torch.randn(3, 4), "b": torch.randn(3, 4)})


def test_rows_far_from_zero_lose_no_digit() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = 0.03 * torch.randn(8, 4, generator=g) + 30, torch.rand(8, 1, generator=g)
    values = [LOSSES["rank-n-contrast"](temperature=0.1)({"x": z}, targets=y.to(z.dtype)) for z in (x, x.double())]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-5)


def test_sparsemax_of_large_numbers_has_shares() -> None:
    assert LOSSES["sparsemax"]().chances(torch.tensor([[1e7, 1e7, 0.0]])).tolist() == [[0.5, 0.5, 0.0]]


def test_a_rare_row_of_one_view_is_an_anchor_of_conr() -> None:
    """No other target is near it, and a prediction that falls among others is what ConR is to push apart."""
    loss = LOSSES["conr"](temperature=0.5, window=1.0, pushing=0.1).double()
    x = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64, requires_grad=True)
    far, close = torch.tensor([[0.0], [5.0]]), torch.tensor([[0.0], [0.5]])
    value = loss({"image": x}, targets=far, predictions=close)
    assert value.item() == pytest.approx(math.log(math.exp(2) + math.exp(0.5 + 1.2)) - 2)
    value.backward()
    assert x.grad[0] @ x[1] > 0  # a step down parts them
    assert x.grad[1] @ x[0] > 0
    assert not loss.log
    assert loss({"image": x}, targets=far, predictions=far) == 0  # told apart already
    assert loss.log == {"dropped_anchors": 2}


def test_what_is_dropped_is_counted() -> None:
    d = data(missing=False)
    d["present"]["text"][:] = False
    clip = LOSSES["clip"]()
    clip(d["z"], present=d["present"])
    assert clip.log == {"skipped_pairs": 2}
    d["present"]["audio"][1:] = False
    dhel = LOSSES["mv-dhel"]()
    dhel(d["z"], present=d["present"])
    assert dhel.log == {"dropped_anchors": 4}
    supcon = LOSSES["supcon"]()
    supcon({"image": d["z"]["image"]}, labels=torch.tensor([0, 0, 1, -1, 2]))
    assert supcon.log == {"dropped_anchors": 3}
    for name in ("dcl", "dclw"):  # all of one label: nobody has a negative; then one against four
        dcl = LOSSES[name](exclude="labels")
        pair = {"image": d["z"]["image"], "audio": d["z"]["audio"]}
        assert dcl(pair, labels=torch.zeros(5, dtype=torch.long)) == 0
        assert dcl.log == {"dropped_anchors": 10}
        assert dcl(pair, labels=torch.tensor([0, 0, 0, 0, 1])) != 0
        assert not dcl.log
    conr = LOSSES["conr"]()
    conr({"image": d["z"]["image"]}, targets=d["targets"], predictions=d["predictions"])
    assert conr.log["dropped_anchors"] > 0
