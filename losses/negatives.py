"""NT-Xent with its negatives corrected for false ones (debiased) or weighted by hardness (HCL)."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor
from torch.autograd import Function

from clx.losses.base import register
from clx.losses.further_negatives import Negatives, WeightedWithNegatives, add_negatives
from clx.losses.infonce import log_sum_of_negatives, other_items, repeated
from clx.losses.pairwise import WEIGHED, Ids
from clx.losses.primitives.autograd import (
    at_least_float32,
    first_order_only,
    inverse_temperature,
    temperature_gradient,
    tile_scale,
    without_autocast,
)
from clx.losses.primitives.dense import logits, partners, scaled_product
from clx.losses.primitives.edits import Edit, off_items
from clx.losses.primitives.functional import softplus, weighted_mean
from clx.losses.primitives.judged import Judged
from clx.losses.primitives.masks import group_sizes
from clx.losses.primitives.streaming import cross_rows, gram_margins
from clx.losses.primitives.tiles import is_small


def hard_negatives(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    tau_plus: float = 0.1,
    beta: float = 0.0,
    ids: Ids | None = None,
    negatives: Negatives | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Debiased contrastive loss, and with `beta` HCL: negatives drawn in proportion to exp(beta s / t).

    mean over the 2B rows of -log( p / (p + N g) ), p = exp(s+ / t), N = 2B - 2,
    g = max( (sum_j w_j exp(s_j / t) / N - tau_plus p) / (1 - tau_plus), exp(-1 / t) ),
    w_j = exp(beta s_j / t) / mean_k exp(beta s_k / t)

    Further negatives are among the j of the rows of `x`, whose N is so many more.

    Args:
        x, y: `[B, D]`, unit rows; row i of both is one item.
        temperature: positive.
        tau_plus: share of negatives that are false, in [0, 1).
        beta: hardness, at least 0; 0 weighs all alike and is the debiased loss.
        ids: `[B]`; rows of equal id are no negatives of each other.
        weights: `[B]`, the factor of each item's terms, 1 by default.

    Returns:
        Scalar in nats; 0 for a batch of one.

    Reference:
        Chuang et al. 2020, arXiv 2007.00224; Robinson et al. 2021, arXiv 2010.04592.
    """
    log_count = _count(x, ids).log()
    if negatives is not None:
        nothing = x.new_zeros(len(x), 1), x.new_zeros(len(negatives.rows), 1)
        more = cross_rows(*nothing, 1.0, negatives.edit)  # the logarithm of how many count
        log_count = torch.cat([torch.logaddexp(log_count[: len(x)], more), log_count[len(x) :]])
    if beta:
        margin = _hard_margins(x, y, temperature, beta, ids, negatives) + log_count
    else:
        margin = gram_margins(x, y, temperature, other_items(ids))
        margin = margin if negatives is None else add_negatives(margin, x, y, temperature, negatives)
    terms: Tensor = _Corrected.apply(temperature, tau_plus, log_count, margin, at_least_float32(x), at_least_float32(y))  # type: ignore[no-untyped-call]
    return weighted_mean(softplus(terms), repeated(weights, len(terms)))


def _count(x: Tensor, ids: Ids | None) -> Tensor:
    """Number of negatives of each of the 2B rows, `[2B]`."""
    if ids is None:
        return x.new_full((2 * len(x),), 2 * len(x) - 2)
    if isinstance(ids, Judged):
        return ids.stacked().counts().to(x.dtype)
    count = (2 * len(x) - 2 * group_sizes(ids)[0]).to(x.dtype)
    return torch.cat([count, count])


def _hard_margins(
    x: Tensor, y: Tensor, temperature: Tensor | float, beta: float, ids: Ids | None, negatives: Negatives | None
) -> Tensor:
    """log( sum_j w_j exp(s_j / t) / N ) - s+ / t of each of the 2B rows, `[2B]`."""
    edit = other_items(ids) or off_items(len(x))
    if negatives is None and is_small(x, 2 * len(x)):
        return _Hard.apply(temperature, beta, edit, at_least_float32(x), at_least_float32(y))  # type: ignore[no-any-return, no-untyped-call]
    weight, harder = x.new_full((), 1 / (1 + beta)), temperature / (1 + beta)
    hard, easy = gram_margins(x, y, harder, edit, weight), log_sum_of_negatives(x, y, temperature / beta, ids)
    if negatives is not None:
        hard = add_negatives(hard, x, y, harder, negatives, weight)
        easy = add_negatives(easy, x, y, temperature / beta, negatives, 0.0)
    return hard - easy


