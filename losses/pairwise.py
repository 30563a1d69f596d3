"""Losses of two inputs: the mean over all pairs of names, and which rows are no negatives of each other."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from clx.losses.base import Embeddings, Exclude, Loss, Tempered, average, require_two_inputs, zero_loss
from clx.losses.primitives.edits import DifferentIds
from clx.losses.primitives.functional import lse, paired_similarity, unit, units
from clx.losses.primitives.masks import chosen
from clx.losses.primitives.streaming import cross_rows

PairLoss = Callable[[Tensor, Tensor, Tensor | None, str, Tensor | slice], Tensor]
"""The loss of unit rows `x`, `y`, their ids, the name that `y` is of, and which rows of the batch they are."""


def item_ids(
    exclude: Exclude, size: int, labels: Tensor | None, sample_id: Tensor | None, repeats: Tensor | None = None
) -> Tensor | None:
    """Ids `[B]` such that rows of equal id are no negatives of each other, by `exclude`; None for `exclude: none`, and
    for `exclude: repeats` where there are none.

    A row without a label (-1) gets an id that no other row has.

    Raises:
        ValueError: if the batch lacks the labels or sample ids that `exclude` asks for.
    """
    if exclude == "none" or (exclude == "repeats" and repeats is None):
        return None
    if exclude == "repeats":
        return repeats
    ids = labels if exclude == "labels" else sample_id
    if ids is None:
        raise ValueError(f"exclude is {exclude!r}, but the batch has no {exclude}")
    return torch.where(ids < 0, -1 - torch.arange(size, device=ids.device), ids)


@dataclass(eq=False, kw_only=True)
class OverPairs(Loss):
    """Mean of a two-input loss over all unordered pairs of names, each on the rows where both are present.

    Rows of equal `repeats`, or, with `exclude`, of equal `sample_id` or `labels`, are no negatives of each other. A
    pair of names with fewer than two common rows is left out of the mean and logged as `skipped_pairs`; with no pair
    left the loss is 0.
    """

    exclude: Exclude = "repeats"

    def requires(self) -> frozenset[str]:
        return super().requires() | ({self.exclude} & {"sample_id", "labels"})

    def forward(
        self,
        z: Embeddings,
        *,
        present: dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
        sample_id: Tensor | None = None,
        repeats: Tensor | None = None,
    ) -> Tensor:
        size = len(next(iter(z.values())))
        ids = item_ids(self.exclude, size, labels, sample_id, repeats)
        return self.over_pairs(z, present, ids, lambda x, y, ids, *_: self.pair(x, y, ids))

    def over_pairs(
        self, z: Embeddings, present: dict[str, Tensor] | None, ids: Tensor | None, pair: PairLoss, fewest: int = 2
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
                x, y, pair_ids = u[a], u[b], ids
            else:  # absent rows may hold anything, NaN too
                x, y, pair_ids = unit(z[a][both]), unit(z[b][both]), None if ids is None else ids[both]
            if len(x) >= fewest:
                terms.append(pair(x, y, pair_ids, b, both))
        skipped = math.comb(len(z), 2) - len(terms)
        if skipped:
            self.log["skipped_pairs"] = skipped
        return average(terms) if terms else zero_loss(z)

    def pair(self, x: Tensor, y: Tensor, ids: Tensor | None) -> Tensor:
        """The loss of unit rows `x`, `y` `[B, D]`; row i of both is one item. `ids` are those of `item_ids`."""
        raise NotImplementedError


@dataclass(eq=False, kw_only=True)
class Pairwise(OverPairs, Tempered):
    """Such a mean of a loss with a temperature."""


WEIGHED = "of data.weight, after GCL, whose code is not published: terms are divided by the rows, not by their weights"


@dataclass(eq=False, kw_only=True)
class WeightedPairwise(Pairwise):
    """`Pairwise` of losses that have a term a row, which its weight multiplies."""

    ours = WEIGHED

    def forward(
        self,
        z: Embeddings,
        *,
        present: dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
        sample_id: Tensor | None = None,
        repeats: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        size = len(next(iter(z.values())))
        ids = item_ids(self.exclude, size, labels, sample_id, repeats)

        def pair(x: Tensor, y: Tensor, ids: Tensor | None, name: str, rows: Tensor | slice) -> Tensor:
            return self.pair(x, y, ids, None if weights is None else weights[rows])

        return self.over_pairs(z, present, ids, pair)

    def pair(self, x: Tensor, y: Tensor, ids: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """As `Pairwise.pair`, each row's terms times its weight `[B]`."""
        raise NotImplementedError


