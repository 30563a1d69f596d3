"""Losses of two inputs: the mean over all pairs of names, and which rows are no negatives of each other."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clx.losses.base import Embeddings, Exclude, Tempered, average, require_two_inputs, zero_loss
from clx.losses.primitives.functional import unit, units


def item_ids(exclude: Exclude, size: int, labels: Tensor | None, sample_id: Tensor | None) -> Tensor | None:
    """Ids `[B]` such that rows of equal id are no negatives of each other, by `exclude`; None for `exclude: none`.

    A row without a label (-1) gets an id that no other row has.

    Raises:
        ValueError: if the batch lacks the labels or sample ids that `exclude` asks for.
    """
    if exclude == "none":
        return None
    ids = labels if exclude == "labels" else sample_id
    if ids is None:
        raise ValueError(f"exclude is {exclude!r}, but the batch has no {exclude}")
    return torch.where(ids < 0, -1 - torch.arange(size, device=ids.device), ids)


@dataclass(eq=False, kw_only=True)
class Pairwise(Tempered):
    """Mean of a two-input loss over all unordered pairs of names, each on the rows where both are present.

    With `exclude`, rows of equal `sample_id` or `labels` are no negatives of each other. A pair of names with fewer
    than two common rows is left out of the mean and logged as `skipped_pairs`; with no pair left the loss is 0.
    """

    exclude: Exclude = "none"

    def requires(self) -> frozenset[str]:
        return super().requires() | (set() if self.exclude == "none" else {self.exclude})

    def forward(
        self,
        z: Embeddings,
        *,
        present: dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
        sample_id: Tensor | None = None,
    ) -> Tensor:
        require_two_inputs(z)
        size = len(next(iter(z.values())))
        ids = item_ids(self.exclude, size, labels, sample_id)
        u = units(z) if present is None else {}
        terms = []
        for a, b in itertools.combinations(z, 2):
            if present is None:
                x, y, pair_ids = u[a], u[b], ids
            else:  # absent rows may hold anything, NaN too
                both = present[a] & present[b]
                x, y, pair_ids = unit(z[a][both]), unit(z[b][both]), None if ids is None else ids[both]
            if len(x) > 1:
                terms.append(self.pair(x, y, pair_ids))
        skipped = math.comb(len(z), 2) - len(terms)
        if skipped:
            self.log["skipped_pairs"] = skipped
        return average(terms) if terms else zero_loss(z)

    def pair(self, x: Tensor, y: Tensor, ids: Tensor | None) -> Tensor:
        """The loss of unit rows `x`, `y` `[B, D]`; row i of both is one item. `ids` are those of `item_ids`."""
        raise NotImplementedError
