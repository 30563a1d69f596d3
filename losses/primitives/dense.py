"""The primitives on small batches: all logits at once, in as few operations as will do.

Log-sum-exps save the exponentials, without any shift. Where their sums leave the trusted range, the logits are
saved and the softmax is formed from their log-sum-exp. The two losses save their gradient with respect to the logits:
with so few rows it is the number of operations that counts.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from clx.losses.primitives.tiles import Edit, Weigh, cooling, inverse, off_diagonal, once, plain, trusted

NOTHING = {dtype: torch.zeros((), dtype=dtype) for dtype in (torch.float32, torch.float64)}


class DenseCross(Function):
    """Log-sum-exp over columns `[N]`, and with `both` over rows, `[N + M]`; with `own` less the diagonal."""

    @staticmethod
    @plain
    def forward(
        ctx: Any,
        temperature: Tensor | float,
        edit: Edit | None,
        both: bool,
        own: bool,
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
        scale = inverse(temperature)
        e = exponentials(product(x, y.T, scale), edit)
        total = torch.cat([e.sum(1), e.sum(0)]) if both else e.sum(1)
        ctx.wide = not trusted(total)
        if ctx.wide:
            e = logits(product(x, y.T, scale), edit)
            total = torch.cat([e.logsumexp(1), e.logsumexp(0)]) if both else e.logsumexp(1)
        log_sum: Tensor = total.clone() if ctx.wide else total.log()
        ctx.scale, ctx.both, ctx.own = scale, both, own
        if own:
            positive = torch.linalg.vecdot(x, y)  # more exact than the diagonal of the product
            log_sum.sub_(torch.cat([positive, positive]) if both else positive, alpha=scale)
        ctx.save_for_backward(x, y, e, total)
        return log_sum

    @staticmethod
    @once
    @plain
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y, e, total = ctx.saved_tensors
        n = len(x)
        if ctx.wide:
            g, floor = where_any(g, total)
            w = (e - floor[:n, None]).exp_().mul_(g[:n, None])
            if ctx.both:
                w.add_((e - floor[n:]).exp_().mul_(g[n:]))
        else:
            a = g / total
            w = (a[:n, None] + a[n:]).mul_(e) if ctx.both else e * a[:, None]
        if ctx.own:  # minus what the row's other entries add up to, never 1 less than a probability near 1
            w.diagonal().sub_(g[:n] + g[n:] if ctx.both else g)
        needs = ctx.needs_input_grad
        dx = product(w, y, ctx.scale) if needs[0] or needs[4] else None
        dy = product(w.T, x, ctx.scale) if needs[5] else None
        dt = cooling(dx, x, ctx.scale) if dx is not None and needs[0] else None
        return dt, None, None, None, dx, dy


class DenseGram(Function):
    """As `streaming.gram`; of two views less the similarity with the partner, times `own`, if that is given."""

    @staticmethod
    @plain
    def forward(
        ctx: Any,
        temperature: Tensor | float,
        edit: Edit | None,
        weigh: Weigh | None,
        own: Tensor | None,
        *views: Tensor,
    ) -> tuple[Tensor, Tensor]:
        z, scale = joined(views), inverse(temperature)
        s, everything = product(z, z.T, scale), slice(0, len(z))
        weights = None if weigh is None else weigh(everything, everything)
        linear = z.new_zeros(len(z)) if weights is None else (weights * s).sum(1)
        e = exponentials(s, edit)
        total = e.sum(1)
        ctx.wide = not trusted(total)
        if ctx.wide:
            e = logits(product(z, z.T, scale), edit)
            total = e.logsumexp(1)
        log_sum = total if ctx.wide else total.log()
        if own is not None:
            positive = torch.linalg.vecdot(*views).mul_(own)
            log_sum = log_sum.sub(torch.cat([positive, positive]), alpha=scale)
        ctx.save_for_backward(z, e, total, weights)
        ctx.set_materialize_grads(False)
        ctx.scale, ctx.own, ctx.sizes = scale, own, list(map(len, views))
        return log_sum, linear

    @staticmethod
    @once
    @plain
    def backward(ctx: Any, g: Tensor | None, h: Tensor | None) -> tuple[Tensor | None, ...]:
        z, e, total, weights = ctx.saved_tensors
        if g is None:
            g = z.new_zeros(len(z))
        if ctx.wide:
            g, floor = where_any(g, total)
            w = (e - floor[:, None]).exp_().mul_(g[:, None])
            w = w + w.T
        else:
            a = g / total
            w = (a[:, None] + a).mul_(e)
        if weights is not None and h is not None:
            w.addcmul_(weights, h[:, None] + h)
        if ctx.own is not None:
            half = len(z) // 2
            mass = (g[:half] + g[half:]).mul_(ctx.own)
            w.diagonal(half).sub_(mass)
            w.diagonal(-half).sub_(mass)
        dz = product(w, z, ctx.scale)
        # dz counts every pair from both of its rows, the temperature once
        dt = cooling(dz, z, ctx.scale / 2) if ctx.needs_input_grad[0] else None
        return dt, None, None, None, *dz.split(ctx.sizes)


class CrossLoss(Function):
    """Mean cross-entropy of choosing each row's partner, the row of the same number; with `both` from `y` too."""

    @staticmethod
    @plain
    def forward(ctx: Any, temperature: Tensor | float, edit: Edit | None, both: bool, x: Tensor, y: Tensor) -> Tensor:
        scale, count = inverse(temperature), 2 * len(x) if both else len(x)
        s = logits(product(x, y.T, scale), edit)
        s.diagonal().copy_(torch.linalg.vecdot(x, y).mul_(scale))  # more exact than that of the product
        total, w = choices(s, 1, torch.diagonal)
        if both:
            more, v = choices(s, 0, torch.diagonal)
            total, w = total + more, w.add_(v)
        ctx.save_for_backward(x, y, w)
        ctx.scale, ctx.share = scale, scale / count
        return total.div_(-count)

    @staticmethod
    @once
    @plain
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y, w = ctx.saved_tensors
        w, needs = w * g, ctx.needs_input_grad
        dx = product(w, y, ctx.share) if needs[0] or needs[3] else None
        dy = product(w.T, x, ctx.share) if needs[4] else None
        dt = cooling(dx, x, ctx.scale) if dx is not None and needs[0] else None
        return dt, None, None, dx, dy


