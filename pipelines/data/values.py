"""Which rows of a manifest have the same value in a column, for ten million rows too."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from clx.pipelines.config.data_schema import Data
from clx.pipelines.data.arrow_types import is_bytes, is_list
from clx.pipelines.data.distinct import distinct
from clx.pipelines.data.imbalance import label_of
from clx.pipelines.data.label_sets import holds_sets
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.system.errors import BadInput

LIKE_IT = 4
"""Rows of the same value that are tried in a bad one's place, before any row is."""


@dataclass(frozen=True)
class Values:
    """Rows by what they have in a column."""

    column: str
    names: list[str]
    """Of the values, in the order of their first rows."""
    codes: NDArray[np.int32]
    """Which value each row has `[N]`; -1 for none."""

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each value `[V]`."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))

    @property
    def without(self) -> int:
        """Rows that have none."""
        return len(self.codes) - int(self.counts.sum())

    def apart(self) -> NDArray[np.int32]:
        """`codes` where each row that has no value has one of its own."""
        alone = np.flatnonzero(self.codes < 0)
        found = self.codes.copy()
        found[alone] = len(self.names) + np.arange(len(alone))
        return found

    def like(self, row: int) -> NDArray[np.int64]:
        """The other rows that have the value of a row; all rows where there are none."""
        same = self.codes == self.codes[row]
        same[row] = False
        return np.flatnonzero(same) if self.codes[row] >= 0 and same.any() else np.arange(len(same))


def values_of(manifest: Manifest, column: str, key: str) -> Values:
    """Rows by their cells in a column that `key` of the config names. Raises `BadInput`, also for lists and bytes."""
    kind = manifest.table.schema.field(column).type
    if is_list(kind) or is_bytes(kind):
        what = "lists" if is_list(kind) else "bytes"
        raise BadInput(f"{key}: {column} of {manifest.name} holds {what}; rows meet by texts or numbers that are equal")
    cells, of_row = distinct(manifest, column)
    return _numbered(column, [None if cell is None else str(cell) for cell in cells], of_row)


def classes_of(data: Data, manifest: Manifest, key: str) -> Values:
    """Rows by their classes. Raises `BadInput` where labels are sets."""
    assert data.label_column is not None
    if holds_sets(data, manifest):
        raise BadInput(f"{key} needs one class per row, and in {data.label_named} of {manifest.name} are sets")
    cells, of_row = distinct(manifest, data.label_column)
    return _numbered(data.label_column, [label_of(data, cell) for cell in cells], of_row)


def _numbered(column: str, names: list[str | None], of_row: NDArray[np.int64]) -> Values:
    """From the name of each different cell, of which several may be equal, and which of them a row has."""
    known: dict[str, int] = {}
    codes = np.array([-1 if name is None else known.setdefault(name, len(known)) for name in names], dtype=np.int32)
    return Values(column, list(known), codes[of_row])
