"""Log-sum-exp of similarities, tile by tile: no matrix of all pairs is ever built.

`cross` reduces x y^T over rows and over columns, `gram` the symmetric z z^T (upper tiles only); `cube`,
in a file of its own, the inner products of every tuple of rows of several factors. Memory is O(B D + tile),
in float32 or float64. An `Edit` may mask or reweight a tile before it is exponentiated.

They return the log-sum-exp only. A loss with the positive in its denominator leaves it out here and computes
`softplus(negatives - positive)`: the same value, without 1 - p of a probability p near 1 in its gradient.

All exponentials share one shift, from the Cauchy-Schwarz bound of the logits, so a tile costs one `exp` and no
maximum. If a sum leaves the trusted range, everything is computed again with a running maximum per row and column.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from clx.losses.primitives.autograd import (
    at_least_float32,
    first_order_only,
    temperature_gradient,
    tile_scale,
    without_autocast,
)
from clx.losses.primitives.dense import CrossLoss, DenseCross, DenseGram, GramLoss, concatenated
from clx.losses.primitives.edits import Edit, PairWeights, off_diagonal, off_items
from clx.losses.primitives.functional import paired_similarity, softplus
from clx.losses.primitives.tiles import (
    ExponentialSum,
    Grid,
    budget,
    gradient_per_exponential,
    in_trusted_range,
    is_small,
    longest_row,
    over_ranks,
    per_shifted,
    shift_for,
    tiny_side,
)


def cross(x: Tensor, y: Tensor, temperature: Tensor | float, edit: Edit | None = None) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of `x y^T / temperature` over columns, `[N]`, and over rows, `[M]`.

    Args:
        x, y: `[N, D]` and `[M, D]`.
        temperature: positive number or scalar tensor, which then receives its gradient.
        edit: masks or reweights tiles; a row with nothing left gives -inf and no gradient.
    """
    x, y = at_least_float32(x), at_least_float32(y)
    if is_small(x, len(x), columns=len(y)):
        both: Tensor = DenseCross.apply(temperature, edit, True, False, x, y)  # type: ignore[no-untyped-call]
        return both[: len(x)], both[len(x) :]
    return _Cross.apply(temperature, edit, True, x, y)  # type: ignore[no-any-return, no-untyped-call]


def cross_rows(x: Tensor, y: Tensor, temperature: Tensor | float, edit: Edit | None = None) -> Tensor:
    """The first result of `cross` alone, which is cheaper: log-sum-exp of `x y^T / temperature` over columns, `[N]`."""
    x, y = at_least_float32(x), at_least_float32(y)
    if is_small(x, len(x), columns=len(y)):
        return DenseCross.apply(temperature, edit, False, False, x, y)  # type: ignore[no-any-return, no-untyped-call]
    return _Cross.apply(temperature, edit, False, x, y)[0]  # type: ignore[no-any-return, no-untyped-call]