class GramLoss(Function):
    """As `CrossLoss`, each row of both among all but itself."""

    @staticmethod
    @plain
    def forward(ctx: Any, temperature: Tensor | float, edit: Edit | None, x: Tensor, y: Tensor) -> Tensor:
        z, scale = torch.cat([x, y]), inverse(temperature)
        s = logits(product(z, z.T, scale), edit or off_diagonal)
        partners(s).copy_(torch.linalg.vecdot(x, y).mul_(scale))
        total, w = choices(s, 1, partners)
        ctx.save_for_backward(z, w)
        ctx.scale = scale
        return total.div_(-len(z))

    @staticmethod
    @once
    @plain
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        z, w = ctx.saved_tensors
        dz = product((w + w.T).mul_(g), z, ctx.scale / len(z))  # counts every pair from both of its rows
        dt = cooling(dz, z, ctx.scale / 2) if ctx.needs_input_grad[0] else None
        return dt, None, *dz.chunk(2)


def partners(s: Tensor) -> Tensor:
    """The entries of each row with its partner, half of all rows away, as a view `[2, N / 2]`."""
    n = len(s) // 2
    return s.as_strided((2, n), ((2 * n - 1) * n, 2 * n + 1), n)


def choices(s: Tensor, dim: int, chosen: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Sum along `dim` of the log-probabilities of the `chosen` entries, and minus its gradient with respect to `s`.

    Theirs is the mass of the others, never 1 less a probability near 1.
    """
    w = s.log_softmax(dim)
    own = chosen(w)
    total = own.sum()
    w.exp_()
    own.zero_().sub_(w.sum(dim).view_as(own))
    return total, w


def joined(views: Sequence[Tensor]) -> Tensor:
    """Views under each other."""
    return views[0] if len(views) == 1 else torch.cat(list(views))


def product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """`a b * scale` in one operation."""
    if math.isnan(scale):  # some CPU libraries take an alpha of NaN for 0
        return torch.mm(a, b).mul_(scale)
    return torch.addmm(NOTHING[a.dtype], a, b, beta=0, alpha=scale)


def exponentials(s: Tensor, edit: Edit | None) -> Tensor:
    """Exponentials of the logits `s`, in its memory, after their edit."""
    weights = None if edit is None else edit(s, slice(0, s.shape[0]), slice(0, s.shape[1]))
    return s.exp_() if weights is None else s.exp_().mul_(weights)


def logits(s: Tensor, edit: Edit | None) -> Tensor:
    """The logits `s` themselves after their edit."""
    weights = None if edit is None else edit(s, slice(0, s.shape[0]), slice(0, s.shape[1]))
    return s if weights is None else s.add_(weights.log())


def where_any(g: Tensor, log_sum: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and log-sum-exp with 0 in both where nothing was summed."""
    none = log_sum == -math.inf
    return g.masked_fill(none, 0), log_sum.masked_fill(none, 0)
