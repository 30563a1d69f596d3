"""The Mann-Whitney loss: every positive of the batch above every negative of the batch, whoever's they are."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt
from torch import Tensor
from torch.autograd import Function

from clx.losses.base import register
from clx.losses.further_negatives import Negatives, PairwiseWithNegatives
from clx.losses.pairwise import Ids
from clx.losses.primitives.autograd import first_order_only, nan_unless_finite, sum_dtype
from clx.losses.primitives.blocks import Terms, by_blocks, same_pairs
from clx.losses.primitives.functional import paired_similarity, softplus

DEGREE = 8
"""Of polynomials in (s - p) / t on parts of width 1 / 2: softplus has its nearest pole at i pi, so to 1e-12 exact."""
MOST_AT_ONCE = 128
"""Rows of which each is compared with each positive as it is, in memory of the cube of them."""


def mann_whitney(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    ids: Ids | None = None,
    negatives: Negatives | None = None,
    lowest: float | None = None,
) -> tuple[Tensor, Tensor]:
    """sum over positives p and negatives n of softplus((n - p) / t), and how many negatives there are.

    What all positives together make of a negative is a curve in its similarity alone. Where there are more negatives
    than it takes numbers to know that curve, it is computed once, and each negative looks it up: O(B^2 D), not O(B^3).

    Args:
        x, y: `[B, D]`, unit rows; row i of both is one item, and x_i.y_i a positive. All other pairs are negatives.
        temperature: positive.
        ids: `[B]`; pairs of different rows with equal id are no negatives.
        negatives: rows whose similarity with any row of `x` is a negative, too.
        lowest: what a temperature that is learned is never below.

    Reference:
        Sheikholeslami et al. 2025, arXiv 2510.00137, equation 3, there without t.
    """
    positives, t = paired_similarity(x, y), nan_unless_finite(temperature)
    t = t if isinstance(t, Tensor) else x.new_full((), t)
    parts = math.ceil(4 / (lowest or float(temperature))) + 1
    few = len(x) ** 2 < min(4 * (DEGREE + 1) * parts, MOST_AT_ONCE**2)
    copies = len(x) if few else 1
    curve = positives if few else coefficients(positives, t, parts)

    def summed(leave_out: Callable[[Tensor, slice], Tensor]) -> Terms:
        def terms(s: Tensor, rows: slice, curve: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            out = leave_out(s, rows)
            values = softplus((s[:, :, None] - curve) / t).sum(2) if few else looked_up(s, curve)
            return values.masked_fill(out, 0).sum(), (~out).sum().to(s.dtype)

        return terms

    total, count = by_blocks(summed(same_pairs(ids)), x, y, curve, t, copies=copies)
    if negatives is not None:
        more, besides = by_blocks(summed(negatives.out), x, negatives.rows, curve, t, copies=copies)
        total, count = total + more, count + besides
    return total, count


def coefficients(positives: Tensor, t: Tensor, parts: int) -> Tensor:
    """Of Chebyshev polynomials that are sum_p softplus((s - p) / t) on even parts of [-1, 1], `[parts, DEGREE + 1]`."""
    kind, degrees = sum_dtype(positives), torch.arange(DEGREE + 1, device=positives.device)
    angles = (degrees.to(kind) + 0.5) * (math.pi / (DEGREE + 1))
    places = torch.arange(parts, device=positives.device)[:, None] + (angles.cos() + 1) / 2
    values: Tensor = _Sums.apply(places.flatten() * (2 / parts) - 1, positives.to(kind), t.to(kind))  # type: ignore[no-untyped-call]
    found = values.view(parts, -1) @ (degrees * angles[:, None]).cos() * (2 / (DEGREE + 1))
    return torch.cat([found[:, :1] / 2, found[:, 1:]], 1).to(positives.dtype)


class _Sums(Function):
    """sum_p softplus((s - p) / t) at each of `[N]` places, some places at a time."""

    @staticmethod
    def forward(ctx: Any, places: Tensor, p: Tensor, t: Tensor) -> Tensor:
        ctx.save_for_backward(places, p, t)
        ctx.rows = max(1, (1 << 20) // len(p))
        return torch.cat([softplus((part[:, None] - p) / t).sum(1) for part in places.split(ctx.rows)])

    @staticmethod
    @first_order_only
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        places, p, t = ctx.saved_tensors
        dp, dt = torch.zeros_like(p), torch.zeros_like(t)
        for part, slope in zip(places.split(ctx.rows), g.split(ctx.rows), strict=True):
            a = (part[:, None] - p) / t
            w = a.sigmoid().mul_(slope[:, None] / t)
            dp, dt = dp - w.sum(0), dt - (w * a).sum()
        return None, dp, dt


def looked_up(s: Tensor, curve: Tensor) -> Tensor:
    """What `coefficients` say at similarities of any shape."""
    return _LookUp.apply(s, curve)  # type: ignore[no-any-return, no-untyped-call]


class _LookUp(Function):
    """Clenshaw's sums of a value and its slope."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, curve: Tensor) -> Tensor:
        parts = len(curve)
        scaled = (s + 1) * (parts / 2)
        part = scaled.floor().clamp(0, parts - 1)
        u = (scaled - part).mul_(2).sub_(1)
        place = part.nan_to_num_(0).long()
        columns = curve.T.contiguous()
        b, before, slope, slope_before = (torch.zeros_like(s) for _ in range(4))
        for c in columns[1:].flip(0):
            slope, slope_before = 2 * (b + u * slope) - slope_before, slope
            b, before = c[place] + 2 * u * b - before, b
        ctx.save_for_backward((b + u * slope - slope_before).mul_(parts), u, place)
        ctx.parts = parts
        return columns[0][place] + u * b - before

    @staticmethod
    @first_order_only
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        slope, u, place = ctx.saved_tensors
        place, columns = place.flatten(), []
        first, second = g, g * u
        for _ in range(DEGREE + 1):
            columns.append(g.new_zeros(ctx.parts).index_add_(0, place, first.flatten()))
            first, second = second, 2 * u * second - first
        return g * slope, torch.stack(columns, 1)


