"""Log-sum-exp over all tuples of rows of several factors, from one tensor of inner products."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from clx.losses.primitives import ranks, tiles
from clx.losses.primitives.autograd import (
    at_least_float32,
    first_order_only,
    nan_unless_finite,
    temperature_gradient,
    tile_scale,
    without_autocast,
)
from clx.losses.primitives.edits import off_diagonal
from clx.losses.primitives.streaming import cross
from clx.losses.primitives.tiles import (
    ExponentialSum,
    budget,
    even_slices,
    gradient_per_exponential,
    in_trusted_range,
    longest_row,
    over_ranks,
    per_shifted,
    product,
    rounded,
    shift_for,
)

tiny_cube = 1 << 15  # up to so many entries, all at once are faster than slabs


def cube(factors: Sequence[Tensor], temperature: Tensor | float) -> list[Tensor]:
    """For each of M factors `[B, D]`, log-sum-exp over all tuples of rows of the others, own tuple left out.

    Row i of output m is `log sum_{J != (i,..,i)} exp(<r_m[i], r_0[J_0], ...> / temperature)`, where `<...>`
    sums the product of all M rows over D. One tensor of B^M inner products gives all M results.
    """
    if len(factors) == 2:
        return list(cross(factors[0], factors[1], temperature, off_diagonal))
    entries = len(factors[0]) ** len(factors)
    small = factors[0].is_cpu and tiles.multiplied is None and len(factors[0]) > 1 and entries <= tiny_cube
    if small and ranks.sharers(factors[0], entries).size == 1:
        return _at_once(list(map(at_least_float32, factors)), temperature)
    return list(_Cube.apply(temperature, *map(at_least_float32, factors)))  # type: ignore[no-untyped-call]


def _at_once(factors: list[Tensor], temperature: Tensor | float) -> list[Tensor]:
    """`cube` of few entries, in usual operations of torch."""
    count, size = len(factors), len(factors[0])
    left = functools.reduce(lambda a, b: (a[:, None] * b).flatten(0, 1), factors[:-1])
    s = (left @ factors[-1].T).flatten() / nan_unless_finite(temperature)
    own = torch.zeros(len(s), dtype=torch.bool)
    own[:: sum(size**k for k in range(count))] = True  # tuples (i, .., i) are that far apart
    s = s.masked_fill(own, -math.inf).view([size] * count)
    return [s.logsumexp([k for k in range(count) if k != m]) for m in range(count)]


def slab_shape(y: Tensor) -> tuple[int, int]:
    """Most rows of a slab, T * J, and J of these: the fastest on CPU, and enough to fill a GPU."""
    return (1 << 16, 1024) if y.is_cuda else (2048, 128)


class _Slabs:
    """The tensor of inner products of M rows, in slabs `[T * J, K]`.

    T tuples of rows of the leading factors, J rows of the last but one, K rows of the last.
    """

    def __init__(
        self, scale: Tensor | float, factors: tuple[Tensor, ...], world: ranks.World, dtype: torch.dtype | None
    ) -> None:
        *self.leading, self.y, self.z = factors
        self.dtype = dtype  # what both sides of the products are rounded to; None for neither
        self.left: Tensor | float | None = None  # a factor of the last rows that is no factor of the products
        if dtype is not None or isinstance(scale, Tensor):
            self.z, self.left, scale = rounded(self.z * scale, dtype), scale, 1.0
        elif math.isnan(scale):  # some CPU libraries take an alpha of NaN for 0
            self.z, scale = self.z * math.nan, 1.0
        n, self.scale, self.kept = len(self.y), scale, list[Tensor]()
        self.shape = [n] * len(self.leading)
        powers = [n**k for k in reversed(range(len(self.leading)))]
        counter = torch.arange(n ** len(self.leading), device=self.y.device)
        # digits[m][t] is the row of leading factor m in tuple t
        self.digits = [counter.div(k, rounding_mode="floor").remainder(n) for k in powers]
        self.stride = sum(powers)  # tuples (v, .., v) are that far apart
        height, wide = slab_shape(self.y)
        self.middle = self.last = even_slices(n, wide)
        self.part = world.part(len(counter))  # the tuples of this rank
        self.tuples: int = self.part.stop - self.part.start
        self.blocks = even_slices(self.tuples, max(1, height // min(n, wide)), self.part.start)
        self.tall = -(-self.tuples // len(self.blocks)) * -(-n // len(self.middle))
        self.wide = -(-n // len(self.last))

    def bytes(self) -> int:
        return self.tuples * len(self.y) * len(self.z) * self.y.element_size()

    def leading_rows(self, t: slice, skip: int | None = None) -> Tensor:
        """Product of the leading rows of each tuple `[T, D]`, with or without factor `skip`."""
        parts = [r[c[t]] for m, (r, c) in enumerate(zip(self.leading, self.digits, strict=True)) if m != skip]
        return functools.reduce(torch.mul, parts) if parts else self.y.new_ones(())

    def buffer(self, width: int) -> Callable[[int, int], Tensor]:
        room = self.y.new_empty(self.tall * width)
        return lambda rows, columns: room[: rows * columns].view(rows, columns)

    def own(self, s: Tensor, t: slice, j: slice, k: slice) -> Tensor:
        """The entries of a slab whose rows all have the same number: a strided view."""
        first = max(-(-t.start // self.stride), j.start, k.start)
        stop = max(first, min(-(-t.stop // self.stride), j.stop, k.stop))
        height, width = j.stop - j.start, k.stop - k.start
        start = ((first * self.stride - t.start) * height + first - j.start) * width + first - k.start
        step = (self.stride * height + 1) * width + 1
        return s.view(-1)[start : start + (stop - first) * step : step] if stop > first else s.view(-1)[:0]

    def logits(self, keep: bool = False) -> Iterator[tuple[slice, slice, slice, Tensor, Tensor]]:
        """Slabs in order, each with its place and its left side `[T * J, D]`; own tuples are -inf."""
        left, shaped = self.buffer(self.y.shape[1]), self.buffer(self.wide)
        for t, j, k, side in self.places(left):
            if self.dtype is not None:
                s = product(rounded(side, self.dtype), self.z[k].T)
            else:
                s = self.y.new_empty(len(side), k.stop - k.start) if keep else shaped(len(side), k.stop - k.start)
                torch.addmm(s, side, self.z[k].T, beta=0, alpha=self.scale, out=s)
            self.own(s, t, j, k).fill_(-math.inf)
            if keep:
                self.kept.append(s)
            yield t, j, k, side, s

    def places(self, left: Callable[[int, int], Tensor]) -> Iterator[tuple[slice, slice, slice, Tensor]]:
        for t in self.blocks if self.part.start < self.part.stop else []:
            lead = self.leading_rows(t)
            for j in self.middle:
                side = left(len(lead) * (j.stop - j.start), self.y.shape[1])
                torch.mul(lead[:, None], self.y[j], out=side.view(len(lead), -1, self.y.shape[1]))
                for k in self.last:
                    yield t, j, k, side

    def exponentials(self, shift: float, keep: bool = False) -> Iterator[tuple[slice, slice, slice, Tensor, Tensor]]:
        if self.kept:
            places = self.places(self.buffer(self.y.shape[1]))
            for (t, j, k, side), e in zip(places, self.kept, strict=True):
                yield t, j, k, side, e
            return
        for t, j, k, side, s in self.logits(keep):
            yield t, j, k, side, (s.sub_(shift) if shift else s).exp_()

    def add_gradients(self, w: Tensor, side: Tensor, k: slice, of_side: Tensor, of_last: Tensor) -> None:
        """From the gradient `w` of a slab those of its two sides; that of the left one begins with the first K rows."""
        if self.dtype is None:
            torch.addmm(of_side, w, self.z[k], beta=float(k.start > 0), alpha=self.scale, out=of_side)
            of_last[k].addmm_(w.T, side, alpha=self.scale)
            return
        w = rounded(w, self.dtype)
        part = product(w, self.z[k])
        if k.start:
            of_side.add_(part)
        else:
            of_side.copy_(part)
        of_last[k].add_(product(w.T, rounded(side, self.dtype)))


class _Cube(Function):
    @staticmethod
    @without_autocast
    def forward(ctx: Any, temperature: Tensor | float, *factors: Tensor) -> tuple[Tensor, ...]:
        ctx.scale, n, ctx.with_maximum = tile_scale(temperature), len(factors[0]), not factors[0].is_cpu
        world = ctx.world = ranks.sharers(factors[0], n ** len(factors))
        ctx.dtype = tiles.multiplied if factors[0].dtype == torch.float32 else None
        slabs = _Slabs(ctx.scale, factors, world, ctx.dtype)
        tuples = len(slabs.digits[0])
        if not ctx.with_maximum:
            ctx.shift = shift = shift_for(factors[0], ctx.scale * math.prod(map(longest_row, factors)))
            lead, y, z = (ExponentialSum(factors[0], size, shift) for size in (tuples, n, n))
            keep = any(ctx.needs_input_grad) and slabs.bytes() <= budget(*factors)
            for t, j, k, _, e in slabs.exponentials(shift, keep):
                per_row = e.sum(1).view(t.stop - t.start, -1)
                lead.total[t] += per_row.sum(1)
                y.total[j] += per_row.sum(0)
                z.total[k] += e.sum(0)
            ctx.with_maximum = not all(map(in_trusted_range, (lead.total[slabs.part], y.total, z.total)))
        if ctx.with_maximum:
            lead, y, z = (ExponentialSum(factors[0], size, -math.inf) for size in (tuples, n, n))
            slabs.kept = []
            for t, j, k, _, s in slabs.logits():
                per_tuple = s.view(t.stop - t.start, j.stop - j.start, -1)
                lead.absorb(t, per_tuple.flatten(1), 1)
                y.absorb(j, per_tuple.transpose(0, 1).flatten(1), 1)
                z.absorb(k, s, 0)
        sums = [*(lead.fold(slabs.shape, m) for m in range(len(slabs.shape))), y, z]
        over_ranks(world, *sums)
        lse = tuple(part.log() for part in sums)
        ctx.save_for_backward(*factors, *(part.total for part in sums), *(part.peak for part in sums))
        ctx.kept = slabs.kept
        return lse

    @staticmethod
    @first_order_only
    @without_autocast
    def backward(ctx: Any, *g: Tensor) -> tuple[Tensor | None, ...]:
        count = len(g)
        factors, totals, peaks = (ctx.saved_tensors[count * k : count * (k + 1)] for k in range(3))
        slabs = _Slabs(ctx.scale, factors, ctx.world, ctx.dtype)
        slabs.kept = ctx.kept
        per_sum = list(map(gradient_per_exponential, g, totals))
        if ctx.world.size > 1 and not ctx.with_maximum:
            per_sum = [per_shifted(a, p, ctx.shift) for a, p in zip(per_sum, peaks, strict=True)]
        *lead, b, c = per_sum
        grads = [torch.zeros_like(r) for r in factors]
        weights, inner = slabs.buffer(slabs.wide), slabs.buffer(factors[0].shape[1])
        for t, j, k, side, s in slabs.logits() if ctx.with_maximum else slabs.exponentials(ctx.shift):
            w, v = weights(*s.shape), inner(*side.shape)
            cells = t.stop - t.start, j.stop - j.start
            digits = [d[t] for d in slabs.digits]
            if ctx.with_maximum:
                w.zero_()
                for a, p, d in zip(lead, peaks, digits, strict=False):
                    per_tuple = (s.view(cells[0], -1) - p[d][:, None]).exp_().mul_(a[d][:, None])
                    w.add_(per_tuple.view_as(w))
                per_row = (s.view(*cells, -1) - peaks[-2][j, None]).exp_().mul_(b[j, None])
                w.add_(per_row.view_as(w)).add_((s - peaks[-1][k]).exp_().mul_(c[k]))
            else:
                per_tuple = torch.stack([a[d] for a, d in zip(lead, digits, strict=True)]).sum(0)
                per_row = per_tuple[:, None] + b[j]
                torch.add(per_row.view(-1, 1), c[k], out=w).mul_(s)
            slabs.add_gradients(w, side, k, v, grads[-1])
            if k.stop == len(slabs.z):  # v is complete: hand it to the two sides of the outer product
                v3 = v.view(*cells, -1)
                grads[-2][j] += torch.mul(v3, slabs.leading_rows(t)[:, None], out=side.view_as(v3)).sum(0)
                per_tuple = v3.mul_(slabs.y[j]).sum(1)
                for m, d in enumerate(digits):
                    grads[m].index_add_(0, d, per_tuple * slabs.leading_rows(t, skip=m))
        if slabs.left is not None:
            grads[-1].mul_(slabs.left)
        ctx.world.add_up(*grads)
        dt = temperature_gradient(grads[-1], factors[-1], ctx.scale) if ctx.needs_input_grad[0] else None
        return dt, *grads
