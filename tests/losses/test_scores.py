"""Losses of scored pairs and of a teacher's words, against loops and against their authors' numbers."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from clx.losses.base import LOSSES
from clx.losses.codiemb import pearson, preferred, rank_kl
from clx.losses.further_negatives import Negatives
from clx.losses.granularities import disagreement
from clx.losses.infonce import infonce
from clx.losses.listed import listed_kl, margin_mse
from clx.losses.primitives.functional import unit
from golden_case import GOLDEN, Case

B, D = 7, 4


def rows(names: str, seed: int = 3) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {n: torch.randn(B, D, dtype=torch.float64, generator=draw).requires_grad_() for n in names}


def agree(value: Tensor, expected: Tensor, leaves: dict[str, Tensor]) -> None:
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    ours, theirs = (torch.autograd.grad(each, list(leaves.values())) for each in (value, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return a @ b / a.norm() / b.norm()


def codiemb(x: list[Tensor], y: list[float], t: float) -> Tensor:
    n = len(x)
    mx, my = sum(x) / n, sum(y) / n
    cov = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    var, of_y = sum((a - mx) ** 2 for a in x), sum((b - my) ** 2 for b in y)
    total = 2 * (1 - cov / torch.as_tensor(var * of_y).sqrt())
    g = [(sum(b < a for b in y) + (sum(b == a for b in y) - 1) / 2) / (n - 1) for a in y]
    p = torch.tensor(g, dtype=torch.float64).div(t).softmax(0)
    q = torch.stack([a / t for a in x]).log_softmax(0)
    total = total + 5 * sum(a * (a.log() - b) for a, b in zip(p, q, strict=True)) / n
    terms = []
    for k in range(n):
        gaps = {j: y[k] - y[j] for j in range(n) if y[k] - y[j] > 1e-8}
        if gaps:
            own = x[k] / t * max(gaps.values())
            terms.append(torch.stack([own, *(x[j] / t * w for j, w in gaps.items())]).logsumexp(0) - own)
    return total + 0.5 * sum(terms) / len(terms)


@pytest.mark.parametrize("missing", [False, True])
def test_codiemb_equals_the_loops(missing: bool) -> None:
    z, scores = rows("ab"), torch.tensor([0, 2.5, 5, 2.5, 1, 4, 0], dtype=torch.float64)
    present = {n: torch.ones(B, dtype=torch.bool) for n in z}
    if missing:
        present["b"][1], scores[4] = False, torch.nan
    loss = LOSSES["codiemb"](best=5.0)
    value = loss(z, targets=scores[:, None], present=present if missing else None)
    there = [k for k in range(B) if present["b"][k] and not scores[k].isnan()]
    expected = codiemb([cosine(z["a"][k], z["b"][k]) for k in there], [scores[k].item() / 5 for k in there], 0.05)
    agree(value, expected, z)


def test_codiemb_of_pairs_that_tell_nothing() -> None:
    z = rows("ab")
    for scores in (torch.ones(B, 1), torch.full((B, 1), torch.nan)):
        value = LOSSES["codiemb"](rank_kl=0.0)(z, targets=scores.double())
        assert value == 0
        assert not any(g.any() for g in torch.autograd.grad(value, list(z.values())))
    with pytest.raises(ValueError, match="nothing would be learned"):
        LOSSES["codiemb"](pearson=0, rank_kl=0, preferred=0)


@pytest.mark.parametrize("form", ["margins", "softmax"])
@pytest.mark.parametrize("normalise", [False, True])
def test_a_teachers_scores_equal_the_loops(form: str, normalise: bool) -> None:
    z, draw = rows("qpnm"), torch.Generator().manual_seed(1)
    theirs = torch.randn(B, 3, dtype=torch.float64, generator=draw)
    present = {n: torch.ones(B, dtype=torch.bool) for n in z}
    present["n"][2] = present["p"][3] = present["q"][4] = False
    theirs[1, 2] = torch.nan
    fields: dict[str, Any] = {"form": form, "normalise": normalise} | (
        {} if form == "margins" else {"list_temperature": 2.0}
    )
    loss = LOSSES["distil-scores"](**fields)
    terms = []
    for i in range(B):
        here = {k: n for k, n in enumerate("pnm") if present[n][i] and present["q"][i] and not theirs[i, k].isnan()}
        s = {k: (cosine if normalise else torch.dot)(z["q"][i], z[n][i]) for k, n in here.items()}
        if form == "margins":
            terms += [(s[0] - s[k] - (theirs[i, 0] - theirs[i, k])) ** 2 for k in s if k and 0 in s]
        elif len(s) > 1:
            p, q = (torch.stack(list(each)).div(2).log_softmax(0) for each in (s.values(), (theirs[i, k] for k in s)))
            terms.append(4 * (q.exp() * (q - p)).sum())
    agree(loss(z, targets=theirs, present=present), torch.stack(terms).mean(), z)
    if form == "margins":  # as margins themselves
        margins = theirs[:, :1] - theirs[:, 1:]
        torch.testing.assert_close(loss(z, targets=margins, present=present), loss(z, targets=theirs, present=present))


def test_columns_of_scores_go_with_the_inputs() -> None:
    z = rows("qpn")
    for form, width in (("margins", 3), ("softmax", 1)):
        with pytest.raises(ValueError, match="the 2 inputs behind the query, p, n, take as many columns of scores"):
            LOSSES["distil-scores"](form=form)(z, targets=torch.ones(B, width))
    with pytest.raises(ValueError, match="no temperature"):
        LOSSES["distil-scores"](list_temperature=2.0)


def test_granularities_equal_the_loops() -> None:
    z, t = rows("xyw"), 0.3
    present = {n: torch.ones(B, dtype=torch.bool) for n in z}
    present["w"][2] = False
    there, total = [k for k in range(B) if k != 2], torch.zeros((), dtype=torch.float64)
    for i in there:
        p, q = (torch.stack([cosine(z["x"][i], z[n][j]) / t for j in there]).softmax(0) for n in "yw")
        m = (p + q) / 2
        total = total + sum((m * (m / each).log()).sum() for each in (p, q)) / 2 / len(there)
    agree(LOSSES["granularities"](temperature=t)(z, present=present), total, z)
    with pytest.raises(ValueError, match="two others or more"):
        LOSSES["granularities"]().setup(["image", "text"], D)


def every(c: Case) -> Tensor:
    return torch.ones(len(c.labels), dtype=torch.bool)


def candidates(c: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Products of queries and their candidates, the teacher's words, and which count."""
    s = torch.stack([(c.q * c.inputs[n]).sum(1) for n in ("pos", *sorted(k for k in c.inputs if k[:3] == "neg"))], 1)
    return s, c.labels.view(len(s), -1), torch.ones_like(s, dtype=torch.bool)


