"""Heads that look at several inputs: what `fuse` of a supervised term means.

`mean`, the third way, is one linear head on the mean of the embeddings: see `Embedder.predict`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clx.losses.base import Embeddings
from clx.losses.primitives.autograd import at_least_float32
from clx.pipelines.model.prototype_head import PrototypeHead

POWER = 8
"""By which power of its error an input loses weight: of two inputs, one of 1.5 times the error counts 4 %."""
MEMORY = 32
"""Batches that an input's error is the mean of, about: it falls while the input learns."""
TINY = 1e-12
PACE = 10.0
"""How much faster `adding` moves than a weight of the same rate: it is one number, and has half of the run."""


class Fused(nn.Module):
    """Predictions `[B, K]` from embeddings `[B, D]` by modality, of which some are present in a row, `[B]` each.

    Modalities that are not given count as absent. Of rows that have none, predictions are finite and say nothing.
    """

    def __init__(self, names: Sequence[str], outputs: int) -> None:
        super().__init__()
        self.names = list(names)
        self.out_features = outputs

    def forward(self, z: Embeddings, present: dict[str, Tensor]) -> Tensor:
        raise NotImplementedError

    def alone(self, name: str) -> nn.Module:
        """A module that predicts `[B, K]` from the embeddings `[B, D]` of one modality, in rows that have no other."""
        raise NotImplementedError


class Concat(Fused):
    """A perceptron on all embeddings side by side, each with a flag of its presence; absent ones are zero.

    The one that learns what only several inputs together tell.
    """

    def __init__(self, names: Sequence[str], dim: int, outputs: int) -> None:
        super().__init__(names, outputs)
        self.layers = nn.Sequential(nn.Linear(len(names) * (dim + 1), dim), nn.ReLU(), nn.Linear(dim, outputs))

    def forward(self, z: Embeddings, present: dict[str, Tensor]) -> Tensor:
        first = next(iter(z.values()))
        parts = []
        for name in self.names:
            rows = z.get(name, torch.zeros_like(first))
            here = present[name][:, None] if name in z else torch.zeros_like(first[:, :1], dtype=torch.bool)
            parts += [torch.where(here, rows, 0), here.to(rows.dtype)]
        predictions: Tensor = self.layers(torch.cat(parts, 1))
        return predictions

    def alone(self, name: str) -> nn.Module:
        return _Alone(self, name)


class Gated(Fused):
    """Each input predicts for itself, by a linear head of its own, and counts by how well it does.

    p = n^a sum_m w_m p_m over the m that are present, w_m = e_m^-POWER / sum e_j^-POWER, n = 1 / sum_m w_m^2, from 1
    (one input counts) to their number (all count alike). e_m is the input's own error, the loss of p_m, on rows that it
    has not learned (see `Objective.gated`): one that knows the training rows by heart has no weight by that. `a` is
    learned, on the same rows, and starts at 0, which averages inputs that tell the same; 1 adds up inputs that each
    tell a part.

    Given several inputs, only `a` learns; a head, and the tower under it, learns from what it predicts alone, and takes
    nothing from the others. Weights that follow errors have no freedom to fit the few rows that the errors are taken
    on; gates that were fitted to such rows of the houses (pipelines/README.md) lost 1 %.
    """

    errors: Tensor
    batches: Tensor

    def __init__(self, names: Sequence[str], dim: int, outputs: int) -> None:
        super().__init__(names, outputs)
        self.heads = nn.ModuleDict({name: nn.Linear(dim, outputs) for name in names})
        self.adding = nn.Parameter(torch.zeros(1))
        self.register_buffer("errors", torch.ones(len(self.names)))
        self.register_buffer("batches", torch.zeros(len(self.names)))

    def forward(self, z: Embeddings, present: dict[str, Tensor]) -> Tensor:
        names = [name for name in self.names if name in z]
        each: list[Tensor] = [self.heads[name](z[name]) for name in names]
        if len(names) == 1:
            return each[0]
        predictions = torch.stack([at_least_float32(rows.detach()) for rows in each], 1)  # [B, V, K]
        weights = self.weights(names, present)  # [B, V]
        count = 1 / weights.square().sum(1, keepdim=True)  # [B, 1]
        fused: Tensor = (weights[..., None] * predictions).sum(1) * count ** (PACE * self.adding)
        return fused

    def weights(self, names: Sequence[str], present: dict[str, Tensor]) -> Tensor:
        """What each of these inputs counts in each row, `[B, V]`, 1 in all; absent ones count 0."""
        here = torch.stack([present[name] for name in names], 1)
        errors = torch.stack([self.errors[self.names.index(name)] for name in names])
        gates: Tensor = -POWER * errors.clamp(min=TINY).log()
        weights: Tensor = gates.expand(here.shape).masked_fill(~here, -1e9).softmax(1)
        return weights

    @torch.no_grad()
    def track(self, name: str, error: Tensor, counts: Tensor) -> None:
        """Take the error `[]` of an input in a batch into the mean over about the last `MEMORY` batches.

        Of a batch that does not count, a bool `[]`, nothing is taken; the host does not look at it.
        """
        place = self.names.index(name)
        self.batches[place] += counts
        change = (error - self.errors[place]) / self.batches[place].clamp(min=1, max=MEMORY)
        self.errors[place] += torch.where(counts, change, 0)

    def alone(self, name: str) -> nn.Module:
        return self.heads[name]


class _Alone(nn.Module):
    """One input of a head that is given no other."""

    def __init__(self, head: Fused, name: str) -> None:
        super().__init__()
        self.head, self.name = head, name

    def forward(self, z: Tensor) -> Tensor:
        predictions: Tensor = self.head({self.name: z}, {self.name: torch.ones_like(z[:, 0], dtype=torch.bool)})
        return predictions


def head(fuse: str, names: Sequence[str], dim: int, outputs: int, prototypes: int | None = None) -> nn.Module:
    """The head for these modalities; of a single one all ways are the same linear head, or one of `prototypes`."""
    if prototypes is not None:
        return PrototypeHead(dim, outputs, prototypes)
    if fuse == "mean" or len(names) < 2:
        return nn.Linear(dim, outputs)
    return (Concat if fuse == "concat" else Gated)(names, dim, outputs)


def by_modality(
    names: Sequence[str], z: Embeddings, present: dict[str, Tensor]
) -> tuple[Embeddings, dict[str, Tensor]]:
    """Of these modalities, as far as they are given: the mean `[B, D]` of the views `NAME/0`, `NAME/1` of each that are
    present, and whether any is `[B]`."""
    found: Embeddings = {}
    here: dict[str, Tensor] = {}
    for name in names:
        views = [view for view in z if view.partition("/")[0] == name]
        if views:
            found[name] = mean_of_present([z[view] for view in views], [present[view] for view in views])
            here[name] = torch.stack([present[view] for view in views]).any(0)
    return found, here


def mean_of_present(rows: list[Tensor], present: list[Tensor]) -> Tensor:
    """The mean `[B, D]` of those of the rows `[B, D]` that are present `[B]`, in float32; 0 where none is."""
    every = torch.stack([at_least_float32(each) for each in rows])
    here = torch.stack(present).to(every.dtype)  # [V, B]
    return (every * here[..., None]).sum(0) / here.sum(0).clamp(min=1)[:, None]
