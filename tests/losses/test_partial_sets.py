"""Sets of labels of which some are not known: by loops over what is known, and without effect of what is not."""

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from clx.losses.base import LOSSES
from clx.losses.laso import MEANT, meant
from clx.losses.primitives.alike import by_sets, tree_of
from clx.losses.sparsemax import sparsemax_loss

NAN = math.nan
SETS = torch.tensor(
    [[1, 0, NAN, 0], [NAN, NAN, 1, 0], [0, 0, 0, NAN], [NAN, NAN, NAN, NAN], [1, 1, 0, 0], [NAN, 1, NAN, NAN]],
    dtype=torch.float64,
)
TELLING = [0, 1, 2, 4, 5]
HEADS = ("binary-cross-entropy", "asymmetric", "mlcd", "label-ranking", "sparsemax")


def of_entry(name: str, s: float, y: float) -> float:
    p = 1 / (1 + math.exp(-s))
    if name == "binary-cross-entropy":
        return -math.log(p if y else 1 - p)
    shifted = max(p - 0.05, 0)
    return -((1 - p) * math.log(p)) if y else -(shifted**2) * math.log(1 - shifted)


def of_row(name: str, own: list[float], others: list[float]) -> float:
    if name == "mlcd":
        return math.log(1 + sum(math.exp(-s) for s in own)) + math.log(1 + sum(math.exp(s) for s in others))
    if name == "label-ranking":
        return sum(max(0, 1 - p + n) for p in own for n in others)
    q = torch.tensor([[1 / len(own)] * len(own) + [0.0] * len(others)], dtype=torch.float64)
    return sparsemax_loss(torch.tensor([own + others], dtype=torch.float64), q).item()


def by_loops(name: str, s: Tensor, weights: Tensor | None) -> float:
    """Over the labels that are known, and no others."""
    terms = []
    for i, row in enumerate(SETS.tolist()):
        known = [(s[i, k].item(), y) for k, y in enumerate(row) if y == y]
        w = 1.0 if weights is None else weights[i].item()
        own, others = [v for v, y in known if y], [v for v, y in known if not y]
        if name in ("binary-cross-entropy", "asymmetric"):
            terms += [w * of_entry(name, *each) for each in known]
        elif known and (own or name != "sparsemax"):
            terms.append(w * of_row(name, own, others))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_heads_count_what_is_known_alone(name: str, weighted: bool) -> None:
    draw = torch.Generator().manual_seed(3)
    s = torch.randn(6, 4, generator=draw, dtype=torch.float64).requires_grad_()
    weights = torch.rand(6, generator=draw, dtype=torch.float64) if weighted else None

    def call(predictions: Tensor) -> tuple[Tensor, dict[str, Any]]:
        loss = LOSSES[name]()
        return loss({"x": torch.zeros(6, 2)}, predictions=predictions, label_sets=SETS, weights=weights), loss.log

    value, log = call(s)
    assert value.item() == pytest.approx(by_loops(name, s.detach(), weights), rel=1e-12)
    rows = TELLING if name != "sparsemax" else [0, 1, 4, 5]
    assert log == {"dropped_labels": 6 - len(rows), "unknown_labels": int(SETS[rows].isnan().sum())}
    (g,) = torch.autograd.grad(value, s)
    assert g.isfinite().all()
    assert (g[SETS.isnan()] == 0).all()
    assert g[~SETS.isnan()].abs().sum() > 0
    for anything in (1e9, -1e9, torch.inf, torch.nan):  # stands where nothing is known
        other = s.detach().masked_fill(SETS.isnan(), anything).requires_grad_()
        again, _ = call(other)
        assert again.item() == value.item()
        assert torch.equal(torch.autograd.grad(again, other)[0], g)


