"""SigLIP: for every pair of the batch, the binary question whether it belongs together."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from annotated_types import Gt
from torch import Tensor, nn
from torch.autograd import Function

from clx.losses.base import register
from clx.losses.further_negatives import Negatives, WeightedWithNegatives
from clx.losses.infonce import other_rows
from clx.losses.pairwise import WEIGHED, Ids
from clx.losses.primitives.autograd import (
    at_least_float32,
    first_order_only,
    inverse_temperature,
    sum_dtype,
    temperature_gradient,
    tile_scale,
    without_autocast,
)
from clx.losses.primitives.blocks import same_pairs
from clx.losses.primitives.dense import scaled_product
from clx.losses.primitives.edits import Edit
from clx.losses.primitives.functional import paired_similarity, softplus
from clx.losses.primitives.judged import Judged
from clx.losses.primitives.tiles import Grid, is_small, longest_row


def siglip(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    bias: Tensor | float,
    ids: Ids | None = None,
    weights: Tensor | None = None,
    negatives: Negatives | None = None,
) -> Tensor:
    """Sigmoid loss over all pairs, and over those of the rows of `x` with further negatives n, divided by the rows.

    1/B [ sum_ij softplus(-s_ij (x_i.y_j / t + b)) + sum_ik softplus(x_i.n_k / t + b) ], s_ij = 1 if i = j, else -1

    Args:
        x, y: `[B, D]`, unit rows; row i of both is one item.
        temperature: positive.
        bias: added to every logit.
        ids: `[B]`; pairs of different rows with equal id are left out.
        weights: `[B]`; a pair counts by the mean of its two rows', one with a further negative by the row of `x`.
        negatives: rows that are no partner of any row of `x`.

    Returns:
        Scalar in nats; a batch of one leaves its positive term, and those of further negatives.

    Reference:
        Zhai et al. 2023, arXiv 2303.15343.
    """
    x, y = at_least_float32(x), at_least_float32(y)
    half = None if weights is None else weights.to(x.dtype) / 2
    found = _among_rows(x, y, temperature, bias, ids, half)
    if negatives is None:
        return found / len(x)
    of = None if half is None else (2 * half, half.new_zeros(len(negatives.rows)))
    return (found + _of_negatives(temperature, bias, negatives.edit, of, x, negatives.rows)) / len(x)


def _among_rows(
    x: Tensor, y: Tensor, temperature: Tensor | float, bias: Tensor | float, ids: Ids | None, half: Tensor | None
) -> Tensor:
    """The sum over the pairs of the rows of `x` and `y`."""
    if is_small(x, max(len(x), len(y))):
        value: Tensor = _Dense.apply(temperature, bias, ids, half, x, y)  # type: ignore[no-untyped-call]
        return value
    negative = _of_negatives(temperature, bias, other_rows(ids), None if half is None else (half, half), x, y)
    own = softplus(-paired_similarity(x, y, temperature) - bias)
    return (own if half is None else own * 2 * half).sum() + negative


def _of_negatives(
    temperature: Tensor | float,
    bias: Tensor | float,
    edit: Edit | None,
    weights: tuple[Tensor, Tensor] | None,
    x: Tensor,
    n: Tensor,
) -> Tensor:
    """The sum over pairs that do not belong together; `weights` of rows and of columns are added up for each pair."""
    value: Tensor = _Negatives.apply(temperature, bias, edit, weights, x, at_least_float32(n))  # type: ignore[no-untyped-call]
    return value


class _Dense(Function):
    """The sum over all pairs of a small batch, all logits at once."""

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any,
        temperature: Tensor | float,
        bias: Tensor | float,
        ids: Ids | None,
        half: Tensor | None,
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
        scale = inverse_temperature(temperature)
        s = scaled_product(x, y.T, scale).add_(float(bias))
        s.diagonal().neg_()
        if ids is not None:
            either = ids.from_either() if isinstance(ids, Judged) else ids
            s.masked_fill_(same_pairs(either)(s, slice(0, len(s))).fill_diagonal_(False), -torch.inf)
        w, terms = s.sigmoid(), softplus(s)
        w.diagonal().neg_()
        if half is not None:
            w, terms = w.mul_(half[:, None] + half), terms.mul_(half[:, None] + half)
        ctx.save_for_backward(x, y, w)
        ctx.scale = scale
        return terms.sum()

    @staticmethod
    @first_order_only
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y, w = ctx.saved_tensors
        needs = ctx.needs_input_grad
        step = g * ctx.scale
        dx = torch.mm(w, y).mul_(step) if needs[0] or needs[4] else None
        dy = torch.mm(w.T, x).mul_(step) if needs[5] else None
        dt = temperature_gradient(dx, x, ctx.scale) if dx is not None and needs[0] else None
        return dt, g * w.sum() if needs[1] else None, None, None, dx, dy


def _weighted(terms: Tensor, of_rows: Tensor, of_columns: Tensor) -> Tensor:
    return (of_rows @ terms).sum() + (terms @ of_columns).sum()


class _Negatives(Function):
    """Sum of softplus(x y^T / t + b) over the pairs that the edit keeps; the same pass computes the gradient."""

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any,
        temperature: Tensor | float,
        bias: Tensor | float,
        edit: Edit | None,
        weights: tuple[Tensor, Tensor] | None,
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
        scale, look = tile_scale(temperature), x.is_cpu
        offset: Tensor | float = float(bias) if look or not isinstance(bias, Tensor) else bias.detach()
        grid, wanted = Grid(x, y, scale, edit), any(ctx.needs_input_grad)
        # where exp cannot overflow, the fast formula is exact
        small = look and scale * longest_row(x) * longest_row(y) + abs(float(offset)) < 80
        dx, dy = torch.zeros_like(x), torch.zeros_like(y)
        total, slope, shaped = x.new_zeros((), dtype=sum_dtype(x)), x.new_zeros((), dtype=sum_dtype(x)), grid.buffer()
        for i, j, s in grid.logits():
            s.add_(offset)
            w = shaped(i, j)
            if small:
                terms = torch.log1p(s.exp_(), out=w)
                total += terms.sum() if weights is None else _weighted(terms, weights[0][i], weights[1][j])
                torch.add(s, 1, out=w)
                torch.div(s, w, out=w)
            else:
                terms = softplus(s)
                total += terms.sum() if weights is None else _weighted(terms, weights[0][i], weights[1][j])
                torch.sigmoid(s, out=w)
            if wanted:
                if weights is not None:
                    w.mul_(weights[0][i, None] + weights[1][j])
                slope += w.sum()
                grid.add_product(dx[i], w, grid.y[j])
                grid.add_product(dy[j], w.T, grid.x[i])
        grid.scale_left(dx)
        grid.world.add_up(total, slope, *([dx, dy] if wanted else []))
        dt = temperature_gradient(dx, x, scale) if ctx.needs_input_grad[0] else None
        ctx.save_for_backward(dt, slope.to(x.dtype), dx, dy)
        return total.to(x.dtype)

    @staticmethod
    @first_order_only
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        dt, db, dx, dy = ctx.saved_tensors
        db = g * db if ctx.needs_input_grad[1] else None
        return None if dt is None else g * dt, db, None, None, g * dx, g * dy


@register("siglip")
@dataclass(eq=False, kw_only=True)
class SigLIP(WeightedWithNegatives):
    """Sigmoid loss over all pairs of names, with temperature and bias learned as in the paper.

    Columns of negatives are further pairs that do not belong together, of the rows of the first of two names.

    Example:
        >>> image, text = torch.eye(4), torch.eye(4)
        >>> loss = SigLIP()
        >>> round(loss({"image": image, "text": text}).item(), 3)  # 10 of similarity, -10 of bias: log 2 for each pair
        0.693
        >>> round(loss({"image": image, "text": text.roll(1, 0)}).item(), 3)
        10.693
        >>> wrong = {"wrong": torch.tensor([[1.0, 0, 0, 0]])}  # a negative of all, also of the image that is like it
        >>> round(loss({"image": image, "text": text}, negatives=wrong).item(), 3)
        0.867
    """

    family = "sigmoid"
    paper = "Zhai et al. 2023, arXiv 2303.15343"
    formula = "1/B sum_ij softplus(-s_ij (x_i.y_j / t + b)), s = 1 on the diagonal, else -1"
    cost = "time O(B^2 D) per pair of names, memory O(B D)"
    use = "aligning modalities in small or very large batches; each pair counts by itself"
    fits = ("pairs", "several modalities")
    ours = WEIGHED + "; a pair by the mean of its two rows', with a column of negatives by the anchor's; these columns"

    temperature: Annotated[float, Gt(0)] = 0.1
    learn_temperature: bool = True
    bias: float = -10.0
    learn_bias: bool = True
    logit_bias: nn.Parameter = field(init=False, repr=False)  # [1]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learn_bias:
            self.logit_bias = nn.Parameter(torch.tensor([self.bias]))

    def scale(self) -> tuple[float, float | None]:
        return super().scale()[0], self.logit_bias.item() if self.learn_bias else self.bias

    def learned(self) -> dict[str, Tensor]:
        return super().learned() | ({"bias": self.logit_bias.detach().squeeze()} if self.learn_bias else {})

    def pair(
        self,
        x: Tensor,
        y: Tensor,
        ids: Ids | None,
        negatives: Negatives | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        bias = self.logit_bias.squeeze() if self.learn_bias else self.bias
        return siglip(x, y, self.tau, bias, ids, weights, negatives)
