"""Log-sum-exp of similarities, tile by tile: no matrix of all pairs is ever built.

`cross` reduces x y^T over rows and over columns, `gram` the symmetric z z^T (upper tiles only); `cube`,
in a file of its own, the inner products of every tuple of rows of several factors. Memory is O(B D + tile),
in float32 or float64. An `Edit` may mask or reweight a tile before it is exponentiated.

They return the log-sum-exp only. A loss whose positive sits in the denominator leaves it out here and writes
`softplus(negatives - positive)`: the same value, and its gradient never takes 1 from a probability near 1.

The exponentials share one shift taken from the Cauchy-Schwarz bound of the logits, so a tile costs one `exp`
and no maximum. Should a sum leave the trusted range, all is redone with a running maximum per row and column.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from clx.losses.primitives.dense import CrossLoss, DenseCross, DenseGram, GramLoss, joined
from clx.losses.primitives.tiles import (
    Edit,
    Grid,
    Sum,
    Weigh,
    budget,
    cooling,
    full,
    inverse,
    longest,
    off_diagonal,
    off_items,
    once,
    plain,
    share,
    shift_for,
    trusted,
)

small_side = 512  # up to so many rows on both sides tiles cost more in bookkeeping than they save
tiny_side = 256  # up to so many it is the number of operations that counts


def unit(x: Tensor) -> Tensor:
    """Rows of `x` `[B, D]` at length 1; a row of zeros stays zero and receives no gradient."""
    return _Units.apply(full(x))[0]  # type: ignore[no-any-return, no-untyped-call]


def units(z: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`unit` of every input: one node in the graph, or with many rows one for each, which needs less memory."""
    if any(len(x) > small_side for x in z.values()):
        return {name: unit(x) for name, x in z.items()}
    return dict(zip(z, _Units.apply(*map(full, z.values())), strict=True))  # type: ignore[no-untyped-call]