def gram(
    z: Tensor | Sequence[Tensor],
    temperature: Tensor | float,
    edit: Edit | None = None,
    weigh: PairWeights | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of each row of `z z^T / temperature`, `[N]`, and the weighted sum of its logits, `[N]`.

    Args:
        z: `[N, D]`, or views that are concatenated; `budget` of tiles counts the rows once for each view.
        temperature: positive number or scalar tensor, which then receives its gradient.
        edit: masks or reweights tiles; without it every pair counts, those of a row with itself too.
        weigh: symmetric weights of the sum of logits, which are those before the edit; without it the sum is 0.
    """
    views = [at_least_float32(z)] if isinstance(z, Tensor) else list(map(at_least_float32, z))
    if is_small(views[0], sum(map(len, views))):
        return DenseGram.apply(temperature, edit, weigh, None, *views)  # type: ignore[no-any-return, no-untyped-call]
    return _Gram.apply(temperature, edit, weigh, concatenated(views), len(views))  # type: ignore[no-any-return, no-untyped-call]


def cross_margins(
    x: Tensor, y: Tensor, temperature: Tensor | float, edit: Edit = off_diagonal, both: bool = True
) -> Tensor:
    """Log-sum-exp over each row's negatives, less its similarity with its partner, the row of the same number.

    Args:
        x, y: `[N, D]`.
        edit: must leave out each row's partner.
        both: also from `y` to `x`.

    Returns:
        `[N]` of `x` among the rows of `y`, with `both` followed by `[N]` of `y` among those of `x`.
    """
    x, y = at_least_float32(x), at_least_float32(y)
    if is_small(x, len(x), columns=len(y)):
        return DenseCross.apply(temperature, edit, both, True, x, y)  # type: ignore[no-any-return, no-untyped-call]
    positive = paired_similarity(x, y, temperature)
    if not both:
        return cross_rows(x, y, temperature, edit) - positive
    return torch.cat([part - positive for part in cross(x, y, temperature, edit)])


def gram_margins(
    x: Tensor, y: Tensor, temperature: Tensor | float, edit: Edit | None = None, weight: Tensor | None = None
) -> Tensor:
    """As `cross_margins`, but for each row of `[x; y]` among all rows of `[x; y]`: `[2N]`.

    Args:
        x, y: `[N, D]`.
        edit: as for `gram`; by default it leaves out each item's own rows.
        weight: factor of the similarity with the partner, `[N]` or one for all; without gradient.
    """
    x, y, edit = at_least_float32(x), at_least_float32(y), edit or off_items(len(x))
    if is_small(x, 2 * len(x)):
        weight = x.new_ones(()) if weight is None else weight
        return DenseGram.apply(temperature, edit, None, weight, x, y)[0]  # type: ignore[no-any-return, no-untyped-call]
    log_sum, positive = gram(torch.cat([x, y]), temperature, edit)[0], paired_similarity(x, y, temperature)
    return log_sum - (positive if weight is None else positive * weight).repeat(2)


def cross_loss(
    x: Tensor, y: Tensor, temperature: Tensor | float, edit: Edit | None = None, both: bool = True
) -> Tensor:
    """Mean cross-entropy of choosing each row's partner, the mean softplus of `cross_margins`; scalar in nats."""
    x, y = at_least_float32(x), at_least_float32(y)
    if is_small(x, max(len(x), len(y)), tiny_side):
        return CrossLoss.apply(temperature, edit, both, x, y)  # type: ignore[no-any-return, no-untyped-call]
    return softplus(cross_margins(x, y, temperature, edit or off_diagonal, both)).mean()


def gram_loss(x: Tensor, y: Tensor, temperature: Tensor | float, edit: Edit | None = None) -> Tensor:
    """As `cross_loss`, among all rows of `[x; y]`: the mean softplus of `gram_margins`."""
    x, y = at_least_float32(x), at_least_float32(y)
    if is_small(x, 2 * len(x), tiny_side):
        return GramLoss.apply(temperature, edit, x, y)  # type: ignore[no-any-return, no-untyped-call]
    return softplus(gram_margins(x, y, temperature, edit)).mean()


class _Cross(Function):
    @staticmethod
    @without_autocast
    def forward(
        ctx: Any, temperature: Tensor | float, edit: Edit | None, both: bool, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.scale, ctx.both, ctx.with_maximum = tile_scale(temperature), both, not x.is_cpu
        grid = Grid(x, y, ctx.scale, edit)
        if not ctx.with_maximum:
            shift = shift_for(x, ctx.scale * longest_row(x) * longest_row(y))
            down, along = ExponentialSum(x, len(x), shift), ExponentialSum(x, len(y), shift)
            keep = any(ctx.needs_input_grad) and grid.bytes() <= budget(x, y)
            for i, j, e in grid.exponentials(shift, keep):
                down.total[i] += e.sum(1)
                if both:
                    along.total[j] += e.sum(0)
            trusted = in_trusted_range(grid.touched(down.total, 0))
            ctx.with_maximum = not (trusted and (not both or in_trusted_range(grid.touched(along.total, 1))))
            ctx.shift = shift
        if ctx.with_maximum:
            down, along, grid.kept = ExponentialSum(x, len(x), -math.inf), ExponentialSum(x, len(y), -math.inf), []
            for i, j, s in grid.logits():
                down.absorb(i, s, 1)
                if both:
                    along.absorb(j, s, 0)
        over_ranks(grid.world, *([down, along] if both else [down]))
        lse = down.log(), along.log()
        ctx.save_for_backward(x, y, down.total, down.peak, along.total, along.peak)
        ctx.grid = grid
        return lse

    @staticmethod
    @first_order_only
    @without_autocast
    def backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor | None, ...]:
        x, y, total, p, other, q = ctx.saved_tensors
        a, b, grid = gradient_per_exponential(g, total), gradient_per_exponential(h, other), ctx.grid
        if grid.world.size > 1 and not ctx.with_maximum:
            a, b = per_shifted(a, p, ctx.shift), per_shifted(b, q, ctx.shift)
        dx, dy, shaped = torch.zeros_like(x), torch.zeros_like(y), grid.buffer()
        for i, j, s in grid.logits() if ctx.with_maximum else grid.exponentials(ctx.shift):
            w = shaped(i, j)
            if ctx.with_maximum:
                torch.sub(s, p[i, None], out=w).exp_().mul_(a[i, None])
                if ctx.both:
                    w.add_(s.sub_(q[j]).exp_().mul_(b[j]))
            elif ctx.both:
                torch.add(a[i, None], b[j], out=w).mul_(s)
            else:
                torch.mul(s, a[i, None], out=w)
            grid.add_product(dx[i], w, grid.y[j])
            if ctx.needs_input_grad[4]:
                grid.add_product(dy[j], w.T, grid.x[i])
        grid.scale_left(dx)
        needs = ctx.needs_input_grad
        grid.world.add_up(*([dx] if needs[0] or needs[3] else []), *([dy] if needs[4] else []))
        dt = temperature_gradient(dx, x, ctx.scale) if ctx.needs_input_grad[0] else None
        return dt, None, None, dx, dy


class _Gram(Function):
    @staticmethod
    @without_autocast
    def forward(
        ctx: Any, temperature: Tensor | float, edit: Edit | None, weigh: PairWeights | None, z: Tensor, views: int
    ) -> tuple[Tensor, Tensor]:
        ctx.scale, ctx.with_maximum, ctx.weigh = tile_scale(temperature), not z.is_cpu, weigh
        grid, linear = Grid(z, z, ctx.scale, edit, upper=True), z.new_zeros(len(z))

        def add_up(i: slice, j: slice, s: Tensor) -> None:
            if weigh is not None:
                weighed = weigh(i, j).mul_(s)
                linear[i] += weighed.sum(1)
                if i != j:
                    linear[j] += weighed.sum(0)

        if not ctx.with_maximum:
            shift = shift_for(z, ctx.scale * longest_row(z) ** 2)
            sums = ExponentialSum(z, len(z), shift)
            keep = any(ctx.needs_input_grad) and grid.bytes() <= budget(*[z] * views)
            for i, j, e in grid.exponentials(shift, keep, add_up):
                sums.total[i] += e.sum(1)
                if i != j:
                    sums.total[j] += e.sum(0)
            ctx.shift, ctx.with_maximum = shift, not in_trusted_range(grid.touched(sums.total, 0, 1))
            before_edit = None  # all linear terms are added up
        else:
            before_edit = add_up
        if ctx.with_maximum:
            sums, grid.kept = ExponentialSum(z, len(z), -math.inf), []
            for i, j, s in grid.logits(before_edit):
                sums.absorb(i, s, 1)
                if i != j:
                    sums.absorb(j, s, 0)
        over_ranks(grid.world, sums, beside=[] if weigh is None else [linear])
        lse = sums.log()
        ctx.save_for_backward(z, sums.total, sums.peak)
        ctx.grid = grid
        return lse, linear

    @staticmethod
    @first_order_only
    @without_autocast
    def backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor | None, ...]:
        z, total, p = ctx.saved_tensors
        a, grid = gradient_per_exponential(g, total), ctx.grid
        if grid.world.size > 1 and not ctx.with_maximum:
            a = per_shifted(a, p, ctx.shift)
        dz, shaped = torch.zeros_like(z), grid.buffer()
        for i, j, s in grid.logits() if ctx.with_maximum else grid.exponentials(ctx.shift):
            w = shaped(i, j)
            if ctx.with_maximum:
                torch.sub(s, p[i, None], out=w).exp_().mul_(a[i, None])
                w.add_(s.sub_(p[j]).exp_().mul_(a[j]))
            else:
                torch.add(a[i, None], a[j], out=w).mul_(s)
            if ctx.weigh is not None:
                w.addcmul_(ctx.weigh(i, j), h[i, None] + h[j])
            grid.add_product(dz[i], w, grid.y[j])
            if i != j:
                grid.add_product(dz[j], w.T, grid.y[i])
        grid.scale_left(dz)
        grid.world.add_up(dz)
        # dz has every pair twice, once from each of its rows; the temperature has it once
        dt = temperature_gradient(dz, z, ctx.scale / 2) if ctx.needs_input_grad[0] else None
        return dt, None, None, dz, None