class Negatives(NamedTuple):
    """Rows that are negatives of every anchor and nothing else, such as hard negatives that were mined."""

    rows: Tensor
    """`[N, D]`, unit rows."""
    edit: DifferentIds | None = None
    """Which of them (columns) are none for which anchor (rows)."""

    def out(self, s: Tensor, rows: slice) -> Tensor:
        """Which of them are no negatives of these anchors, in the shape of a block of similarities `[b, N]`."""
        if self.edit is None:
            return torch.zeros_like(s, dtype=torch.bool)
        return self.edit.ids[rows, None] == self.edit.of_columns


Among = Callable[[Tensor, Tensor, Tensor | None, Negatives | None, Tensor | slice], Tensor]
"""The loss of unit rows `x`, `y`, their ids, the negatives of `x`, and which rows of the batch they are."""


@dataclass(eq=False, kw_only=True)
class WithNegatives(OverPairs):
    """`OverPairs` whose anchors, the rows of the first of two names, may see further rows besides the second's.

    These are the rows of all the names in `negatives` that are there, whatever row of the batch they stand in. One that
    repeats an anchor's own partner, by `contents`, is no negative of that anchor; `exclude` is about rows of the batch,
    whose label is not that of their negatives. With negatives a pair of names needs one common row.
    """

    def forward(
        self,
        z: Embeddings,
        *,
        present: dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
        sample_id: Tensor | None = None,
        repeats: Tensor | None = None,
        negatives: Embeddings | None = None,
        contents: dict[str, Tensor] | None = None,
    ) -> Tensor:
        ids = item_ids(self.exclude, len(next(iter(z.values()))), labels, sample_id, repeats)
        return self.among(z, present, ids, negatives, contents, lambda x, y, ids, more, _: self.pair(x, y, ids, more))

    def among(
        self,
        z: Embeddings,
        present: dict[str, Tensor] | None,
        ids: Tensor | None,
        negatives: Embeddings | None,
        contents: dict[str, Tensor] | None,
        pair: Among,
    ) -> Tensor:
        """`over_pairs` with the negatives that are there."""
        further = negatives or {}
        here: dict[str, Tensor | slice] = dict.fromkeys(further, slice(None))
        if present is not None and further:
            here = dict(zip(further, chosen([present[n] for n in further]), strict=True))
        found = [x[here[n]] for n, x in further.items()]
        if not sum(map(len, found)):
            return self.over_pairs(z, present, ids, lambda x, y, ids, _, rows: pair(x, y, ids, None, rows))
        rows = unit(torch.cat(found))
        theirs = None if contents is None else torch.cat([contents[n][here[n]] for n in further])

        def beside(x: Tensor, y: Tensor, ids: Tensor | None, name: str, both: Tensor | slice) -> Tensor:
            edit = None if contents is None or theirs is None else DifferentIds(contents[name][both], theirs)
            return pair(x, y, ids, Negatives(rows, edit), both)

        return self.over_pairs(z, present, ids, beside, fewest=1)

    def pair(self, x: Tensor, y: Tensor, ids: Tensor | None, negatives: Negatives | None = None) -> Tensor:
        """As `OverPairs.pair`, with further `negatives` of the rows of `x`."""
        raise NotImplementedError


@dataclass(eq=False, kw_only=True)
class PairwiseWithNegatives(WithNegatives, Pairwise):
    """Both: a temperature, and further negatives."""


@dataclass(eq=False, kw_only=True)
class WeightedWithNegatives(PairwiseWithNegatives):
    """`PairwiseWithNegatives` of losses that have a term a row, which its weight multiplies."""

    ours = WEIGHED

    def forward(
        self,
        z: Embeddings,
        *,
        present: dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
        sample_id: Tensor | None = None,
        repeats: Tensor | None = None,
        negatives: Embeddings | None = None,
        contents: dict[str, Tensor] | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        ids = item_ids(self.exclude, len(next(iter(z.values()))), labels, sample_id, repeats)

        def pair(x: Tensor, y: Tensor, ids: Tensor | None, more: Negatives | None, rows: Tensor | slice) -> Tensor:
            return self.pair(x, y, ids, more, None if weights is None else weights[rows])

        return self.among(z, present, ids, negatives, contents, pair)

    def pair(
        self,
        x: Tensor,
        y: Tensor,
        ids: Tensor | None,
        negatives: Negatives | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """As `PairwiseWithNegatives.pair`, each row's terms times its weight `[B]`."""
        raise NotImplementedError


def add_negatives(margins: Tensor, x: Tensor, y: Tensor, temperature: Tensor | float, more: Negatives) -> Tensor:
    """Margins of the rows of `x` with further negatives.

    Args:
        margins: `[B]`, or `[2B]` of which the first B are those of `x`, as `cross_margins` gives them.
        x, y: `[B, D]`, unit rows; row i of both is one item.

    Returns:
        `margins`, the first B of them with the log-sum-exp over the negatives besides.
    """
    beside = cross_rows(x, more.rows, temperature, more.edit) - paired_similarity(x, y, temperature)
    return torch.cat([lse(torch.stack([margins[: len(x)], beside]), 0), margins[len(x) :]])
