"""BECLR: SimSiam's positives against a momentum copy, joined by neighbours out of a memory in clusters."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from clx.losses.base import Embeddings, average, register, zero_loss
from clx.losses.directed import in_turn
from clx.losses.predicted import Predicted
from clx.losses.primitives.draws import permutation
from clx.losses.primitives.edits import DifferentIds
from clx.losses.primitives.functional import lse, unit
from clx.losses.primitives.masks import group_sizes
from clx.losses.primitives.streaming import gram
from clx.losses.prototypes import balanced
from clx.losses.queues import Queue


def spread(rows: Tensor, items: Tensor, temperature: float) -> Tensor:
    """The logarithm of the mean of exp(u.v / temperature) over all pairs of rows of two items, `[]`; 0 of none.

    Args:
        rows: `[N, D]`, unit rows.
        items: `[N]`, the item of each.
    """
    sizes, _ = group_sizes(items)
    pairs = (len(items) - sizes).sum()
    sums = gram(rows, temperature, DifferentIds(items))[0]
    return torch.where(pairs > 0, lse(sums, 0) - pairs.clamp(min=1).to(rows.dtype).log(), 0)


class Clustered(Queue):
    """A queue whose rows are in clusters, each about a prototype; from when it is full for the first time."""

    prototypes: Tensor
    """`[P, D]`, unit rows."""
    of: Tensor
    """`[size]` int64, the cluster of each row."""
    begun: Tensor
    """`[]` bool, whether there are clusters."""
    round: Tensor
    """`[]` int64, in which round they were found."""

    def __init__(self, size: int, dim: int, clusters: int) -> None:
        super().__init__(size, dim)
        self.register_buffer("prototypes", torch.zeros(clusters, dim))
        self.register_buffer("of", torch.zeros(size, dtype=torch.long))
        self.register_buffer("begun", torch.tensor(False))
        self.register_buffer("round", torch.tensor(0))

    @torch.no_grad()
    def neighbours(self, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Of unit rows `[N, W]` each, the nearest rows `[N, count, W]` out of the cluster of its nearest prototype, and
        which of them there are `[N, count]`."""
        width = rows.shape[1]
        old, directions = (x[:, :width].to(rows.dtype) for x in (self.rows, self.prototypes))
        if width < self.rows.shape[1]:
            old, directions = unit(old), unit(directions)
        cluster = (rows @ directions.T).argmax(1)
        near = (rows @ old.T).masked_fill(cluster[:, None] != self.of, -torch.inf).topk(min(count, len(old)), 1)
        return old[near.indices], near.values.isfinite() & self.begun

    @torch.no_grad()
    def learn(self, rows: Tensor, ids: Tensor, epsilon: float, generator: torch.Generator | None, now: int = 0) -> None:
        """Assign rows `[N, W]` to clusters evenly, put them in for the oldest, and move each prototype to the mean of
        its rows; an empty cluster keeps its own. When full for the first time, and when a new round begins (`now`),
        find the clusters by k-means."""
        codes = balanced(rows.to(self.rows.dtype) @ self.prototypes[:, : rows.shape[1]].T, epsilon, 10)
        size = len(self.rows)
        self.of[self.put(rows, ids)] = codes.argmax(1)[-size:] * self.begun  # before, the nearest of no prototypes
        if bool(self.full & (~self.begun | (self.round < now))):
            some = permutation(size, self.rows, generator)
            some = some[: len(self.prototypes)].to(self.rows.device, non_blocking=True)
            self.prototypes.copy_(self.rows[some])
            self.begun.fill_(True)
            for _ in range(10):
                self.of.copy_((self.rows @ self.prototypes.T).argmax(1))
                self._centre()
            self.round.fill_(now)
        self._centre()

    def _centre(self) -> None:
        sums = torch.zeros_like(self.prototypes).index_add_(0, self.of, self.rows)
        counts = sums.new_zeros(len(sums)).index_add_(0, self.of, torch.ones_like(self.rows[:, 0]))
        self.prototypes.copy_(torch.where((self.begun & (counts > 0))[:, None], unit(sums), self.prototypes))


