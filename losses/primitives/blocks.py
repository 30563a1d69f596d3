"""Sums over rows of whatever a row of similarities tells, some rows at a time: for formulas that are no log-sum-exp.

`cross` and `gram` of `streaming` are for those that are: they need a matrix product and an exponential, and nothing of
a tile is kept. Here autograd differentiates a block of rows, in the forward pass and then no more of it is kept, so the
formula may sort, choose the nearest or take weighted means.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from clx.losses.primitives import ranks, tiles
from clx.losses.primitives.autograd import at_least_float32, first_order_only, without_autocast
from clx.losses.primitives.judged import Judged
from clx.losses.primitives.tiles import even_slices, is_small, product, rounded

Terms = Callable[..., tuple[Tensor, ...]]
"""Called with `[b, M]` similarities of a block of rows with all columns, the block's slice of rows, and the tensors
given besides, whole. It returns the sum of what its rows tell `[]`, and further sums without gradient, counts say.
It may change the similarities in place, and must draw nothing."""


FEW = 4096
"""Pairs, so few that the number of operations is what takes time."""


def block_rows(x: Tensor, columns: int) -> int:
    """Rows of a block: 2 MB of similarities on a CPU, whose cache they should stay in, and 128 MB elsewhere."""
    return max(1, (1 << (19 if x.is_cpu else 25)) // max(columns, 1))


def by_blocks(terms: Terms, x: Tensor, y: Tensor, *others: Tensor, copies: int = 1) -> tuple[Tensor, ...]:
    """The sums of `terms` over all rows of `x y^T`, in memory O(N D) beside a block.

    Args:
        terms: of a block.
        x, y: `[N, D]` and `[M, D]`.
        others: tensors of any shape that `terms` needs; those that require a gradient receive it.
        copies: how many times the memory of a block of similarities `terms` needs, where that is many.

    Returns:
        Scalars, of which the first has a gradient. Where `ranks` share the rows, sums over all of them.
    """
    x, y = at_least_float32(x), at_least_float32(y)
    if is_small(x, len(x), columns=len(y)):
        return terms(similarities(x, y), slice(0, len(x)), *others)
    found: tuple[Tensor, ...] = _ByBlocks.apply(terms, copies, x, y, *others)  # type: ignore[no-untyped-call]
    return found


class _Similarities(Function):
    """`x y^T`, in the precision of its inputs in backward too, whatever the autocast."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return x @ y.T

    @staticmethod
    @first_order_only
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        return g @ y if ctx.needs_input_grad[0] else None, g.T @ x if ctx.needs_input_grad[1] else None


class _ByBlocks(Function):
    @staticmethod
    @without_autocast
    def forward(ctx: Any, terms: Terms, copies: int, x: Tensor, y: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        needs, n = ctx.needs_input_grad[2:], len(x)
        world = ranks.sharers(x, n * len(y))
        dtype = tiles.multiplied if x.dtype == torch.float32 else None
        left, right = rounded(x, dtype), rounded(y, dtype)
        leaves = [each.detach().requires_grad_(need) for each, need in zip(others, needs[2:], strict=True)]
        wanted = [each for each in leaves if each.requires_grad]
        gradients = [torch.zeros_like(x), torch.zeros_like(y), *map(torch.zeros_like, wanted)]
        part, totals = world.part(n), []
        for rows in even_slices(part.stop - part.start, block_rows(x, copies * len(y)), part.start):
            s = product(left[rows], right.T)
            if not any(needs):
                totals.append(torch.stack(list(terms(s, rows, *leaves))))
                continue
            with torch.enable_grad():
                s.requires_grad_(needs[0] or needs[1])
                found = terms(s.view_as(s), rows, *leaves)  # a view may be changed in place
            totals.append(torch.stack([each.detach() for each in found]))
            if not found[0].requires_grad:
                continue
            sources = [each for each in (s, *wanted) if each.requires_grad]
            slopes = torch.autograd.grad(found[0], sources, allow_unused=True)
            if s.requires_grad and slopes[0] is not None:
                slope = rounded(slopes[0], dtype)
                gradients[0][rows] = product(slope, right) if needs[0] else 0
                if needs[1]:
                    gradients[1] += product(slope.T, left[rows])
            for gradient, slope in zip(gradients[2:], slopes[len(slopes) - len(wanted) :], strict=True):
                if slope is not None:
                    gradient += slope
        total = torch.stack(totals).sum(0)
        kept = [g for g, need in zip(gradients, (*needs[:2], *[True] * len(wanted)), strict=True) if need]
        world.add_up(total, *kept)
        ctx.save_for_backward(*kept)
        ctx.mark_non_differentiable(*(sums := total.unbind())[1:])
        return sums

    @staticmethod
    @first_order_only
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        kept = iter(ctx.saved_tensors)
        return None, None, *(g * next(kept) if need else None for need in ctx.needs_input_grad[2:])


def similarities(x: Tensor, y: Tensor) -> Tensor:
    """`x y^T` `[N, M]`, all at once, in the precision of its inputs in backward too."""
    return _Similarities.apply(x, y)  # type: ignore[no-any-return, no-untyped-call]


def of_block(x: Tensor, rows: slice) -> Tensor:
    """`x[rows]`, without a place in the graph where these are all."""
    return x if rows.start == 0 and rows.stop == len(x) else x[rows]


def on_self(like: Tensor, rows: slice) -> Tensor:
    """Whether a column is the very row of the block `[b, M]` that it is compared with. Not to be changed in place."""
    if like.numel() <= FEW and like.is_cpu:
        return _on_self(like.shape[1], rows.start, rows.stop)
    place = torch.arange(like.shape[1], device=like.device)
    return place == place[rows, None]


@lru_cache(maxsize=32)
def _on_self(columns: int, start: int, stop: int) -> Tensor:
    with torch.inference_mode(False):  # what is kept must serve a later training step
        place = torch.arange(columns)
        return place == place[start:stop, None]


def without_self(s: Tensor, rows: slice, value: float = -math.inf) -> Tensor:
    """A block in which the similarity of each row with itself is replaced, in place where it is large."""
    if s.numel() <= FEW:  # autograd takes longer to follow a change in place than this copy
        return s.masked_fill(on_self(s, rows), value)
    s.diagonal(rows.start).fill_(value)
    return s


def same_pairs(
    ids: Tensor | Judged | None = None, of_columns: Tensor | None = None
) -> Callable[[Tensor, slice], Tensor]:
    """A function of a block and its rows: which pairs are of one id `[b, M]`, by default of one row.

    Args:
        ids: `[N]`, of the rows, or which of them are alike; with `None` each row has its own.
        of_columns: `[M]`, of the columns; `ids` by default.
    """
    if ids is None:
        return on_self
    if isinstance(ids, Judged):
        return ids.out
    columns = ids if of_columns is None else of_columns
    return lambda s, rows: ids[rows, None] == columns