def paired(x: Tensor, y: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
    """Scaled similarity of each row of `x` with the same row of `y`, `[B]`."""
    similarity: Tensor = torch.linalg.vecdot(x, y)
    return similarity / temperature


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), exact to float64 (torch's default is not beyond 20); 0 without gradient at -inf."""
    return torch.nn.functional.softplus(x, threshold=40)


def lse(x: Tensor, dim: int) -> Tensor:
    """Log-sum-exp over one dimension; where all is -inf so is the result, and the gradient is 0, not NaN."""
    none = (x.detach() == -math.inf).all(dim, keepdim=True)
    return x.masked_fill(none, 0).logsumexp(dim).masked_fill(none.squeeze(dim), -math.inf)


def mean(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of all entries, 0 of none; each multiplied by its weight, of which the mean should be 1, where given."""
    return (x if weights is None else x * weights.to(x.dtype)).sum() / max(1, x.numel())


def cross(x: Tensor, y: Tensor, temperature: Tensor | float, edit: Edit | None = None) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of `x y^T / temperature` over columns, `[N]`, and over rows, `[M]`.

    Args:
        x, y: `[N, D]` and `[M, D]`.
        temperature: positive number or scalar tensor, which then receives its gradient.
        edit: masks or reweights tiles; a row with nothing left gives -inf and no gradient.
    """
    x, y = full(x), full(y)
    if is_small(x, max(len(x), len(y))):
        both: Tensor = DenseCross.apply(temperature, edit, True, False, x, y)  # type: ignore[no-untyped-call]
        return both[: len(x)], both[len(x) :]
    return _Cross.apply(temperature, edit, True, x, y)  # type: ignore[no-any-return, no-untyped-call]


def rows(x: Tensor, y: Tensor, temperature: Tensor | float, edit: Edit | None = None) -> Tensor:
    """The first half of `cross`, for less: log-sum-exp of `x y^T / temperature` over columns, `[N]`."""
    x, y = full(x), full(y)
    if is_small(x, max(len(x), len(y))):
        return DenseCross.apply(temperature, edit, False, False, x, y)  # type: ignore[no-any-return, no-untyped-call]
    return _Cross.apply(temperature, edit, False, x, y)[0]  # type: ignore[no-any-return, no-untyped-call]


def gram(
    z: Tensor | Sequence[Tensor], temperature: Tensor | float, edit: Edit | None = None, weigh: Weigh | None = None
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of each row of `z z^T / temperature`, `[N]`, and its plain sum weighted by `weigh`, `[N]`.

    Args:
        z: `[N, D]`, or the views whose rows it has under each other; so many times the tiles may be kept for backward.
        temperature: positive number or scalar tensor, which then receives its gradient.
        edit: masks or reweights tiles; nothing is left out without it, not even the diagonal.
        weigh: symmetric tiles of weights for the plain sum of logits before their edit; without it it is 0.
    """
    views = [full(z)] if isinstance(z, Tensor) else list(map(full, z))
    if is_small(views[0], sum(map(len, views))):
        return DenseGram.apply(temperature, edit, weigh, None, *views)  # type: ignore[no-any-return, no-untyped-call]
    return _Gram.apply(temperature, edit, weigh, joined(views), len(views))  # type: ignore[no-any-return, no-untyped-call]


def cross_margins(
    x: Tensor, y: Tensor, temperature: Tensor | float, edit: Edit = off_diagonal, both: bool = True
) -> Tensor:
    """Log-sum-exp over each row's negatives, less its similarity with its partner, the row of the same number.

    Args:
        x, y: `[N, D]`.
        edit: leaves out the partners at least.
        both: from `y` to `x` too.

    Returns:
        `[N]` of `x` among the rows of `y`, with `both` followed by `[N]` of `y` among those of `x`.
    """
    x, y = full(x), full(y)
    if is_small(x, max(len(x), len(y))):
        return DenseCross.apply(temperature, edit, both, True, x, y)  # type: ignore[no-any-return, no-untyped-call]
    positive = paired(x, y, temperature)
    if not both:
        return rows(x, y, temperature, edit) - positive
    return torch.cat([part - positive for part in cross(x, y, temperature, edit)])


def gram_margins(
    x: Tensor, y: Tensor, temperature: Tensor | float, edit: Edit | None = None, weight: Tensor | None = None
) -> Tensor:
    """As `cross_margins`, each row of `[x; y]` among all of these: `[2N]`. `edit` is that of `gram`.

    `weight`, constants `[N]` or one for all, multiplies the similarity with the partner.
    """
    x, y, edit = full(x), full(y), edit or off_items(len(x))
    if is_small(x, 2 * len(x)):
        own = x.new_ones(()) if weight is None else weight
        return DenseGram.apply(temperature, edit, None, own, x, y)[0]  # type: ignore[no-any-return, no-untyped-call]
    log_sum, positive = gram(torch.cat([x, y]), temperature, edit)[0], paired(x, y, temperature)
    return log_sum - (positive if weight is None else positive * weight).repeat(2)


def cross_loss(
    x: Tensor, y: Tensor, temperature: Tensor | float, edit: Edit | None = None, both: bool = True
) -> Tensor:
    """Mean cross-entropy of choosing each row's partner: softplus of `cross_margins`."""
    x, y = full(x), full(y)
    if is_small(x, max(len(x), len(y)), tiny_side):
        return CrossLoss.apply(temperature, edit, both, x, y)  # type: ignore[no-any-return, no-untyped-call]
    return softplus(cross_margins(x, y, temperature, edit or off_diagonal, both)).mean()


def gram_loss(x: Tensor, y: Tensor, temperature: Tensor | float, edit: Edit | None = None) -> Tensor:
    """As `cross_loss`, of `gram_margins`."""
    x, y = full(x), full(y)
    if is_small(x, 2 * len(x), tiny_side):
        return GramLoss.apply(temperature, edit, x, y)  # type: ignore[no-any-return, no-untyped-call]
    return softplus(gram_margins(x, y, temperature, edit)).mean()


def is_small(x: Tensor, size: int, side: int | None = None) -> bool:
    """Whether the logits of `size` rows like those of `x` are taken all at once: on CPU, if they are few."""
    return x.is_cpu and 0 < size <= min(small_side, side or small_side)


class _Units(Function):
    """Several inputs of one shape under each other."""

    @staticmethod
    @plain
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        u = torch.cat(inputs)
        norm = torch.linalg.vector_norm(u, dim=1, keepdim=True)
        inverse = torch.threshold_(norm, 1e-12, math.inf).reciprocal_()
        ctx.save_for_backward(u.mul_(inverse), inverse)
        return u.chunk(len(inputs))

    @staticmethod
    @once
    @plain
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        u, inverse = ctx.saved_tensors
        g = torch.cat(grads)
        return g.addcmul_(u, torch.linalg.vecdot(g, u).unsqueeze(1), value=-1).mul_(inverse).chunk(len(grads))


class _Cross(Function):
    @staticmethod
    @plain
    def forward(
        ctx: Any, temperature: Tensor | float, edit: Edit | None, both: bool, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        scale = inverse(temperature)
        grid, shift = Grid(x, y, scale, edit), shift_for(x, scale * longest(x) * longest(y))
        down, along = Sum(x, len(x), shift), Sum(x, len(y), shift)
        keep = any(ctx.needs_input_grad) and grid.bytes() <= budget(x, y)
        for i, j, e in grid.exponentials(shift, keep):
            down.total[i] += e.sum(1)
            if both:
                along.total[j] += e.sum(0)
        ctx.exact = not (trusted(down.total) and (not both or trusted(along.total)))
        if ctx.exact:
            down, along, grid.kept = Sum(x, len(x), -math.inf), Sum(x, len(y), -math.inf), []
            for i, j, s in grid.logits():
                down.absorb(i, s, 1)
                if both:
                    along.absorb(j, s, 0)
        lse = down.log(), along.log()
        ctx.save_for_backward(x, y, down.total, down.peak, along.total, along.peak)
        ctx.both, ctx.shift, ctx.grid = both, shift, grid
        return lse

    @staticmethod
    @once
    @plain
    def backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor | None, ...]:
        x, y, total, p, other, q = ctx.saved_tensors
        a, b, grid = share(g, total), share(h, other), ctx.grid
        dx, dy, shaped = torch.zeros_like(x), torch.zeros_like(y), grid.buffer()
        for i, j, s in grid.logits() if ctx.exact else grid.exponentials(ctx.shift):
            w = shaped(i, j)
            if ctx.exact:
                torch.sub(s, p[i, None], out=w).exp_().mul_(a[i, None])
                if ctx.both:
                    w.add_(s.sub_(q[j]).exp_().mul_(b[j]))
            elif ctx.both:
                torch.add(a[i, None], b[j], out=w).mul_(s)
            else:
                torch.mul(s, a[i, None], out=w)
            dx[i].addmm_(w, y[j], alpha=grid.scale)
            if ctx.needs_input_grad[4]:
                dy[j].addmm_(w.T, x[i], alpha=grid.scale)
        dt = cooling(dx, x, grid.scale) if ctx.needs_input_grad[0] else None
        return dt, None, None, dx, dy


class _Gram(Function):
    @staticmethod
    @plain
    def forward(
        ctx: Any, temperature: Tensor | float, edit: Edit | None, weigh: Weigh | None, z: Tensor, views: int
    ) -> tuple[Tensor, Tensor]:
        scale = inverse(temperature)
        grid, shift = Grid(z, z, scale, edit, upper=True), shift_for(z, scale * longest(z) ** 2)
        sums, linear = Sum(z, len(z), shift), z.new_zeros(len(z))

        def add_up(i: slice, j: slice, s: Tensor) -> None:
            if weigh is not None:
                weighed = weigh(i, j).mul_(s)
                linear[i] += weighed.sum(1)
                if i != j:
                    linear[j] += weighed.sum(0)

        keep = any(ctx.needs_input_grad) and grid.bytes() <= budget(*[z] * views)
        for i, j, e in grid.exponentials(shift, keep, add_up):
            sums.total[i] += e.sum(1)
            if i != j:
                sums.total[j] += e.sum(0)
        ctx.exact = not trusted(sums.total)
        if ctx.exact:
            sums, grid.kept = Sum(z, len(z), -math.inf), []
            for i, j, s in grid.logits():
                sums.absorb(i, s, 1)
                if i != j:
                    sums.absorb(j, s, 0)
        lse = sums.log()
        ctx.save_for_backward(z, sums.total, sums.peak)
        ctx.shift, ctx.grid, ctx.weigh = shift, grid, weigh
        return lse, linear

    @staticmethod
    @once
    @plain
    def backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor | None, ...]:
        z, total, p = ctx.saved_tensors
        a, grid = share(g, total), ctx.grid
        dz, shaped = torch.zeros_like(z), grid.buffer()
        for i, j, s in grid.logits() if ctx.exact else grid.exponentials(ctx.shift):
            w = shaped(i, j)
            if ctx.exact:
                torch.sub(s, p[i, None], out=w).exp_().mul_(a[i, None])
                w.add_(s.sub_(p[j]).exp_().mul_(a[j]))
            else:
                torch.add(a[i, None], a[j], out=w).mul_(s)
            if ctx.weigh is not None:
                w.addcmul_(ctx.weigh(i, j), h[i, None] + h[j])
            dz[i].addmm_(w, z[j], alpha=grid.scale)
            if i != j:
                dz[j].addmm_(w.T, z[i], alpha=grid.scale)
        # dz counts every pair from both of its rows, the temperature once
        dt = cooling(dz, z, grid.scale / 2) if ctx.needs_input_grad[0] else None
        return dt, None, None, dz, None
