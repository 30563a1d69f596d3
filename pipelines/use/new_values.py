"""Cells that hold what training did not: unknown categories, and numbers far outside the range of training."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clx.modalities.base import Modality
from clx.modalities.table import Table
from clx.pipelines.batches.batch import Batch
from clx.pipelines.batches.cells import cell_at
from clx.pipelines.data.manifest import Manifest

SHOWN = 3


@dataclass
class NewValues:
    """How many cells of each column, with the first values of them."""

    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    """By column and what is said of its cells."""
    first: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    """Where the first values are, by value; one more than is shown."""

    def look(self, modalities: Mapping[str, Modality], manifest: Manifest, batch: Batch) -> None:
        """Count those in a batch of rows of a manifest."""
        rows = batch.sample_id.numpy()
        for name, modality in modalities.items():
            if isinstance(modality, Table) and name in batch.inputs:
                odd = rows[batch.present[name].numpy()][modality.suspects(batch.inputs[name]["x"]).numpy()]
                for i in np.searchsorted(manifest.rows, odd).tolist():
                    cells = cell_at(manifest, i, name, modality)
                    self.add(cells, modality.novel(cells), f"row {int(manifest.rows[i]) + 1}")

    def add(self, cells: Mapping[str, Any], new: Mapping[str, str], where: str) -> None:
        """Count what is new in a row."""
        for key in new.items():
            self.counts[key] = self.counts.get(key, 0) + 1
            shown = self.first.setdefault(key, {})
            if len(shown) <= SHOWN:
                column = key[0] if key[0] in cells else key[0].rpartition(" (")[0]  # of a part of a date
                shown.setdefault(repr(cells[column]), where)

    def join(self, others: Iterable["NewValues"]) -> None:
        """Count those of other rows, too."""
        for other in others:
            for key, count in other.counts.items():
                self.counts[key] = self.counts.get(key, 0) + count
                shown = other.first[key] | self.first.get(key, {})
                self.first[key] = dict(list(shown.items())[: SHOWN + 1])

    def lines(self) -> list[str]:
        """A line for each column, such as `1 cell of city holds a value that training lacks: 'Genf' (row 1)`."""
        return [self._line(*key) for key in self.counts]

    def _line(self, column: str, said: str) -> str:
        count, shown = self.counts[column, said], self.first[column, said]
        some = [f"{value} ({where})" for value, where in shown.items()][:SHOWN]
        more = ", ..." if len(shown) > SHOWN else ""
        cells = "1 cell" if count == 1 else f"{count} cells"
        return f"{cells} of {column} hold{'s' * (count == 1)} {said}: {', '.join(some)}{more}"
