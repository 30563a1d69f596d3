"""Losses of metric learning by labels: multi-similarity and triplets, over all rows of a batch."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from clx.losses.base import Embeddings, Loss, register, zero_loss
from clx.losses.primitives.blocks import by_blocks, on_self
from clx.losses.primitives.functional import lse, softplus, unit
from clx.losses.primitives.masks import stack_present


def multi_similarity(
    z: Tensor, groups: Tensor, alpha: float, beta: float, base: float, mining: float | None = None
) -> Tensor:
    """Multi-similarity: soft sums over the positives that are too far and the negatives that are too near.

    mean_i 1/alpha log(1 + sum_p exp(-alpha (s_ip - base))) + 1/beta log(1 + sum_n exp(beta (s_in - base)))

    Args:
        z: `[N, D]`, unit rows.
        groups: `[N]`; rows of equal number are positives of each other, all others negatives.
        alpha, beta: inverse temperatures of positives and negatives.
        base: similarity at which a pair begins to count.
        mining: keep negatives that are nearer than the farthest positive plus this, and positives that are farther
            than the nearest negative less this; None keeps all.

    Reference:
        Wang et al. 2019, arXiv 1904.06627.
    """

    def terms(s: Tensor, rows: slice) -> tuple[Tensor]:
        same = groups[rows, None] == groups
        no_positive, no_negative = ~same | on_self(s, rows), same
        if mining is not None:
            known = s.detach()
            farthest = known.masked_fill(no_positive, math.inf).amin(1, keepdim=True)
            nearest = known.masked_fill(no_negative, -math.inf).amax(1, keepdim=True)
            # what is left out, so that a similarity that is NaN stays and shows
            no_negative = no_negative | (known <= farthest - mining)
            no_positive = no_positive | (known >= nearest + mining)
        if alpha * (1 + base) < 60 and beta * (1 - base) < 60:  # no exponential of a cosine can overflow
            pull = torch.log1p(torch.exp(-alpha * (s - base)).masked_fill(no_positive, 0).sum(1))
            push = torch.log1p(torch.exp(beta * (s - base)).masked_fill(no_negative, 0).sum(1))
        else:
            pull = softplus(lse((-alpha * (s - base)).masked_fill(no_positive, -math.inf), 1))
            push = softplus(lse((beta * (s - base)).masked_fill(no_negative, -math.inf), 1))
        return ((pull / alpha + push / beta).sum(),)

    return by_blocks(terms, z, z)[0] / len(z)


def triplets(
    z: Tensor,
    groups: Tensor,
    margin: float,
    mining: Literal["all", "semi-hard", "hard"],
    distance: Literal["cosine", "euclidean"] = "cosine",
) -> Tensor:
    """Triplet loss, the mean of max(0, s_an - s_ap + margin) over the triplets where that is above 0.

    Args:
        z: `[N, D]`, unit rows.
        groups: `[N]`; rows of equal number are positives of each other, all others negatives.
        margin: of cosines, where it is half of one of squared distances, or of Euclidean distances.
        mining: `all` triplets; for each positive the nearest negative that is farther than it, `semi-hard`; for each
            row its farthest positive with its nearest negative, `hard`.
        distance: -s is the cosine's or the Euclidean distance; rows that coincide get no gradient of the latter.

    Returns:
        Scalar; 0 where all triplets are right by the margin.

    Reference:
        Schroff et al. 2015, arXiv 1503.03832; all, and hard, in Hermans et al. 2017, arXiv 1703.07737.
    """
    n = len(z)

    def terms(s: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        same = groups[rows, None] == groups
        positive = same & ~on_self(s, rows)
        if distance == "euclidean":
            squares = 2 - 2 * s
            s = -torch.where(squares <= 1e-12, 0, squares).clamp(min=1e-24).sqrt()
        if mining == "hard":
            farthest = s.masked_fill(~positive, math.inf).amin(1)
            nearest = s.masked_fill(same, -math.inf).amax(1)
            usable = positive.any(1) & ~same.all(1)
            left = torch.where(usable, nearest - farthest + margin, 0).relu()
            return left.sum(), (left > 0).sum().to(s.dtype)
        if mining == "all" and n <= 32:  # so few that a sort takes longer than all triplets
            one = (positive[:, :, None] & ~same[:, None]).to(s.dtype)
            left = (s[:, None] - s[:, :, None] + margin).relu() * one
            return left.sum(), (left > 0).sum().to(s.dtype)
        ordered, order = s.detach().masked_fill(same, -math.inf).sort(1)
        values = torch.where(ordered == -math.inf, 0, s.gather(1, order))
        known = s.detach()
        if mining == "semi-hard":
            place = torch.searchsorted(ordered, known) - 1  # the nearest of those that are farther than the positive
            nearest = values.gather(1, place.clamp(min=0))
            usable = positive & (ordered.gather(1, place.clamp(min=0)) != -math.inf) & (place >= 0)
            left = torch.where(usable, nearest - s + margin, 0).relu()
            return left.sum(), (left > 0).sum().to(s.dtype)
        place = torch.searchsorted(ordered, known - margin, right=True)  # from there on negatives are too near
        above = torch.nn.functional.pad(values.flip(1).cumsum(1).flip(1), (0, 1))
        count = torch.where(positive, n - place, 0)
        left = torch.where(positive, above.gather(1, place), 0) + count * (margin - s)
        return left.sum(), count.sum().to(s.dtype)

    total, active = by_blocks(terms, z, z)
    return total / active.clamp(min=1)


@dataclass(eq=False, kw_only=True)
class ByGroups(Loss):
    """A loss of unit rows and of which are of one label; a row without one has its own item's rows alone."""

    family = "supervised"
    fits = ("labels",)

    def forward(self, z: Embeddings, *, labels: Tensor, present: dict[str, Tensor] | None = None) -> Tensor:
        x, items = stack_present(z, present) if present is not None or len(z) > 1 else (next(iter(z.values())), None)
        if not labels.is_cpu or (len(labels) and int(labels.min()) < 0):
            labels = torch.where(labels < 0, -1 - torch.arange(len(labels), device=labels.device), labels)
        groups = labels if items is None else labels[items]
        return self.of_groups(unit(x), groups) if len(x) > 1 else zero_loss(z)

    def of_groups(self, u: Tensor, groups: Tensor) -> Tensor:
        """Of unit rows `[N, D]` and the number of each one's group `[N]`."""
        raise NotImplementedError


