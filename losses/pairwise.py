"""Losses of two inputs: the mean over all pairs of names, and which rows are no negatives of each other.

The `forward`s here and in `further_negatives` look alike and stay apart: what a loss is given is what its signature
names, so one for all would ask of each for weights and negatives that only some look at. What they do is in
`ids_or_guide`, `over_pairs` and `among`.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clx.losses.base import Embeddings, Exclude, Loss, Tempered, average, require_two_inputs, zero_loss
from clx.losses.judge import Guided, asked_for, check_judge
from clx.losses.primitives.functional import unit, units
from clx.losses.primitives.judged import Judged
from clx.losses.primitives.masks import chosen

Ids = Tensor | Judged
"""Which rows are no negatives of each other: those of equal id, or those that a second model finds alike."""
PairLoss = Callable[[Tensor, Tensor, Any, str, Tensor | slice], Tensor]
"""The loss of unit rows `x`, `y`, their `Ids` or None, the name that `y` is of, and which rows of the batch they are.
"""


def item_ids(
    exclude: Exclude, size: int, labels: Tensor | None, sample_id: Tensor | None, repeats: Tensor | None = None
) -> Tensor | None:
    """Ids `[B]` such that rows of equal id are no negatives of each other, by `exclude`; None for `exclude: none`, and
    for `exclude: repeats` where there are none.

    A row without a label (-1) gets an id that no other row has.

    Raises:
        ValueError: if the batch lacks the labels or sample ids that `exclude` asks for, or a second model is to say.
    """
    if not isinstance(exclude, str):
        raise ValueError("exclude by a second model is not for this loss")
    if exclude == "none" or (exclude == "repeats" and repeats is None):
        return None
    if exclude == "repeats":
        return repeats
    ids = labels if exclude == "labels" else sample_id
    if ids is None:
        raise ValueError(f"exclude is {exclude!r}, but the batch has no {exclude}")
    return torch.where(ids < 0, -1 - torch.arange(size, device=ids.device), ids)


def ids_or_guide(
    exclude: Exclude,
    size: int,
    labels: Tensor | None,
    sample_id: Tensor | None,
    repeats: Tensor | None,
    keys: Embeddings | None,
) -> Tensor | Guided | None:
    """`item_ids`, or, where `exclude` is a mapping, what a second model is to say by its `keys`."""
    if isinstance(exclude, str):
        return item_ids(exclude, size, labels, sample_id, repeats)
    if keys is None:
        raise ValueError("exclude is by a second model, whose keys are not given")
    return Guided(exclude, keys)


@dataclass(eq=False, kw_only=True)
class OverPairs(Loss):
    """Mean of a two-input loss over all unordered pairs of names, each on the rows where both are present.

    Rows of equal `repeats`, or, with `exclude`, of equal `sample_id` or `labels`, or that a second model finds alike,
    are no negatives of each other. A pair of names with fewer than two common rows is left out of the mean and logged
    as `skipped_pairs`; with no pair left the loss is 0.
    """

    exclude: Exclude = "repeats"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_judge(self.exclude)

    def requires(self) -> frozenset[str]:
        return super().requires() | asked_for(self.exclude)

    def forward(
        self,
        z: Embeddings,
        *,
        present: dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
        sample_id: Tensor | None = None,
        repeats: Tensor | None = None,
        keys: Embeddings | None = None,
    ) -> Tensor:
        size = len(next(iter(z.values())))
        ids = ids_or_guide(self.exclude, size, labels, sample_id, repeats, keys)
        return self.over_pairs(z, present, ids, lambda x, y, ids, *_: self.pair(x, y, ids))

    def over_pairs(
        self,
        z: Embeddings,
        present: dict[str, Tensor] | None,
        ids: Tensor | Guided | None,
        pair: PairLoss,
        fewest: int = 2,
    ) -> Tensor:
        """The mean of `pair` over the pairs of names that have `fewest` common rows."""
        require_two_inputs(z)
        u = units(z) if present is None else {}
        names, terms = list(itertools.combinations(z, 2)), []
        rows: Sequence[Tensor | slice] = [slice(None)] * len(names)
        if present is not None:
            rows = chosen([present[a] & present[b] for a, b in names])
        for (a, b), both in zip(names, rows, strict=True):
            if present is None:
                x, y = u[a], u[b]
            else:  # absent rows may hold anything, NaN too
                x, y = unit(z[a][both]), unit(z[b][both])
            if len(x) >= fewest:
                judged = ids.of(a, b, both) if isinstance(ids, Guided) else None
                own = ids[both] if isinstance(ids, Tensor) and present is not None else ids
                terms.append(pair(x, y, own if judged is None else judged, b, both))
        skipped = math.comb(len(z), 2) - len(terms)
        if skipped:
            self.log["skipped_pairs"] = skipped
        return average(terms) if terms else zero_loss(z)

    def pair(self, x: Tensor, y: Tensor, ids: Ids | None) -> Tensor:
        """The loss of unit rows `x`, `y` `[B, D]`; row i of both is one item. `ids` say which are no negatives."""
        raise NotImplementedError


@dataclass(eq=False, kw_only=True)
class Pairwise(OverPairs, Tempered):
    """Such a mean of a loss with a temperature."""


WEIGHED = "of data.weight, after GCL, whose code is not published: terms are divided by the rows, not by their weights"