@register("mann-whitney")
@dataclass(eq=False, kw_only=True)
class MannWhitney(PairwiseWithNegatives):
    """Every positive of a batch above every negative of it, also of other rows, over all pairs of names.

    InfoNCE compares within a row; this makes scores of different rows comparable, as one threshold for all needs it.

    Example:
        >>> image, text = torch.eye(4), torch.eye(4)
        >>> loss = MannWhitney(temperature=0.5, reduction="mean")
        >>> round(loss({"image": image, "text": text}).item(), 3)
        0.127
        >>> round(loss({"image": image, "text": text.roll(1, 0)}).item(), 3)  # a third of the negatives is at 1
        1.171
    """

    family = "ranking"
    paper = "Sheikholeslami et al. 2025, arXiv 2510.00137"
    formula = "1/B sum_i sum_{n in all negatives of the batch} log(1 + exp((n - x_i.y_i) / t))"
    cost = "time O(B^2 D) per pair of names, memory O(B D)"
    use = "one threshold must hold for the scores of all queries; batches of 16 to 64 with hard negatives in the paper"
    fits = ("pairs",)
    ours = "where the temperature divides: the paper's equation has none, and its experiments name one"

    temperature: Annotated[float, Gt(0)] = 0.01
    reduction: Literal["sum", "mean"] = "sum"  # over negatives; the paper's is the sum, their number times the mean

    def pair(self, x: Tensor, y: Tensor, ids: Ids | None, negatives: Negatives | None = None) -> Tensor:
        lowest = self.min_temperature if self.learn_temperature else None
        total, count = mann_whitney(x, y, self.tau, ids, negatives, lowest)
        return total / len(x) / (count.clamp(min=1) if self.reduction == "mean" else 1)