@register("multi-similarity")
@dataclass(eq=False, kw_only=True)
class MultiSimilarity(ByGroups):
    """Multi-similarity over the rows of all names.

    Example:
        >>> z = {"image": torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])}
        >>> loss = MultiSimilarity()
        >>> round(loss(z, labels=torch.tensor([0, 0, 1, 1])).item(), 3)  # no pair is left after mining
        0.0
        >>> round(loss(z, labels=torch.tensor([0, 1, 0, 1])).item(), 3)
        1.157
    """

    paper = "Wang et al. 2019, arXiv 1904.06627"
    formula = "mean_i 1/alpha log(1 + sum_p e^{-alpha (s_ip - base)}) + 1/beta log(1 + sum_n e^{beta (s_in - base)})"
    cost = "time O(V^2 B^2 D), memory O(V B D)"
    use = "retrieval among classes with several rows of each in a batch; weighs pairs by how wrong they are"
    sharpness = "alpha for positives, beta for negatives"

    alpha: Annotated[float, Gt(0)] = 2.0
    beta: Annotated[float, Gt(0)] = 50.0
    base: Annotated[float, Ge(-1)] = 0.5
    mining: Annotated[float, Ge(0)] | None = 0.1

    def of_groups(self, u: Tensor, groups: Tensor) -> Tensor:
        return multi_similarity(u, groups, self.alpha, self.beta, self.base, self.mining)


@register("triplet")
@dataclass(eq=False, kw_only=True)
class Triplet(ByGroups):
    """Triplets of anchor, positive and negative, over the rows of all names.

    Example:
        >>> z = {"image": torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])}
        >>> loss = Triplet()
        >>> round(loss(z, labels=torch.tensor([0, 0, 1, 1])).item(), 3)
        0.0
        >>> round(loss(z, labels=torch.tensor([0, 1, 0, 1])).item(), 3)  # half of the triplets by 1.1, half by 0.1
        0.6
    """

    paper = "Schroff et al. 2015, arXiv 1503.03832"
    formula = "mean of max(0, s_an - s_ap + margin) over the triplets of the mining where that is above 0"
    cost = "time O(V^2 B^2 (D + log VB)), memory O(V B D)"
    use = "the classical loss by labels, to compare with; semi-hard with few classes in a batch, hard with many"

    margin: Annotated[float, Ge(0)] = 0.1
    mining: Literal["all", "semi-hard", "hard"] = "all"
    distance: Literal["cosine", "euclidean"] = "cosine"

    def of_groups(self, u: Tensor, groups: Tensor) -> Tensor:
        return triplets(u, groups, self.margin, self.mining, self.distance)
