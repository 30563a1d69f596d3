"""CoDiEmb's losses of scored pairs: correlation, order from the top, and ranks as shares."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn import functional

from clx.losses.base import register
from clx.losses.cosent import CoSENT
from clx.losses.primitives.blocks import by_blocks, of_block
from clx.losses.primitives.forms import NEVER
from clx.losses.primitives.functional import softplus
from clx.losses.primitives.tiles import multiplying


def pearson(x: Tensor, scores: Tensor, counted: Tensor | None = None) -> Tensor:
    """1 less the correlation of similarities and scores `[B]`, of pairs that are `counted` `[B]`, all by default: `[]`,
    0 where either is the same throughout."""
    y = scores.to(x.dtype)
    if counted is None:
        x, y = x - x.mean(), y - y.mean()
    else:
        n = counted.sum().clamp(min=1)
        x, y = (torch.where(counted, each, 0) for each in (x, y))
        x, y = (torch.where(counted, each - each.sum() / n, 0) for each in (x, y))
    spread = torch.linalg.vecdot(x, x) * torch.linalg.vecdot(y, y)
    tiny = torch.finfo(x.dtype).tiny
    root: Tensor = spread.clamp(min=tiny).sqrt()
    return torch.where(spread <= tiny, 0, 1 - torch.linalg.vecdot(x, y) / root)


def rank_kl(x: Tensor, scores: Tensor, temperature: Tensor | float, counted: Tensor | None = None) -> Tensor:
    """KL of softmax(g / t) and softmax(x / t) over the counted pairs, divided by their number: `[]`. g: mean ranks of
    the scores, 0 of the lowest and 1 of the highest."""
    if counted is None:
        n: Tensor | int = len(x)
        ordered = scores.sort().values
        places = [torch.searchsorted(ordered, scores, right=right) for right in (False, True)]
        twice = (places[0] + places[1] - 1).to(x.dtype)
        theirs, ours = (each.log_softmax(0) for each in (twice / (temperature * 2 * max(1, n - 1)), x / temperature))
        return functional.kl_div(ours, theirs, reduction="sum", log_target=True) / n
    n = counted.sum()
    placed = scores.masked_fill(~counted, torch.inf)
    ordered = placed.sort().values
    below = torch.searchsorted(ordered, placed)
    up_to = torch.searchsorted(ordered, placed, right=True).minimum(n)
    g = (below + up_to - 1).to(x.dtype) / 2 / (n - 1).clamp(min=1)
    ours, theirs = ((each / temperature).masked_fill(~counted, NEVER).log_softmax(0) for each in (x, g))
    terms = torch.where(counted, theirs.exp() * (theirs - ours), 0)
    return terms.sum() / n.clamp(min=1)


def preferred(x: Tensor, scores: Tensor, temperature: Tensor | float, counted: Tensor | None = None) -> Tensor:
    """Each pair k before all j of lower score, the farther the more: mean over the k that have such of

    log(1 + sum_j exp((w_kj x_j - max_j w_kj x_k) / t)), w_kj = y_k - y_j, y the scores: `[]`, 0 without.
    """
    if not len(x):
        return x.sum()
    y = scores.to(x.dtype)
    y = y if counted is None else y.masked_fill(~counted, torch.nan)
    t = temperature if isinstance(temperature, Tensor) else x.new_full((), temperature)

    def terms(s: Tensor, rows: slice, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        gaps = of_block(y, rows)[:, None] - y
        lower = gaps > 1e-8
        # NaN goes before t comes, whose gradient it would be
        gaps = (gaps if counted is None else torch.where(lower, gaps, 0)) / t
        own = of_block(x, rows) * gaps.amax(1)
        others = (s * gaps).masked_fill(~lower, NEVER).logsumexp(1)
        return softplus(others - own).sum(), lower.any(1).sum().to(x.dtype)

    with multiplying(None):  # the product is a way to have each x_j in each row
        total, count = by_blocks(terms, torch.ones_like(x[:, None]), x[:, None], x, t)
    return total / count.clamp(min=1)


@register("codiemb")
@dataclass(eq=False, kw_only=True)
class CoDiEmb(CoSENT):
    """Three losses of scored pairs, over all pairs of names, each times its weight: 0 leaves one out.

    Rows without a score are left out. A share of an `infonce` of a middle layer, the paper's fourth, is not in it.

    Example:
        >>> one, other = torch.eye(3), torch.tensor([[1.0, 0, 0], [0, 1, 1], [1, 1, 0]])  # cosines 1, .71 and 0
        >>> loss = CoDiEmb()
        >>> right, wrong = torch.tensor([[1.0], [0.7], [0]]), torch.tensor([[0.0], [1], [1]])
        >>> loss({"a": one, "b": other}, targets=right).item() < 1 < loss({"a": one, "b": other}, targets=wrong).item()
        True
    """

    paper = "Zhang et al. 2025, arXiv 2508.11442"
    formula = (
        "2 (1 - corr(x, y)) + 5 KL(softmax(rank(y) / t) || softmax(x / t)) / B "
        "+ .5 mean_k log(1 + sum_{j: y_j < y_k} exp((w_kj x_j - max_j w_kj x_k) / t)), w_kj = y_k - y_j, x the cosines"
    )
    cost = "time O(B D + B^2) per pair of names, memory O(B D)"
    use = "pairs with a score, whose order and whose scale both count; batches of one data set"
    sharpness = "1 / temperature of rank_kl, and 1 / temperature times the gap of two scores of preferred"
    ours = "scores are divided by best, where the published code leaves them from 0 to 5"

    pearson: Annotated[float, Ge(0)] = 2.0
    rank_kl: Annotated[float, Ge(0)] = 5.0
    preferred: Annotated[float, Ge(0)] = 0.5
    best: Annotated[float, Gt(0)] = 1.0  # the highest score

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.pearson + self.rank_kl + self.preferred:
            raise ValueError("pearson, rank_kl and preferred are all 0: nothing would be learned")

    def of_scores(self, similarity: Tensor, scores: Tensor, counted: Tensor | None = None) -> Tensor:
        y = scores / self.best if self.best != 1 else scores
        total = similarity.new_zeros(())
        if self.pearson:
            total = total + self.pearson * pearson(similarity, y, counted)
        if self.rank_kl:
            total = total + self.rank_kl * rank_kl(similarity, y, self.tau, counted)
        if self.preferred:
            total = total + self.preferred * preferred(similarity, y, self.tau, counted)
        return total
