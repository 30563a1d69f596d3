"""Which rows are never negatives of each other: known partners, equal cells, and rows that share a label."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clx.pipelines.data.distinct import distinct
from clx.pipelines.data.label_sets import labels_in
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.shared_content import keys_of

Ints = NDArray[np.int64]
Several = str | Literal[False]
"""What divides the labels of a set in a text; False for nothing."""


@dataclass(frozen=True)
class Starts:
    """Numbers of each of some things: those of thing q are `numbers[starts[q] : starts[q + 1]]`, ascending."""

    starts: Ints
    numbers: Ints

    @classmethod
    def of(cls, things: Ints, numbers: Ints, count: int) -> "Starts":
        """From pairs in any order, doubles allowed."""
        order = np.lexsort((numbers, things))
        things, numbers = things[order], numbers[order]
        new = np.ones(len(things), dtype=bool)
        new[1:] = (np.diff(things) != 0) | (np.diff(numbers) != 0)
        things, numbers = things[new], numbers[new]
        return cls(np.searchsorted(things, np.arange(count + 1)), numbers)

    def pairs(self, things: Ints) -> tuple[Ints, Ints]:
        """For some things in their order: the place of a thing among them, and a number, for each pair."""
        counts = self.starts[things + 1] - self.starts[things]
        place = np.repeat(np.arange(len(things)), counts)
        inside = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        return place, self.numbers[np.repeat(self.starts[things], counts) + inside]


@dataclass(frozen=True)
class Alike:
    """The different cells that rows are asked of, and which of them are no negatives of a row."""

    candidates: Ints
    """`[U]`: the first row of each different cell, ascending."""
    of_row: Ints
    """`[N]`: the candidate that is a row's own partner; -1 where it has none."""
    partners: Starts
    """Of each row `[N]` the candidates that are its partners, or equal to what it asks with."""
    labels: tuple[tuple[Ints, Ints], ...]
    """Of each column whose values are compared: those of rows `[N, L]` and of candidates `[U, M]`, -1 for none."""

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        by: str | None,
        among: str | None,
        there: NDArray[np.bool_],
        same: Mapping[str, Several],
    ) -> "Alike":
        """Of the rows of a manifest.

        Args:
            by: the column that asks; None where it is no single one, so that no two cells are equal.
            among: the column that is asked of.
            there: which rows have what is asked of, `[N]`.
            same: columns whose values are compared, with what divides those of a cell: rows that share one are never
                negatives.
        """
        count = len(manifest)
        asked, answers = _keys(manifest, by, count, 1), _keys(manifest, among, count, 2)
        if by == among:
            answers = asked
        cells, first, cell_of = np.unique(np.where(there, answers, 0), return_index=True, return_inverse=True)
        real = cells != 0
        order = np.argsort(first[real])
        candidates = first[real][order]
        number_of = np.full(len(cells), -1, dtype=np.int64)
        number_of[np.flatnonzero(real)[order]] = np.arange(len(order))
        of_row = number_of[cell_of]

        def numbers(keys: Ints) -> Ints:
            """The candidates of some cells, -1 for none."""
            place = np.minimum(np.searchsorted(cells, keys), len(cells) - 1)
            return np.where(cells[place] == keys, number_of[place], -1)

        # partners of a cell: what stands beside it in any row, on either side, and itself
        left = np.concatenate([asked, answers, asked])
        right = np.concatenate([of_row, numbers(asked), numbers(asked)])
        things, thing_of = np.unique(asked, return_inverse=True)
        known = np.minimum(np.searchsorted(things, left), len(things) - 1)
        kept = (things[known] == left) & (left != 0) & (right >= 0)
        of_thing = Starts.of(known[kept], right[kept], len(things))
        place, partner = of_thing.pairs(thing_of)
        own = of_row >= 0  # also where what asks is missing
        partners = Starts.of(
            np.concatenate([place, np.flatnonzero(own)]), np.concatenate([partner, of_row[own]]), count
        )
        labels = tuple(_labels(manifest, *each, of_row, len(candidates)) for each in same.items())
        return cls(candidates, of_row, partners, labels)

    def mask(self, rows: Ints, device: torch.device | str = "cpu", by_label: bool = True) -> "Mask":
        """For some rows, `[q]`; without `by_label` by partners and equal cells alone."""
        place, number = self.partners.pairs(rows)
        order = np.argsort(number, kind="stable")
        labels = [(torch.from_numpy(mine[rows]).to(device), others) for mine, others in self.labels if by_label]
        return Mask(number[order], torch.from_numpy(place[order]).to(device), labels, device)

    def allowed(self, rows: Ints, numbers: Ints) -> NDArray[np.bool_]:
        """Whether candidates may be negatives of rows, pair by pair."""
        of = np.repeat(np.arange(len(self.of_row)), np.diff(self.partners.starts))
        size = max(1, len(self.candidates))
        known = np.isin(rows * size + numbers, of * size + self.partners.numbers)
        for mine, others in self.labels:
            shared = (mine[rows][:, :, None] == others[numbers][:, None, :]) & (mine[rows] >= 0)[:, :, None]
            known |= shared.any((1, 2))
        return ~known


@dataclass(frozen=True)
class Mask:
    """Which of the candidates are no negatives of a tile of rows."""

    numbers: Ints
    """Of partners, ascending,"""
    places: Tensor
    """and whose they are in the tile."""
    labels: list[tuple[Tensor, Ints]]
    device: torch.device | str

    def hide(self, start: int, scores: Tensor) -> Tensor:
        """Scores `[q, n]` of the candidates from number `start` on, NaN for those that are none."""
        first, end = np.searchsorted(self.numbers, [start, start + scores.shape[1]])
        columns = torch.from_numpy(self.numbers[first:end] - start).to(self.device)
        scores[self.places[first:end], columns] = torch.nan
        for mine, others in self.labels:
            theirs = others[start : start + scores.shape[1]]
            theirs = theirs[:, (theirs >= 0).any(0)]
            for slot in torch.from_numpy(theirs).to(self.device).T:
                for own in mine.T:
                    scores.masked_fill_((own[:, None] == slot) & (own >= 0)[:, None], torch.nan)
        return scores


def _keys(manifest: Manifest, column: str | None, count: int, side: int) -> Ints:
    """A number per row, equal for equal cells and 0 for none; each row's own without a column."""
    if column is not None:
        return keys_of(manifest, column)
    return side * (1 << 61) + np.arange(1, count + 1, dtype=np.int64)


def _labels(manifest: Manifest, column: str, several: Several, of_row: Ints, candidates: int) -> tuple[Ints, Ints]:
    """The values of a column for rows, and for candidates, whose rows may have several."""
    values, value_of = distinct(manifest, column)
    known: dict[str, int] = {}
    sets = [[known.setdefault(name, len(known)) for name in labels_in(value, several) or []] for value in values]
    of_value = Starts(np.cumsum([0, *map(len, sets)]), np.array([k for each in sets for k in each], dtype=np.int64))
    place, label = of_value.pairs(value_of)
    has = of_row[place] >= 0
    rows = Starts.of(place, label, len(manifest))
    return _padded(rows), _padded(Starts.of(of_row[place][has], label[has], candidates))


def _padded(numbers: Starts) -> Ints:
    """`[N, M]`, -1 behind the last of each."""
    counts = np.diff(numbers.starts)
    place, number = numbers.pairs(np.arange(len(counts)))
    found = np.full((len(counts), int(counts.max(initial=0))), -1, dtype=np.int64)
    found[place, np.arange(len(place)) - numbers.starts[place]] = number
    return found
