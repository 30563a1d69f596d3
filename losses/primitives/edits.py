"""Which pairs of rows a primitive counts: edits of tiles of logits before they are exponentiated."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Edit = Callable[[Tensor, slice, slice], Tensor | None]
"""Called with a tile of logits and its slices of rows and columns. It sets single entries to -inf in place, or returns
weights of the tile's exponentials, 0 for pairs that do not count. It may add to the logits what does not depend on the
embeddings. It must do the same each time, and be symmetric for `gram`.

Weights are for masks that leave out many pairs: on CPU, exp of -inf takes ten times as long as exp of a number.
"""

PairWeights = Callable[[slice, slice], Tensor]
"""Called with a tile's slices of rows and columns; returns the weights of its pairs."""


def off_diagonal(s: Tensor, i: slice, j: slice) -> None:
    """Edit that leaves out the pairs of a row with itself."""
    if i.start == j.start:
        s.fill_diagonal_(-math.inf)
    elif i.start < j.stop and j.start < i.stop:
        s.diagonal(i.start - j.start).fill_(-math.inf)


def off_items(size: int) -> Edit:
    """Edit for the concatenated views of `size` items: leaves out the pairs of two rows of one item."""

    def leave_out(s: Tensor, i: slice, j: slice) -> None:
        if not size:
            return
        along = i.start - j.start
        for step in range(-((s.shape[1] - 1 - along) // size) * size, along + len(s), size):
            s.diagonal(along - step).fill_(-math.inf)

    return leave_out


def off_absent_items(size: int, present: Tensor) -> Edit:
    """As `off_items`, and leaves out all pairs of rows that are not `present` `[V size]`, on a GPU."""
    leave_out, absent = off_items(size), ~present

    def edit(s: Tensor, i: slice, j: slice) -> None:
        leave_out(s, i, j)
        s.masked_fill_(absent[i, None], -math.inf).masked_fill_(absent[j], -math.inf)

    return edit


class DifferentIds:
    """Edit that leaves out pairs of equal id: the same item, sample or label.

    `ids` are those of the rows and of the columns; `of_columns` those of the columns where they differ.
    """

    def __init__(self, ids: Tensor, of_columns: Tensor | None = None) -> None:
        self.ids = ids
        self.of_columns = ids if of_columns is None else of_columns
        self.sorted: dict[tuple[int, int], tuple[Tensor, Tensor, bool]] = {}

    def __call__(self, s: Tensor, i: slice, j: slice) -> Tensor | None:
        if s.is_cuda:  # comparing all pairs is faster than waiting for the places of equal ids
            s.masked_fill_(self.ids[i, None] == self.of_columns[j], -math.inf)
            return None
        if 8 * len(s) <= s.shape[1]:  # so few rows that comparing takes less time than a sort of the columns
            return (self.ids[i, None] != self.of_columns[j]).to(s.dtype)
        values, order, unique = self._sort(j)
        if not unique:
            return (self.ids[i, None] != self.of_columns[j]).to(s.dtype)
        place = torch.searchsorted(values, self.ids[i]).clamp_(max=len(values) - 1)
        row = (values[place] == self.ids[i]).nonzero()[:, 0]
        s[row, order[place[row]]] = -math.inf
        return None

    def _sort(self, part: slice) -> tuple[Tensor, Tensor, bool]:
        """Ids of a part of the columns in ascending order, the place each had, and whether all differ."""
        key = part.start, part.stop
        if key not in self.sorted:
            values, order = self.of_columns[part].sort()
            self.sorted[key] = values, order, bool((values[1:] != values[:-1]).all())
        return self.sorted[key]


def either(*edits: Edit | None) -> Edit | None:
    """Edit that leaves out what any of these do; None of none."""
    given = [edit for edit in edits if edit is not None]
    if len(given) < 2:
        return given[0] if given else None

    def all_of_them(s: Tensor, i: slice, j: slice) -> Tensor | None:
        weights = None
        for edit in given:
            more = edit(s, i, j)
            weights = more if weights is None else weights if more is None else weights * more
        return weights

    return all_of_them


class SameIds:
    """Edit that keeps pairs of equal id only, and of these not a row with itself."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    def __call__(self, s: Tensor, i: slice, j: slice) -> Tensor:
        off_diagonal(s, i, j)
        return (self.ids[i, None] == self.ids[j]).to(s.dtype)
