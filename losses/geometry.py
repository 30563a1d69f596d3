"""Alignment and uniformity on the sphere."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from clx.losses.base import Embeddings, Loss, average, register, require_two_inputs, zero_loss
from clx.losses.primitives.autograd import at_least_float32, first_order_only, without_autocast
from clx.losses.primitives.edits import Edit, off_diagonal
from clx.losses.primitives.functional import lse, units
from clx.losses.primitives.masks import chosen
from clx.losses.primitives.streaming import cross_rows
from clx.losses.primitives.tiles import is_small, multiplying


def alignment(x: Tensor, y: Tensor, alpha: float = 2.0) -> Tensor:
    """Mean distance of positive pairs `[B, D]`, to the power `alpha`: mean_i |x_i - y_i|^alpha.

    Returns:
        Scalar, at least 0. Pairs that coincide have gradient 0, also for `alpha` up to 1, where the power has none.

    Reference:
        Wang & Isola 2020, arXiv 2005.10242.
    """
    if alpha == 2:
        return functional.mse_loss(x, y, reduction="sum") / len(x)
    squares = (x - y).square().sum(1)
    apart = squares > 0
    return torch.where(apart, torch.where(apart, squares, 1) ** (alpha / 2), 0).mean()


def uniformity(x: Tensor, kernel: float = 2.0) -> Tensor:
    """Log of the mean Gaussian potential of all pairs: log mean_{i < j} exp(-kernel |x_i - x_j|^2).

    Args:
        x: `[B, D]`, B >= 2.
        kernel: positive; the paper's t.

    Returns:
        Scalar in nats, at most 0.

    Reference:
        Wang & Isola 2020, arXiv 2005.10242.
    """
    return _uniformities([x], kernel)[0]


def _uniformities(inputs: Sequence[Tensor], kernel: float) -> Tensor:
    """Uniformity of each of V inputs `[B, D]`, as one tensor `[V]`."""
    size = len(inputs[0])
    if any(len(x) != size for x in inputs):
        return torch.stack([uniformity(x, kernel) for x in inputs])
    if is_small(inputs[0], size):
        return _Uniformities.apply(kernel, *map(at_least_float32, inputs))  # type: ignore[no-any-return, no-untyped-call]
    return torch.stack([lse(potentials(x, kernel, off_diagonal), 0) for x in inputs]) - math.log(size * (size - 1))


def potentials(x: Tensor, kernel: float, edit: Edit | None = None) -> Tensor:
    """log sum_j exp(-kernel |x_i - x_j|^2) of each row of `[B, D]`, over the rows that the edit leaves: `[B]`."""
    x = x - x.detach().mean(0)  # changes no distance, and of rows far from 0 the products would cancel
    # -|a - b|^2 as an inner product, (2a, -|a|^2, -1).(b, 1, |b|^2), so that it can be computed in tiles
    squares = x.square().sum(1, keepdim=True)
    ones = torch.ones_like(squares)
    left, right = torch.cat([2 * x, -squares, -ones], 1), torch.cat([x, ones, squares], 1)
    with multiplying(None):  # the three parts cancel: rounded, near rows would seem far
        return cross_rows(left, right, 1 / kernel, edit)


class _Uniformities(Function):
    """Uniformity of several small inputs `[V]`, all pairs at once."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, kernel: float, *inputs: Tensor) -> Tensor:
        x, size = torch.stack(inputs), len(inputs[0])
        x -= x.mean(1, keepdim=True)  # changes no distance, and of rows far from 0 the products would cancel
        squares = torch.linalg.vecdot(x, x)
        s = torch.baddbmm(squares[:, :, None] + squares[:, None], x, x.mT, beta=-kernel, alpha=2 * kernel)
        s.diagonal(dim1=1, dim2=2).fill_(-math.inf)
        total = s.logsumexp((1, 2))
        ctx.save_for_backward(x, s.sub_(total[:, None, None]).exp_())
        ctx.slope = 4 * kernel
        return total - math.log(size * (size - 1))

    @staticmethod
    @first_order_only
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        dx = torch.baddbmm(w.sum(2, keepdim=True) * x, w, x, beta=-1)
        return None, *dx.mul_(g[:, None, None] * ctx.slope)


@register("align-uniform")
@dataclass(eq=False, kw_only=True)
class AlignUniform(Loss):
    """Alignment over all pairs of names plus the mean uniformity of all names.

    Example:
        >>> x = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])  # evenly on the circle
        >>> loss = AlignUniform()
        >>> round(loss({"image": x, "text": x}).item(), 3)
        -4.396
        >>> collapsed = torch.tensor([[1.0, 0]]).repeat(4, 1)
        >>> round(abs(loss({"image": collapsed, "text": collapsed}).item()), 3)  # aligned as well, but in one point
        0.0
    """

    family = "geometry"
    paper = "Wang & Isola 2020, arXiv 2005.10242"
    formula = "mean_i |x_i - y_i|^alpha + uniformity mean_{z in x, y} log mean_{i < j} exp(-kernel |z_i - z_j|^2)"
    cost = "time O(V B^2 D), memory O(B D)"
    use = "to set the balance of the two effects of contrast, alignment and uniformity, directly"
    fits = ("pairs", "one modality")
    sharpness = "2 kernel, in uniformity"

    alpha: Annotated[float, Gt(0)] = 2.0
    kernel: Annotated[float, Gt(0)] = 2.0
    uniformity: Annotated[float, Ge(0)] = 1.0  # the factor of uniformity; alignment counts 1

    def forward(self, z: Embeddings, *, present: dict[str, Tensor] | None = None) -> Tensor:
        require_two_inputs(z)
        # absent rows may hold anything, NaN too
        u = units(z if present is None else {n: torch.where(present[n][:, None], x, 0) for n, x in z.items()})
        names, inputs = list(itertools.combinations(u, 2)), list(u.values())
        aligned = [(u[a], u[b]) for a, b in names]
        if present is not None:
            rows = chosen([present[a] & present[b] for a, b in names] + [present[n] for n in u])
            aligned = [(x[both], y[both]) for (x, y), both in zip(aligned, rows, strict=False)]
            inputs = [x[there] for x, there in zip(inputs, rows[len(names) :], strict=True)]
        pairs = [alignment(x, y, self.alpha) for x, y in aligned if len(x)]
        skipped = len(names) - len(pairs)
        if skipped:
            self.log["skipped_pairs"] = skipped
        total = average(pairs) if pairs else zero_loss(z)
        inputs = [x for x in inputs if len(x) > 1]
        if not inputs:
            return total
        return torch.add(total, _uniformities(inputs, self.kernel).sum(), alpha=self.uniformity / len(inputs))
