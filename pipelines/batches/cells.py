"""What a modality takes from a row of a manifest: its columns, its cell, and the sample of that or of a pair."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clx.modalities.base import Input, Modality
from clx.modalities.series import Series
from clx.modalities.series_files import piece_of
from clx.pipelines.batches.columns import column_of, columns_of
from clx.pipelines.data.manifest import Manifest, resolve
from clx.pipelines.data.windows import FUTURE
from clx.pipelines.system.errors import BadInput


def cell_of(row: dict[str, Any], name: str, modality: Modality, manifest: Manifest) -> Any:
    """The resolved cell of one modality in a raw row; None when it is missing.

    A table's cell is `{column: value}`, present with any of them; a pair's is a tuple of both, or missing.
    """
    column = column_of(name, modality)
    if isinstance(column, str):
        return _resolved(row[column], modality, manifest)
    if modality.kind == "table":
        cells = {each: row[each] for each in column}
        return cells if any(value is not None for value in cells.values()) else None
    pair = tuple(_resolved(row[each], modality, manifest) for each in column)
    return None if any(one is None for one in pair) else pair


def cell_at(manifest: Manifest, i: int, name: str, modality: Modality) -> Any:
    """The same in row `i`, of which nothing else is looked at."""
    return cell_of(manifest.row(i, columns_of({name: modality})), name, modality, manifest)


def _resolved(value: Any, modality: Modality, manifest: Manifest) -> Any:
    inline = modality.kind == "series" and isinstance(value, str) and value.lstrip().startswith("[")
    if value is None or not modality.files or inline:
        return value
    file = piece_of(value)[0] if modality.kind == "series" and isinstance(value, str) else value
    found = resolve(file, manifest)  # what may be opened is decided by the file alone, not by a piece of it
    return found if file is value else Path(f"{found}{value.removeprefix(file)}")


def future_of(row: dict[str, Any], modality: Modality, manifest: Manifest, steps: int) -> Tensor:
    """What a series measures in the `steps` behind a window, `[steps, C]`, NaN where it has ended or has a gap."""
    assert isinstance(modality, Series)
    found = torch.full((steps, modality.channels), torch.nan)
    cell = _resolved(row[FUTURE], modality, manifest)
    if cell is not None:
        values = modality.measured(cell)[:steps]
        found[: len(values)] = values
    return found


def cells(manifest: Manifest, name: str, modality: Modality) -> Iterator[Any]:
    """Present cells of one modality, for `Modality.fit`; paths that are refused are passed over.

    Of more than `modality.fit_rows` rows about as many are taken, evenly spread: statistics need no more.
    """
    for i in range(0, len(manifest), max(1, len(manifest) // modality.fit_rows)):
        with suppress(BadInput):
            cell = cell_at(manifest, i, name, modality)
            if cell is not None and modality.pair is not None:
                yield from cell
            elif cell is not None:
                yield cell


def read_cell(modality: Modality, cell: Any) -> Any:
    """The sample of a cell, or both samples of a pair. Raises `CellError`."""
    return modality.read(cell) if modality.pair is None else tuple(modality.read(one) for one in cell)


def vary(modality: Modality, samples: Sequence[list[Any]], generator: torch.Generator) -> list[list[Any]]:
    """A batch's views from the samples, or pairs of samples, that each is made of (see `Modality.vary`)."""
    if modality.pair is None:
        return modality.vary(samples, generator)
    flat = [[one for side in zip(*pairs, strict=True) for one in side] for pairs in samples]
    halves = [(view[: len(view) // 2], view[len(view) // 2 :]) for view in modality.vary(flat, generator)]
    return [list(zip(*sides, strict=True)) for sides in halves]


def collate(modality: Modality, samples: Sequence[Any]) -> Input:
    """Samples as one batch; of N pairs all first ones, then all second ones, 2 N rows."""
    if modality.pair is None:
        return modality.collate(samples)
    return modality.collate([one for side in zip(*samples, strict=True) for one in side])