@register("beclr")
@dataclass(eq=False, kw_only=True)
class BECLR(Predicted):
    """Predictions against the key of another view, by a momentum copy (`train.second`), and against neighbours of that
    key in a memory of keys; and rows of different items spread out.

    The memory (the paper's DyCE) is in clusters from when it is full: a batch is assigned to them by balanced
    transport, and a key's `neighbours` come from the cluster of its nearest prototype. With `recluster` the clusters
    are found anew whenever that share of the run's steps is done, .15 in the paper. In evaluation the memory is not
    looked at. The authors' code assigns rows to the farthest prototype and fetches other rows than it has found; this
    follows the text. Its second half, OpTA, is a way to classify few shots, not a part of training.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> loss = BECLR(memory_rows=64, prototypes=4)
        >>> loss.setup(["image/0", "image/1"], 16)
        >>> views = {"image/0": torch.randn(8, 16), "image/1": torch.randn(8, 16)}
        >>> -1 < loss(views, keys=views, sample_id=torch.arange(8)).item() < 1
        True
        >>> (loss.keys_seen.ids >= 0).sum().item()  # the keys of both views
        16
    """

    paper = "Poulakakis-Daktylidis and Jamali-Rad 2024, arXiv 2402.02444"
    formula = "-mean_i mean_{t in key and neighbours} cos(h(z_i), t) + .1 log mean_{i, j other items} exp(u_i.u_j / 2)"
    cost = "time O(V^2 B (M + P) D + V^2 B^2 D), memory O((M + V B) D); M the memory, P its clusters"
    use = "unlabelled images of many classes, few shots of each afterwards; with train.second: {momentum: 0.995}"
    fits = ("one modality",)
    sharpness = "1 / uniformity_temperature, in the spread"
    ours = "neighbours are targets of the predictions, and prototypes the means of their rows in the memory"
    host_reads = 1  # whether the memory is full
    times = 0.25

    uniformity: Annotated[float, Ge(0)] = 0.1
    uniformity_temperature: Annotated[float, Gt(0)] = 2.0
    memory_rows: Annotated[int, Ge(2)] = 8000
    prototypes: Annotated[int, Ge(2)] = 200
    neighbours: Annotated[int, Ge(0)] = 5
    epsilon: Annotated[float, Interval(gt=0, le=1)] = 0.05
    recluster: Annotated[float, Interval(gt=0, lt=1)] | None = None
    keys_seen: Clustered = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prototypes > self.memory_rows:
            raise ValueError(f"prototypes = {self.prototypes}, but the memory has {self.memory_rows} rows")

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        super().setup(names, dim, classes, rows)
        self.keys_seen = Clustered(self.memory_rows, dim, self.prototypes)

    def forward(
        self,
        z: Embeddings,
        *,
        keys: Embeddings,
        sample_id: Tensor,
        present: dict[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
        progress: float = 0.0,
    ) -> Tensor:
        there, ways = in_turn(z, present)
        if not ways:
            return zero_loss(z)
        told = {name: unit(self.predictor(x[there[name]])) for name, x in z.items()}
        terms = [
            self.nearness(told[way.start][way.of_start], unit(keys[way.end][way.rows].detach())).mean() for way in ways
        ]
        rows = unit(torch.cat([x[there[name]] for name, x in z.items()]))
        numbers = torch.arange(len(sample_id), device=sample_id.device)
        items = torch.cat([numbers[there[name]] for name in z])
        if self.training and self.remembers:
            said = torch.cat([unit(keys[name][there[name]].detach()) for name in z])
            ids = torch.cat([sample_id[there[name]] for name in z])
            now = int(progress / self.recluster) if self.recluster else 0
            self.keys_seen.learn(said, ids, self.epsilon, generator, now)
        return self.uniformity * spread(rows, items, self.uniformity_temperature) - average(terms)

    def nearness(self, told: Tensor, target: Tensor) -> Tensor:
        """The mean cosine of predictions `[B, D]` with their targets and the neighbours of these, `[B]`; unit rows."""
        own: Tensor = torch.linalg.vecdot(told, target)
        if not self.training or not self.neighbours:
            return own
        near, known = self.keys_seen.neighbours(target, self.neighbours)
        cosines = torch.einsum("bd,bkd->bk", told, near)
        total: Tensor = own + torch.where(known, cosines, 0).sum(1)
        return total / (1 + known.sum(1))