@pytest.mark.parametrize("kernel", ["equal", "cosine", "jaccard", "tree", "paths"])
def test_rows_are_alike_by_the_labels_known_of_both(kernel: Any) -> None:
    levels = torch.tensor([[0, 2], [0, 3], [1, 4], [1, 5]])
    tree = tree_of(levels, kernel) if kernel in ("tree", "paths") else None
    found = by_sets(SETS, kernel, tree, torch.float64)(slice(None))
    runs = [((0,), (1,)), ((0, 1),)] if kernel == "paths" else [((0, 1),)]

    def nodes(row: list[float]) -> dict[tuple[int, ...], bool]:
        """What is known of labels and of what stands above them."""
        if tree is None:
            return {(k,): bool(y) for k, y in enumerate(row) if y == y}
        below: dict[tuple[int, ...], list[float]] = {}
        for k, (a, b) in enumerate(levels.tolist()):
            for node in ((0, a), (0, a, b), *([(1, b)] if kernel == "paths" else [])):
                below.setdefault(node, []).append(row[k])
        told = {n: True if 1 in y else False if all(v == 0 for v in y) else None for n, y in below.items()}
        return {n: v for n, v in told.items() if v is not None}

    assert runs
    for i, j in itertools.product(range(6), repeat=2):
        a, b = nodes(SETS[i].tolist()), nodes(SETS[j].tolist())
        both = sorted(a.keys() & b.keys())
        own, theirs = {n for n in both if a[n]}, {n for n in both if b[n]}
        if kernel == "equal":
            wanted = float(bool(both) and own == theirs)
        elif kernel == "cosine":
            wanted = len(own & theirs) / math.sqrt(max(1, len(own) * len(theirs)))
        elif kernel == "paths":
            kinds = [[n for n in own | theirs if (n[0], len(n)) == kind] for kind in ((0, 2), (0, 3), (1, 2))]
            shares = [len([n for n in kind if n in own & theirs]) / len(kind) for kind in kinds if kind]
            wanted = sum(shares) / max(1, len(shares))
        else:
            wanted = len(own & theirs) / max(1, len(own | theirs))
        assert found[i, j].item() == pytest.approx(wanted), (i, j)


def test_sets_known_in_part_that_are_known_whole_are_alike_as_before() -> None:
    sets = SETS.nan_to_num()
    whole = by_sets(sets, "jaccard", None, torch.float64)(slice(None))
    beside = by_sets(torch.cat([sets, SETS[3:4]]), "jaccard", None, torch.float64)(slice(None))
    torch.testing.assert_close(beside[:6, :6], whole)
    assert (beside[6] == 0).all()


def test_what_an_operation_gives_is_known_where_every_completion_agrees() -> None:
    values = torch.tensor([0, 1, NAN])
    a, b = (each.flatten()[:, None] for each in torch.meshgrid(values, values, indexing="ij"))
    low = [x.nan_to_num(nan=0) for x in (a, b)]
    high = [x.nan_to_num(nan=1) for x in (a, b)]
    least, most = meant(low[0], high[0], low[1], high[1]), meant(high[0], low[0], high[1], low[1])
    for k, i in itertools.product(range(len(MEANT)), range(9)):
        ways = [[v] if v == v else [0.0, 1.0] for v in (a[i].item(), b[i].item())]
        told = {meant(*(torch.tensor([[v]]) for v in (x, x, y, y)))[k].item() for x in ways[0] for y in ways[1]}
        assert (least[k, i] == most[k, i]).item() == (len(told) == 1)
        assert len(told) > 1 or least[k, i].item() == told.pop()


def test_operations_learn_from_what_is_known() -> None:
    torch.manual_seed(0)
    loss = LOSSES["laso"]()
    loss.setup(["x"], 5, ["a", "b", "c", "d"])
    loss.double()
    rows = torch.randn(6, 5, dtype=torch.float64)

    def call(bias: float) -> tuple[Tensor, Tensor]:
        """`d` is known of no row, so that what the classifier says of it changes nothing."""
        sets = SETS.clone()
        sets[:, 3] = NAN
        with torch.no_grad():
            loss.classifier.bias[3] = bias
        value = loss({"x": rows}, label_sets=sets, generator=torch.Generator().manual_seed(1))
        return value.detach(), torch.autograd.grad(value, loss.classifier.bias)[0]

    value, g = call(0.0)
    assert value.isfinite()
    assert g[3] == 0
    assert g[:3].abs().min() > 0
    assert call(5.0)[0] == value
    assert loss.log["dropped_labels"] == 1


def test_prototypes_leave_out_rows_that_are_known_in_part() -> None:
    head = SimpleNamespace(rows=torch.eye(4, 5, dtype=torch.float64))
    z = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = []
    for rows in (slice(None), slice(4, 5)):
        loss = LOSSES["label-prototypes"]()
        loss.setup(["x"], 5, list("abcd"))
        found.append(loss({"x": z[rows]}, head=head, label_sets=SETS[rows]).item())
    assert found[0] == pytest.approx(found[1], rel=1e-12)
