"""Rank-N-Contrast: for each anchor, the other rows are ranked by their distance in the target."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Gt
from torch import Tensor
from torch.autograd import Function

from clx.losses.base import Embeddings, Tempered, register, zero_loss
from clx.losses.primitives.autograd import (
    at_least_float32,
    first_order_only,
    sum_dtype,
    tile_scale,
    without_autocast,
)
from clx.losses.primitives.masks import chosen, stack_present


def rank_n_contrast(z: Tensor, targets: Tensor, temperature: Tensor | float, weights: Tensor | None = None) -> Tensor:
    """Rank-N-Contrast: each other row is a positive once, against all rows at least as far away in the target.

    1/(n (n-1)) sum_i sum_{j != i} -log( exp(s_ij) / sum_{k != i, d_ik >= d_ij} exp(s_ik) ),
    s_ij = -|z_i - z_j| / t (Euclidean), d_ij = |y_i - y_j| (sum of absolute differences)

    Args:
        z: `[N, D]`, not normalised.
        targets: `[N, K]`, without NaN.
        temperature: positive.
        weights: `[N]`, the factor of each anchor's term; 1 by default.

    Returns:
        Scalar in nats; 0 for two rows.

    Reference:
        Zha et al. 2023, arXiv 2210.01189.
    """
    return _RankNC.apply(temperature, targets, weights, at_least_float32(z))  # type: ignore[no-any-return, no-untyped-call]


class _RankNC(Function):
    """The loss and its gradient in one pass over blocks of anchors, O(N^2 (D + log N)).

    With the others of an anchor sorted by target distance, its denominators are suffix sums of exp(s), and the
    gradient of s_ik is exp(s_ik) times the sum of 1 / denominator over all j up to k, less 1.
    """

    @staticmethod
    @without_autocast
    def forward(ctx: Any, temperature: Tensor | float, targets: Tensor, weights: Tensor | None, z: Tensor) -> Tensor:
        n, scale, z = len(z), tile_scale(temperature), z - z.mean(0)
        dz, total, slope = torch.zeros_like(z), z.new_zeros((), dtype=sum_dtype(z)), z.new_zeros((), dtype=sum_dtype(z))
        squares = z.square().sum(1)
        block = max(1, (1 << 24 if z.is_cuda else 1 << 16) // n)
        for start in range(0, n, block):
            part = slice(start, min(start + block, n))
            s = _distances(z, squares, part).mul_(-scale)
            loss, g = _ranked(s, torch.cdist(targets[part], targets, p=1), start)
            if weights is not None:
                loss, g = loss * weights[part], g * weights[part, None].to(g.dtype)
            total += loss.sum()
            if any(ctx.needs_input_grad):
                slope += (g * s).sum(dtype=sum_dtype(s))
                # d|a - b| / da = (a - b) / |a - b|; rows that coincide get no gradient
                w = torch.where(s == 0, 0, g * scale**2 / s)
                dz[part] += w.sum(1, keepdim=True) * z[part] - w @ z
                dz += w.sum(0)[:, None] * z - w.T @ z[part]
        count = n * (n - 1)
        ctx.save_for_backward(dz / count, (-slope * scale / count).to(z.dtype))
        return (total / count).to(z.dtype)

    @staticmethod
    @first_order_only
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        dz, dt = ctx.saved_tensors
        return g * dt if ctx.needs_input_grad[0] else None, None, None, g * dz


def _distances(z: Tensor, squares: Tensor, part: slice) -> Tensor:
    """Euclidean distances `[b, N]` of the rows of `part` from all rows; `squares` are the squared lengths `[N]`.

    The rows should have a mean of 0, which changes no distance: far from there, products cancel.
    """
    d = torch.addmm(squares[part, None] + squares, z[part], z.T, alpha=-2).clamp_(min=0).sqrt_()
    d.diagonal(part.start).zero_()
    return d


def _ties(ordered: Tensor) -> tuple[Tensor, Tensor]:
    """For each column of rows that are sorted, the first and the last column of equal value; both `[b, N]`."""
    place = torch.arange(ordered.shape[1], device=ordered.device)
    edge = ordered[:, 1:] != ordered[:, :-1]
    starts = torch.nn.functional.pad(edge, (1, 0), value=True)
    ends = torch.nn.functional.pad(edge, (0, 1), value=True)
    first = torch.where(starts, place, 0).cummax(1).values
    last = torch.where(ends, place, len(place)).flip(1).cummin(1).values.flip(1)
    return first, last


def _ranked(s: Tensor, distance: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """The loss of each anchor of a block `[b]`, in `sum_dtype`, and its gradient with respect to `s` `[b, N]`."""
    distance.diagonal(start).fill_(-1)  # the anchor itself sorts first and is cut off
    ordered, order = distance.sort(1)
    ordered, order = ordered[:, 1:], order[:, 1:]
    logits = s.gather(1, order)
    first, last = _ties(ordered)  # equal distances share the denominator of the first of them
    peak = logits.amax(1, keepdim=True)
    if logits.is_cpu and float((peak - logits).max()) < 60:
        e = (logits - peak).exp_()
        denominator = e.flip(1).cumsum(1).flip(1).gather(1, first)
        loss = (denominator.log() + peak - logits).sum(1, dtype=sum_dtype(s))
        g = e.mul_(denominator.reciprocal_().cumsum(1).gather(1, last)).sub_(1)
    else:  # exponentials of far rows would underflow, or may: stay in logarithms
        log_sum = logits.flip(1).logcumsumexp(1).flip(1).gather(1, first)
        loss = (log_sum - logits).sum(1, dtype=sum_dtype(s))
        g = (logits + (-log_sum).logcumsumexp(1).gather(1, last)).exp_().sub_(1)
    return loss, torch.zeros_like(s).scatter_(1, order, g)


@register("rank-n-contrast")
@dataclass(eq=False, kw_only=True)
class RankNContrast(Tempered):
    """Rank-N-Contrast over the rows of all names.

    Example:
        >>> targets = torch.tensor([[0.0], [1], [2], [3]])
        >>> loss = RankNContrast()
        >>> round(loss({"image": 9 * targets}, targets=targets).item(), 3)  # distances in the order of the targets
        0.237
        >>> round(loss({"image": 9 * targets[[1, 3, 0, 2]]}, targets=targets).item(), 3)
        3.236
    """

    family = "regression"
    paper = "Zha et al. 2023, arXiv 2210.01189"
    formula = "mean_{i, j != i} lse_{k: |y_i - y_k| >= |y_i - y_j|}(s_ik) - s_ij, s_ij = -|z_i - z_j| / t"
    cost = "time O(V^2 B^2 (D + log VB)), memory O(V B D)"
    use = "a continuous target whose order the embedding should have; train a linear head on it afterwards"
    fits = ("targets",)
    sharpness = "1 / temperature, of Euclidean distances"

    host_reads = 1  # how many rows have a target

    temperature: Annotated[float, Gt(0)] = 2.0

    def forward(
        self,
        z: Embeddings,
        *,
        targets: Tensor,
        present: dict[str, Tensor] | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        x, items = stack_present(z, present)
        y = at_least_float32(targets)[items]
        known = ~y.isnan().any(1)
        self.count("dropped_anchors", (~known).sum())
        if not known.is_cpu or self.log:
            (rows,) = chosen([known])
            x, y, items = x[rows], y[rows], items[rows]
        counted = None if weights is None else weights[items]
        return rank_n_contrast(x, y, self.tau, counted) if len(x) > 1 else zero_loss(z)