class _Hard(Function):
    """`_hard_margins` of a small batch, from one matrix of logits."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, temperature: Tensor | float, beta: float, edit: Edit, x: Tensor, y: Tensor) -> Tensor:
        z, scale = torch.cat([x, y]), inverse_temperature(temperature)
        s = logits(scaled_product(z, z.T, scale), edit)
        hard, easy, positive = s * (1 + beta), s * beta, torch.linalg.vecdot(x, y)
        w = hard.softmax(1).mul_(1 + beta).sub_(easy.softmax(1), alpha=beta)
        ctx.save_for_backward(z, w.nan_to_num_(0))  # a row without negatives is NaN
        ctx.scale = scale
        return (hard.logsumexp(1) - easy.logsumexp(1)).sub_(torch.cat([positive, positive]), alpha=scale)

    @staticmethod
    @first_order_only
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        z, w = ctx.saved_tensors
        w = w * g[:, None]
        partners(w).sub_(g.view(2, -1))
        dz = scaled_product(w + w.T, z, ctx.scale)  # every pair twice, once from each of its rows
        dt = temperature_gradient(dz, z, ctx.scale / 2) if ctx.needs_input_grad[0] else None
        return dt, None, None, *dz.chunk(2)


class _Corrected(Function):
    """log((e^margin - tau_plus N) / (1 - tau_plus)), `[2B]`, but at least log N - (1 + x_i.y_i) / t.

    The latter is the least that the sum of N negatives can be, at cosine -1, over the positive. It is also the result
    of a row without negatives, whose margin may be NaN.
    """

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any,
        temperature: Tensor | float,
        tau_plus: float,
        log_count: Tensor,
        margin: Tensor,
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
        scale, expected = tile_scale(temperature), log_count + (math.log(tau_plus) if tau_plus else -math.inf)
        left = torch.expm1(expected - margin).neg_().clamp_(min=0)
        corrected = margin + left.log() - math.log1p(-tau_plus)
        least = torch.linalg.vecdot(x, y).add_(1).mul_(-scale)
        floor = torch.cat([least, least]).add_(log_count)
        used = (corrected > floor) | (margin.isnan() & (log_count > -math.inf))
        ctx.save_for_backward(used, left, least, x, y)
        ctx.scale = scale
        return torch.where(used, corrected, floor)

    @staticmethod
    @first_order_only
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        used, left, least, x, y = ctx.saved_tensors
        dmargin = torch.where(used, g / left, 0)
        if used.is_cpu and bool(used.all()):
            return None, None, None, dmargin, None, None
        low = torch.where(used, 0, g).view(2, -1).sum(0) * -ctx.scale
        dt = low.dot(least) if ctx.needs_input_grad[0] else None
        return dt, None, None, dmargin, low[:, None] * y, low[:, None] * x


@register("debiased")
@dataclass(eq=False, kw_only=True)
class Debiased(WeightedWithNegatives):
    """NT-Xent corrected for the share of negatives that are of the anchor's class, of columns of negatives too.

    Example:
        >>> views = {"image/0": torch.eye(4), "image/1": torch.eye(4)}
        >>> [round(Debiased(tau_plus=share)(views).item(), 3) for share in (0.0, 0.1)]  # 0 is NT-Xent
        [0.594, 0.212]
    """

    family = "negatives"
    paper = "Chuang et al. 2020, arXiv 2007.00224"
    formula = "log(1 + N g / p), g = max((mean_j e^{s_j/t} - tau_plus p) / (1 - tau_plus), e^{-1/t}), p = e^{s+/t}"
    cost = "time O(B^2 D) per pair of names, memory O(B D)"
    use = "no labels, but few classes: tau_plus is about 1 / number of classes"
    fits = ("one modality",)
    ours = WEIGHED + "; columns of negatives are among those corrected, as in sentence-transformers' draft (PR 3148)"

    temperature: Annotated[float, Gt(0)] = 0.5
    tau_plus: Annotated[float, Ge(0), Lt(1)] = 0.1

    def pair(
        self,
        x: Tensor,
        y: Tensor,
        ids: Ids | None,
        negatives: Negatives | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        return hard_negatives(x, y, self.tau, self.tau_plus, self.hardness, ids, negatives, weights)

    @property
    def hardness(self) -> float:
        """By how much negatives count more, the more similar they are."""
        return 0.0


@register("hcl")
@dataclass(eq=False, kw_only=True)
class HCL(Debiased):
    """The debiased loss with negatives weighted by their own similarity.

    Example:
        >>> x, y = torch.eye(4), torch.eye(4).roll(1, 0)  # each row's nearest are negatives
        >>> [round(HCL(beta=beta)({"image/0": x, "image/1": y}).item(), 3) for beta in (0.0, 1.0, 3.0)]
        [2.646, 3.478, 3.893]
    """

    paper = "Robinson et al. 2021, arXiv 2010.04592"
    formula = "as debiased, with mean_j w_j e^{s_j/t}, w_j = e^{beta s_j/t} / mean_k e^{beta s_k/t}"
    cost = "time O(B^2 D) per pair of names, twice that of debiased; memory O(B D)"
    use = "most negatives are easy; beta 0 is the debiased loss"
    sharpness = "1 / temperature, and (1 + beta) / temperature where hard negatives are weighed"
    fits = ("one modality",)

    beta: Annotated[float, Ge(0)] = 1.0

    @property
    def hardness(self) -> float:
        return self.beta
