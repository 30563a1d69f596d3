"""Losses for few-shot classes: each row nearer to the mean of its own class, or to its class's rows, than to others."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from clx.losses.base import register
from clx.losses.metric import ByGroups
from clx.losses.primitives.blocks import by_blocks, on_self, similarities
from clx.losses.primitives.masks import group_sizes
from clx.losses.primitives.tiles import is_small

SUSANA = "Mendez-Ruiz et al. 2023, arXiv 2305.09062 (SuSana Distancia)"


def distance(squares: Tensor) -> Tensor:
    """Square roots; of what is 0 but for rounding 0, without gradient."""
    return torch.nn.functional.threshold(squares, 1e-12, 1e-24).sqrt()


def proto_triplet(z: Tensor, groups: Tensor, margin: float) -> Tensor:
    """mean_i max(0, |z_i - c_own| - min_{c of other groups} |z_i - c| + margin), c the means of groups.

    Args:
        z: `[N, D]`, unit rows.
        groups: `[N]`; the mean of a row's own group leaves that row out.
        margin: of distances.

    Returns:
        Scalar, the mean over rows that are not alone in their group.
    """
    if len(z) <= 32 and is_small(z, len(z)):  # so few that the number of operations is what takes time
        same = groups[:, None] == groups
        member = same.to(z.dtype)
        size, sums = member.sum(1), similarities(member, z.T)  # of each row's group
        near = distance((z - (sums - z) / (size - 1).clamp(min=1)[:, None]).square().sum(1))
        nearest = torch.cdist(z, sums / size[:, None]).masked_fill(same, math.inf).amin(1)
        alone = size == 1
        return (near - nearest + margin).masked_fill(alone, 0).relu().sum() / max(1, len(z) - int(alone.sum()))
    size, first = group_sizes(groups)
    sums = torch.zeros_like(z).index_add(0, first, z)
    count = torch.zeros_like(z[:, 0]).index_add_(0, first, torch.ones_like(z[:, 0]))
    centres = sums / count.clamp(min=1)[:, None]
    alone, places = size == 1, torch.arange(len(z), device=z.device)
    near = distance((z - (sums[first] - z) / (size - 1).clamp(min=1)[:, None]).square().sum(1))

    def terms(s: Tensor, rows: slice, near: Tensor, of_z: Tensor, of_centres: Tensor) -> tuple[Tensor]:
        squares = of_z[rows, None] + of_centres - 2 * s
        nearest = squares.masked_fill((count == 0) | (first[rows, None] == places), math.inf).amin(1)
        left = near[rows] - distance(nearest) + margin
        return (left.masked_fill(alone[rows], 0).relu().sum(),)

    total = by_blocks(terms, z, centres, near, z.square().sum(1), centres.square().sum(1))[0]
    return total / (~alone).sum().clamp(min=1)


def neighbourhood(z: Tensor, groups: Tensor, nearest: int) -> Tensor:
    """-log mean_i (1 - mean_same d / 2) (mean_other d / 2), d the distances of the nearest rows of each kind.

    Args:
        z: `[N, D]`, unit rows.
        groups: `[N]`; rows of equal number are of one kind.
        nearest: of each kind, or as many as there are.

    Returns:
        Scalar, at least 0; a row that lacks one kind is left out; 0 where all do.
    """

    def mean_distance(s: Tensor, out: Tensor) -> tuple[Tensor, Tensor | None]:
        near = s.masked_fill(out, -math.inf).topk(min(nearest, len(z)), 1).values
        if s.is_cpu and near.numel() and float(near.detach().amin()) > -math.inf:
            return distance(2 - 2 * near).mean(1) / 2, None
        none = near == -math.inf
        count = (~none).sum(1)
        far = distance(2 - 2 * near.masked_fill(none, 1)).masked_fill(none, 0)
        return far.sum(1) / count.clamp(min=1) / 2, count > 0

    def terms(s: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        same = groups[rows, None] == groups
        (close, some), (apart, others) = mean_distance(s, ~same | on_self(s, rows)), mean_distance(s, same)
        found = (1 - close) * apart
        usable = others if some is None else some if others is None else some & others
        if usable is None:  # all
            return found.sum(), s.new_full((), len(s))
        return torch.where(usable, found, 0).sum(), usable.sum().to(s.dtype)

    total, count = by_blocks(terms, z, z)
    mean = (total + (count == 0)) / count.clamp(min=1)  # 1 of no rows
    return -mean.clamp(min=1e-12).log()


@register("proto-triplet")
@dataclass(eq=False, kw_only=True)
class ProtoTriplet(ByGroups):
    """Each row a margin nearer to the mean of the others of its class than to any other class's, over all names.

    Example:
        >>> z = {"image": torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])}
        >>> loss = ProtoTriplet()
        >>> loss(z, labels=torch.tensor([0, 0, 1, 1])).item()
        0.0
        >>> round(loss(z, labels=torch.tensor([0, 1, 0, 1])).item(), 3)
        1.007
    """

    paper = SUSANA
    formula = "mean_i max(0, |u_i - c_own| - min_c |u_i - c| + margin), c means of classes, the own without row i"
    cost = "time O(V^2 B^2 D), memory O(V B D)"
    use = "few-shot classification by class means; batches of several rows of each of several classes"
    ours = "no code was published, and which prototypes are negatives was not to be had: here the nearest"

    margin: Annotated[float, Ge(0)] = 0.3

    def of_groups(self, u: Tensor, groups: Tensor) -> Tensor:
        return proto_triplet(u, groups, self.margin)


@register("icnn")
@dataclass(eq=False, kw_only=True)
class ICNN(ByGroups):
    """The nearest rows of the own class near and those of other classes far, over the rows of all names.

    Example:
        >>> z = {"image": torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]])}
        >>> loss = ICNN(nearest=1)
        >>> abs(round(loss(z, labels=torch.tensor([0, 0, 1, 1])).item(), 3))
        0.0
        >>> loss(z, labels=torch.tensor([0, 1, 0, 1])).item() > 20
        True
    """

    paper = SUSANA
    formula = "-log mean_i (1 - mean_{k nearest of the class} d_ik / 2) mean_{k nearest of others} d_ik / 2"
    cost = "time O(V^2 B^2 D), memory O(V B D)"
    use = "few-shot classification by nearest neighbours; beside another loss, whose scale it does not set"
    ours = "the definition is ours: the paper's score was not to be had, only that it is of such distances in [0, 1]"

    nearest: Annotated[int, Gt(0)] = 3

    def of_groups(self, u: Tensor, groups: Tensor) -> Tensor:
        return neighbourhood(u, groups, self.nearest)
