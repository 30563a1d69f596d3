"""ClusterNS: centroids as hard negatives, and rows of one cluster held in a band below the positive."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional

from clx.losses.base import register
from clx.losses.infonce import other_rows
from clx.losses.pairwise import Ids, Pairwise
from clx.losses.primitives.blocks import by_blocks, of_block, same_pairs
from clx.losses.primitives.edits import off_diagonal
from clx.losses.primitives.functional import paired_similarity, softplus
from clx.losses.primitives.streaming import cross_margins


def spread_rows(x: Tensor, count: int) -> Tensor:
    """`[count, D]` of the unit rows `x` `[B, D]`: that nearest to their mean, then each the least like those taken."""
    place = (x @ x.mean(0)).argmax(0, keepdim=True)  # an index of one dimension, which the host need not read
    taken = [x[place]]
    nearest = x @ taken[0][0]
    for _ in range(count - 1):
        taken.append(x[nearest.argmin(0, keepdim=True)])
        nearest = torch.maximum(nearest, x @ taken[-1][0])
    return torch.cat(taken)


def moved_centroids(centroids: Tensor, x: Tensor, own: Tensor, rate: float) -> Tensor:
    """Unit centroids `[K, D]` after a step of `rate` towards the mean of their members; those without any stay.

    Args:
        centroids, x: `[K, D]` and `[B, D]`, unit rows.
        own: `[B]` int64, the cluster of each row.
    """
    members = torch.zeros_like(centroids).index_add(0, own, x)
    sizes = torch.zeros_like(centroids[:, 0]).index_add(0, own, torch.ones_like(x[:, 0]))[:, None]
    moved = torch.lerp(centroids, members / sizes.clamp(min=1), rate)
    return torch.where(sizes > 0, functional.normalize(moved, dim=1), centroids)


def banded(
    x: Tensor,
    y: Tensor,
    own: Tensor,
    near: float,
    far: float,
    ids: Ids | None = None,
    positive: Tensor | None = None,
) -> Tensor:
    """Mean over pairs of one cluster of relu(d_ij + near) + relu(-d_ij - far), d_ij = x_i.y_j - x_i.y_i; 0 without any.

    Args:
        x, y: `[B, D]`, unit rows; row i of both is one item.
        own: `[B]` int64, the cluster of each row.
        near, far: how far below its positive a pair is to be, in cosine: at least and at most.
        ids: which rows are no negatives of each other, and none of these pairs.
        positive: `[B]`, x_i.y_i, where it is at hand.
    """
    positive = paired_similarity(x, y) if positive is None else positive
    same = same_pairs(ids)

    def terms(s: Tensor, rows: slice, positive: Tensor) -> tuple[Tensor, Tensor]:
        below = s - of_block(positive, rows)[:, None]
        counts = (of_block(own, rows)[:, None] == own).logical_and_(~same(s, rows))
        outside = (below + near).relu() + (-far - below).relu()
        return torch.where(counts, outside, 0).sum(), counts.sum().to(s.dtype)

    total, pairs = by_blocks(terms, x, y, positive)
    return total / pairs.clamp(min=1)


@register("clusterns")
@dataclass(eq=False, kw_only=True)
class ClusterNS(Pairwise):
    """InfoNCE from the first of two names to the second, with the second nearest centroid of each row as its negative.

    Rows of one cluster, which may be false negatives, are held between `near` and `far` below the positive. The
    centroids are of the rows of the first name, saved with the run, and move in training before they are used. They
    begin once the mean cosine of all pairs is `start` or less, in a batch of `clusters` rows at least: until then the
    loss is InfoNCE, and a step is counted as `clusters_waiting`. Of more than two names they move once for each pair.

    Example:
        >>> loss = ClusterNS(clusters=2)
        >>> loss.setup(["text/0", "text/1"], 4)
        >>> views = {"text/0": torch.eye(4), "text/1": torch.eye(4)}
        >>> loss(views).item() < 1e-5, bool(loss.started)  # InfoNCE, and its rows begin the centroids
        (True, True)
        >>> round(loss(views).item(), 6)
        5e-05
    """

    family = "softmax"
    paper = "Deng et al. 2023, arXiv 2305.09892"
    formula = (
        "mean_i -log e^(x_i.y_i / t) / (sum_j e^(x_i.y_j / t) + e^(x_i.h_i / t + hard_negative_logit)), h_i the second "
        "nearest centroid, "
        "+ band mean over pairs of a cluster of relu(d_ij + near) + relu(-d_ij - far), d_ij = x_i.y_j - x_i.y_i"
    )
    cost = "time O((B + clusters) B D) per pair of names, memory O((B + clusters) D)"
    use = "sentences by dropout, many of them near copies: false negatives are kept near, not pushed to the far side"
    fits = ("one modality",)
    ours = (
        "a row sees its own centroid h_i, not those of all rows, which may be of its cluster; centroids move by the "
        "mean of their members and not the sum, and begin far from all that are taken, not from the last"
    )
    host_reads = 3
    """One for each pair of names."""

    temperature: Annotated[float, Gt(0)] = 0.05
    clusters: Annotated[int, Ge(2)] = 128
    hard_negative_logit: Annotated[float, Ge(-100), Le(100)] = 0.0  # added to that of the second nearest centroid
    start: Annotated[float, Ge(-1), Le(1)] = 0.4
    rate: Annotated[float, Gt(0), Le(1)] = 0.01
    band: Annotated[float, Ge(0)] = 1e-4
    near: Annotated[float, Ge(0), Le(2)] = 0.2
    far: Annotated[float, Ge(0), Le(2)] = 0.5
    centroids: Tensor = field(init=False, repr=False)  # [clusters, D], unit rows
    started: Tensor = field(init=False, repr=False)  # [] bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.near > self.far:
            raise ValueError(f"near {self.near} is above far {self.far}: no pair can be in the band between them")

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        self.register_buffer("centroids", torch.zeros(self.clusters, dim))
        self.register_buffer("started", torch.tensor(False))

    def pair(self, x: Tensor, y: Tensor, ids: Ids | None) -> Tensor:
        margins = cross_margins(x, y, self.tau, off_diagonal if ids is None else other_rows(ids, both=False), False)
        found = self.nearest(x.detach(), y.detach())
        if found is None:
            self.count("clusters_waiting", 1)
            return softplus(margins).mean()
        own, beside = found
        positive = paired_similarity(x, y)
        further = (paired_similarity(x, beside) - positive) / self.tau + self.hard_negative_logit
        loss = softplus(torch.logaddexp(margins, further)).mean()
        return loss + self.band * banded(x, y, own, self.near, self.far, ids, positive) if self.band else loss

    @torch.no_grad()
    def nearest(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
        """Each row's cluster `[B]` and second nearest centroid `[B, D]`, which move first; None while there are none.

        Raises:
            ValueError: before `setup`.
        """
        if not hasattr(self, "centroids"):
            raise ValueError("clusterns has centroids: call setup(names, dim) once before training")
        width = x.shape[1]
        learns = self.training and self.remembers  # of `dims` the widest alone
        sound = x.isfinite().all()
        started, may_begin_now, is_sound = x.is_cpu and bool(self.started), False, False
        if started:
            is_sound = bool(sound)
        else:
            may_begin = sound & (torch.dot(x.mean(0), y.mean(0)) <= self.start)
            started, may_begin_now, is_sound = torch.stack([self.started, may_begin, sound]).tolist()
        if not started:
            if learns and may_begin_now and len(x) >= self.clusters:
                self.centroids[:, :width] = spread_rows(x, self.clusters).to(self.centroids.dtype)
                self.started.fill_(True)
            return None
        centroids = functional.normalize(self.centroids[:, :width].to(x.dtype), dim=1)
        if learns and is_sound:
            centroids = moved_centroids(centroids, x, (x @ centroids.T).argmax(1), self.rate)
            self.centroids[:, :width] = centroids.to(self.centroids.dtype)
        own, second = (x @ centroids.T).topk(2, dim=1).indices.unbind(1)
        return own, centroids[second]
