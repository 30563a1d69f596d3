"""The primitives on small batches on CPU: all logits at once, in as few operations as possible.

Log-sum-exps save the exponentials, not shifted, for backward. Where a sum leaves the trusted range, the logits are
saved instead and the softmax is formed from their log-sum-exp. The two losses save their gradient with respect to the
logits: with so few rows, time goes with the number of operations.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from clx.losses.primitives.autograd import first_order_only, inverse_temperature, temperature_gradient, without_autocast
from clx.losses.primitives.edits import Edit, PairWeights, off_diagonal
from clx.losses.primitives.tiles import in_trusted_range

ZERO = {dtype: torch.zeros((), dtype=dtype) for dtype in (torch.float32, torch.float64)}


class DenseCross(Function):
    """Log-sum-exp over columns `[N]`, with `both` followed by that over rows `[M]`.

    With `minus_positive` the similarity of each row with its partner, the diagonal, is subtracted.
    """

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any,
        temperature: Tensor | float,
        edit: Edit | None,
        both: bool,
        minus_positive: bool,
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
        scale = inverse_temperature(temperature)
        e = exponentials(scaled_product(x, y.T, scale), edit)
        total = torch.cat([e.sum(1), e.sum(0)]) if both else e.sum(1)
        ctx.in_logarithms = not in_trusted_range(total)
        if ctx.in_logarithms:
            e = logits(scaled_product(x, y.T, scale), edit)
            total = torch.cat([e.logsumexp(1), e.logsumexp(0)]) if both else e.logsumexp(1)
        log_sum: Tensor = total.clone() if ctx.in_logarithms else total.log()
        ctx.scale, ctx.both, ctx.minus_positive = scale, both, minus_positive
        if minus_positive:
            positive = torch.linalg.vecdot(x, y)  # more exact than the diagonal of the product
            log_sum.sub_(torch.cat([positive, positive]) if both else positive, alpha=scale)
        ctx.save_for_backward(x, y, e, total)
        return log_sum

    @staticmethod
    @first_order_only
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y, e, total = ctx.saved_tensors
        n = len(x)
        if ctx.in_logarithms:
            g, floor = without_empty_sums(g, total)
            w = (e - floor[:n, None]).exp_().mul_(g[:n, None])
            if ctx.both:
                w.add_((e - floor[n:]).exp_().mul_(g[n:]))
        else:
            a = g / total
            w = (a[:n, None] + a[n:]).mul_(e) if ctx.both else e * a[:, None]
        if ctx.minus_positive:  # so the positive's gradient is minus the sum of the others': no 1 - p of a p near 1
            w.diagonal().sub_(g[:n] + g[n:] if ctx.both else g)
        needs = ctx.needs_input_grad
        dx = scaled_product(w, y, ctx.scale) if needs[0] or needs[4] else None
        dy = scaled_product(w.T, x, ctx.scale) if needs[5] else None
        dt = temperature_gradient(dx, x, ctx.scale) if dx is not None and needs[0] else None
        return dt, None, None, None, dx, dy


class DenseGram(Function):
    """As `streaming.gram`. With `positive_weight`, of two views, that weight times the similarity of each row with its
    partner is subtracted."""

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any,
        temperature: Tensor | float,
        edit: Edit | None,
        weigh: PairWeights | None,
        positive_weight: Tensor | None,
        *views: Tensor,
    ) -> tuple[Tensor, Tensor]:
        z, scale = concatenated(views), inverse_temperature(temperature)
        s, all_rows = scaled_product(z, z.T, scale), slice(0, len(z))
        weights = None if weigh is None else weigh(all_rows, all_rows)
        linear = z.new_zeros(len(z)) if weights is None else (weights * s).sum(1)
        e = exponentials(s, edit)
        total = e.sum(1)
        ctx.in_logarithms = not in_trusted_range(total)
        if ctx.in_logarithms:
            e = logits(scaled_product(z, z.T, scale), edit)
            total = e.logsumexp(1)
        log_sum = total if ctx.in_logarithms else total.log()
        if positive_weight is not None:
            positive = torch.linalg.vecdot(*views).mul_(positive_weight)
            log_sum = log_sum.sub(torch.cat([positive, positive]), alpha=scale)
        ctx.save_for_backward(z, e, total, weights)
        ctx.set_materialize_grads(False)
        ctx.scale, ctx.positive_weight, ctx.sizes = scale, positive_weight, list(map(len, views))
        return log_sum, linear

    @staticmethod
    @first_order_only
    @without_autocast
    def backward(ctx: Any, g: Tensor | None, h: Tensor | None) -> tuple[Tensor | None, ...]:
        z, e, total, weights = ctx.saved_tensors
        if g is None:
            g = z.new_zeros(len(z))
        if ctx.in_logarithms:
            g, floor = without_empty_sums(g, total)
            w = (e - floor[:, None]).exp_().mul_(g[:, None])
            w = w + w.T
        else:
            a = g / total
            w = (a[:, None] + a).mul_(e)
        if weights is not None and h is not None:
            w.addcmul_(weights, h[:, None] + h)
        if ctx.positive_weight is not None:
            half = len(z) // 2
            mass = (g[:half] + g[half:]).mul_(ctx.positive_weight)
            w.diagonal(half).sub_(mass)
            w.diagonal(-half).sub_(mass)
        dz = scaled_product(w, z, ctx.scale)
        # dz has every pair twice, once from each of its rows; the temperature has it once
        dt = temperature_gradient(dz, z, ctx.scale / 2) if ctx.needs_input_grad[0] else None
        return dt, None, None, None, *dz.split(ctx.sizes)


class CrossLoss(Function):
    """Mean cross-entropy of choosing each row's partner, the row of the same number; with `both` in both directions."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, temperature: Tensor | float, edit: Edit | None, both: bool, x: Tensor, y: Tensor) -> Tensor:
        scale, count = inverse_temperature(temperature), 2 * len(x) if both else len(x)
        s = logits(scaled_product(x, y.T, scale), edit)
        s.diagonal().copy_(torch.linalg.vecdot(x, y).mul_(scale))  # more exact than the diagonal of the product
        total, w = log_probability_of(s, 1, torch.diagonal)
        if both:
            more, v = log_probability_of(s, 0, torch.diagonal)
            total, w = total + more, w.add_(v)
        ctx.save_for_backward(x, y, w)
        ctx.scale, ctx.share = scale, scale / count
        return total.div_(-count)

    @staticmethod
    @first_order_only
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y, w = ctx.saved_tensors
        w, needs = w * g, ctx.needs_input_grad
        dx = scaled_product(w, y, ctx.share) if needs[0] or needs[3] else None
        dy = scaled_product(w.T, x, ctx.share) if needs[4] else None
        dt = temperature_gradient(dx, x, ctx.scale) if dx is not None and needs[0] else None
        return dt, None, None, dx, dy