def slots(c: Case) -> Tensor:
    """Of each positive slot: it among those of all queries, and all negatives; rows as they are."""
    h = c.hyper
    each = c.passages.view(len(c.query), h["positives"] + h["negatives"], -1)
    wrong = Negatives(each[:, h["positives"] :].flatten(0, 1))
    found = [infonce(c.query, each[:, p], h["temperature"], negatives=wrong) for p in range(h["positives"])]
    return torch.stack(found).mean()


def anchored(c: Case) -> Tensor:
    """Of pairs with a score above the threshold: the mean over these alone."""
    right = (c.labels >= c.hyper["threshold"]).double()
    return infonce(c.a, c.b, c.hyper["temperature"], weights=right * len(right) / right.sum())


def in_batch(c: Case) -> Tensor:
    """AnglE's in-batch term: every row of both among all but itself; rows of pairs of label 0 count as 0."""
    z, n, t = unit(torch.cat([c.a, c.b])), len(c.a), c.hyper["tau"]
    logs = (z @ z.T * t).fill_diagonal_(-math.inf).log_softmax(1)
    partner = torch.arange(2 * n).roll(n)
    return -(logs[torch.arange(2 * n), partner] * (c.labels.long() != 0).repeat(2)).mean()


CHECKS = {
    "codiemb_pearson": lambda c: pearson(c.similarity, c.labels, every(c)),
    "codiemb_rankkl": lambda c: rank_kl(c.similarity, c.labels, 0.05, every(c)),
    "codiemb_pro": lambda c: preferred(c.similarity, c.labels, 0.05, every(c)),
    "codiemb_ir": slots,
    "codiemb_sts": anchored,
    "anglelib_ibn": in_batch,
    "st_marginmse": lambda c: margin_mse(*candidates(c)),
    "st_distillkl": lambda c: listed_kl(*candidates(c), c.hyper["temperature"]),
    # the published code takes logarithms of the logits themselves, here positive; not of probabilities
    "mgll_kl": lambda c: disagreement(torch.stack([c.a, c.b], 1).log()) / len(c.a),
}


FILES = [p for p in sorted(GOLDEN.glob("*.npz")) if p.name.startswith(tuple(CHECKS))]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_golden(path: Any) -> None:
    c = Case(path)
    value = next(check for name, check in CHECKS.items() if c.name.startswith(name))(c)
    rate = 1e-6 if c.expected.dtype == torch.float64 else 1e-4
    torch.testing.assert_close(value, c.expected, rtol=rate, atol=rate / 100, check_dtype=False)
    for name, g in c.grads.items():
        (ours,) = torch.autograd.grad(value, [c.inputs[name]], retain_graph=True)
        torch.testing.assert_close(ours, g, rtol=rate, atol=rate / 100, msg=name)