class GramLoss(Function):
    """As `CrossLoss`, each row of both among all but itself."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, temperature: Tensor | float, edit: Edit | None, x: Tensor, y: Tensor) -> Tensor:
        z, scale = torch.cat([x, y]), inverse_temperature(temperature)
        s = logits(scaled_product(z, z.T, scale), edit or off_diagonal)
        partners(s).copy_(torch.linalg.vecdot(x, y).mul_(scale))
        total, w = log_probability_of(s, 1, partners)
        ctx.save_for_backward(z, w)
        ctx.scale = scale
        return total.div_(-len(z))

    @staticmethod
    @first_order_only
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        z, w = ctx.saved_tensors
        dz = scaled_product((w + w.T).mul_(g), z, ctx.scale / len(z))  # every pair twice, once from each of its rows
        dt = temperature_gradient(dz, z, ctx.scale / 2) if ctx.needs_input_grad[0] else None
        return dt, None, *dz.chunk(2)


def partners(s: Tensor) -> Tensor:
    """The entries of `s` `[N, N]` for each row and its partner, the row N / 2 away, as a view `[2, N / 2]`."""
    n = len(s) // 2
    return s.as_strided((2, n), ((2 * n - 1) * n, 2 * n + 1), n)


def log_probability_of(s: Tensor, dim: int, chosen: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Sum of the log-probabilities of the `chosen` entries, softmax along `dim`, and minus its gradient in `s`.

    The gradient of a chosen entry is the sum of the other probabilities, not 1 - p, which is inexact for p near 1.
    """
    w = s.log_softmax(dim)
    picked = chosen(w)
    total = picked.sum()
    w.exp_()
    picked.zero_().sub_(w.sum(dim).view_as(picked))
    return total, w


def concatenated(views: Sequence[Tensor]) -> Tensor:
    """The rows of all views, in order of the views."""
    return views[0] if len(views) == 1 else torch.cat(list(views))


def scaled_product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """`scale * a b` in one operation."""
    if math.isnan(scale):  # some CPU libraries take an alpha of NaN for 0
        return torch.mm(a, b).mul_(scale)
    return torch.addmm(ZERO[a.dtype], a, b, beta=0, alpha=scale)


def exponentials(s: Tensor, edit: Edit | None) -> Tensor:
    """Exponentials of the logits `s` after their edit, in the memory of `s`."""
    weights = None if edit is None else edit(s, slice(0, s.shape[0]), slice(0, s.shape[1]))
    return s.exp_() if weights is None else s.exp_().mul_(weights)


def logits(s: Tensor, edit: Edit | None) -> Tensor:
    """The logits `s` after their edit, in the memory of `s`."""
    weights = None if edit is None else edit(s, slice(0, s.shape[0]), slice(0, s.shape[1]))
    return s if weights is None else s.add_(weights.log())


def without_empty_sums(g: Tensor, log_sum: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and log-sum-exp with 0 in both where nothing was summed."""
    empty = log_sum == -math.inf
    return g.masked_fill(empty, 0), log_sum.masked_fill(empty, 0)
