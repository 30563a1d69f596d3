"""What a modality takes from a row of a manifest: its columns, its cell, and the sample of that or of a pair."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clx.modalities.base import CellError, Input, Modality
from clx.modalities.draws import Draws
from clx.modalities.series import Series
from clx.modalities.series_files import piece_of
from clx.pipelines.batches.columns import column_of, columns_of
from clx.pipelines.data.arrow_types import is_list
from clx.pipelines.data.cell_files import ahead, fetched, here, resolve
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.pieces import Piece
from clx.pipelines.data.windows import FUTURE
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.remote import Url

LOOKED_AT = 20
"""Rows, evenly spread, whose cells tell what a column holds."""
FETCHED = 1000
"""Rows with files elsewhere that are read for what a modality learns of its cells."""
ASKED = 64
"""Rows whose files are asked for at once, where rows are read one by one."""


def cell_of(row: dict[str, Any], name: str, modality: Modality, manifest: Manifest) -> Any:
    """The resolved cell of one modality in a raw row; None when it is missing.

    A table's cell is `{column: value}`, present with any of them; a pair's is a tuple of both, or missing. Several
    captions, images or recordings of one row are a list of two or more.
    """
    column = column_of(name, modality)
    if isinstance(column, str):
        return _one_or_several(row[column], modality, manifest)
    if modality.kind == "table":
        cells = {each: row[each] for each in column}
        return cells if any(value is not None for value in cells.values()) else None
    pair = tuple(_resolved(row[each], modality, manifest) for each in column)
    return None if any(one is None for one in pair) else pair


def cell_at(manifest: Manifest, i: int, name: str, modality: Modality) -> Any:
    """The same in row `i`, of which nothing else is looked at."""
    return cell_of(manifest.row(i, columns_of({name: modality})), name, modality, manifest.of_row(i))


def _one_or_several(value: Any, modality: Modality, manifest: Manifest) -> Any:
    """The resolved cell, or those of a list."""
    if not (isinstance(value, list) and modality.takes_several):
        return _resolved(value, modality, manifest)
    return one_or_several([_resolved(one, modality, manifest) for one in value])


def one_or_several(found: list[Any]) -> Any:
    """A list of cells; a list of one is that one, and an empty one is missing."""
    return found if len(found) > 1 else found[0] if found else None


def reads_files(manifest: Manifest, name: str, modality: Modality) -> bool:
    """Whether one of some twenty cells of a modality is a file, or the bytes of one."""
    for i in range(0, len(manifest), max(1, len(manifest) // LOOKED_AT)) if modality.files else ():
        with suppress(BadInput):
            cell = cell_at(manifest, i, name, modality)
            if isinstance(cell[0] if isinstance(cell, (list, tuple)) and cell else cell, (Path, Url, Piece, bytes)):
                return True
    return False


def holds_lists(manifest: Manifest, name: str, modality: Modality) -> bool:
    """Whether a modality's column may have several cells in a row."""
    import pyarrow.types as types

    column = column_of(name, modality)
    if not modality.takes_several or not isinstance(column, str) or column not in manifest.columns:
        return False
    kind = manifest.table.schema.field(column).type
    return is_list(kind) or bool(types.is_struct(kind))


def content_of(cell: Any) -> int:
    """64 bits that are the same for cells of equal content, of a pair and of several that of each; a file, and a piece
    of one, is what its path says."""
    if isinstance(cell, tuple | list):
        told = "".join(f"{content_of(one)} " for one in cell).encode()
    elif isinstance(cell, np.ndarray):
        told = f"{cell.shape}{cell.dtype}".encode() + cell.tobytes()
    elif isinstance(cell, dict):
        told = str(sorted(cell.items())).encode("utf-8", "surrogateescape")
    else:
        text = cell.key if isinstance(cell, Piece) else cell.text if isinstance(cell, Url) else str(cell).strip()
        told = cell if isinstance(cell, bytes) else text.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "big", signed=True)


def _resolved(value: Any, modality: Modality, manifest: Manifest) -> Any:
    inline = modality.kind == "series" and isinstance(value, str) and value.lstrip().startswith("[")
    if value is None or not modality.files or inline:
        return value
    file = piece_of(value)[0] if modality.kind == "series" and isinstance(value, str) else value
    if file is value:
        return resolve(value, manifest)
    # what may be opened is decided by the file alone, not by a piece of it
    return Path(f"{here(file, manifest)}{value.removeprefix(file)}")


def future_of(row: dict[str, Any], modality: Modality, manifest: Manifest, steps: int) -> Tensor:
    """What a series measures in the `steps` behind a window, `[steps, C]`, NaN where it has ended or has a gap."""
    assert isinstance(modality, Series)
    found = torch.full((steps, modality.channels), torch.nan)
    cell = _resolved(row[FUTURE], modality, manifest)
    if cell is not None:
        values = modality.measured(cell)[:steps]
        found[: len(values)] = values
    return found


def ask_for(
    manifest: Manifest,
    rows: Iterable[int],
    modalities: dict[str, Modality],
    held: Callable[[str, int, Any], bool] = lambda name, row, cell: False,
) -> None:
    """Begin to fetch the cells of some rows that are elsewhere, but for those that are `held` by name, row of the table
    and cell."""
    named = {name: columns_of({name: modality}) for name, modality in modalities.items() if modality.files}
    for i in rows if named else ():
        row = manifest.row(i, dict.fromkeys(column for columns in named.values() for column in columns))
        for name in named:
            with suppress(BadInput):
                cell = cell_of(row, name, modalities[name], manifest.of_row(i))
                parts = [one for one in (cell if isinstance(cell, (list, tuple)) else [cell]) if is_elsewhere(one)]
                if parts and not held(name, int(manifest.rows[i]), cell):
                    ahead.ask(parts)


def is_elsewhere(cell: object) -> bool:
    """Whether a resolved cell is a file, or a piece of one, that is not on this machine."""
    return isinstance(cell, Url) or (isinstance(cell, Piece) and cell.elsewhere)


def are_elsewhere(manifest: Manifest, modalities: Mapping[str, Modality]) -> bool:
    """Whether files that are read are elsewhere: those beside a table that is, and URLs in one of the first rows."""
    files = {name: modality for name, modality in modalities.items() if modality.files}
    if any(isinstance(part.root, Url) for part in manifest.parts or (manifest,)):
        return bool(files)
    columns = [column for column in columns_of(files) if column in manifest.columns]
    return any(
        "://" in str(cell)[:16]
        for i in (range(0, len(manifest), max(1, len(manifest) // LOOKED_AT)) if columns else ())
        for cell in manifest.row(i, columns).values()
        if isinstance(cell, (str, list))
    )


def cells(manifest: Manifest, name: str, modality: Modality) -> Iterator[Any]:
    """Present cells of one modality, for `Modality.fit`; paths that are refused are passed over.

    Of more than `modality.fit_rows` rows, or `FETCHED` whose files are elsewhere, about as many are taken, evenly
    spread: statistics need no more.
    """
    far = are_elsewhere(manifest, {name: modality})
    most = min(modality.fit_rows, FETCHED) if far else modality.fit_rows
    taken = range(0, len(manifest), max(1, len(manifest) // most))
    for number, i in enumerate(taken):
        if far and number % ASKED == 0:
            ask_for(manifest, taken[number : number + ASKED], {name: modality})
        with suppress(BadInput):
            cell = cell_at(manifest, i, name, modality)
            if isinstance(cell, tuple) or (isinstance(cell, list) and modality.takes_several):
                yield from map(fetched, cell)
            elif cell is not None:
                yield fetched(cell)


def read_cell(modality: Modality, cell: Any) -> Any:
    """The sample of a cell, both samples of a pair, or the list of those of several. Raises `CellError`, and
    `Unreachable`."""
    if modality.pair is not None:
        return tuple(modality.read(fetched(one)) for one in cell)
    if not (isinstance(cell, list) and modality.takes_several):
        return modality.read(fetched(cell))
    found = []
    for number, one in enumerate(cell, 1):
        try:
            found.append(modality.read(fetched(one)))
        except CellError as error:
            file = f"{one.name}: " if isinstance(one, Path) else ""
            raise CellError(f"{number} of {len(cell)}: {file}{error}") from None
    return found


def counts_of(samples: Sequence[Any]) -> list[int] | None:
    """How many samples each row has; None where each has one."""
    if not any(isinstance(sample, list) for sample in samples):
        return None
    return [len(sample) if isinstance(sample, list) else 1 for sample in samples]


def flat(samples: Sequence[Any]) -> list[Any]:
    """The samples of all rows, one after the other."""
    return [one for sample in samples for one in (sample if isinstance(sample, list) else [sample])]


Vary = Callable[[Sequence[list[Any]], Sequence[Draws]], list[list[Any]]]


def vary(
    modality: Modality, samples: Sequence[list[Any]], draws: Sequence[Draws], change: Vary | None = None
) -> list[list[Any]]:
    """A batch's views from the samples, pairs or lists of samples, that each is made of (see `Modality.vary`), by the
    draws of each view's rows; or what `change` makes of the samples in its place."""
    change = change or modality.vary
    if not any(map(len, samples)):  # of several processes that train together, one may have no such rows
        return list(samples)
    if modality.pair is None:
        counts = [counts_of(view) for view in samples]
        if not any(counts):
            return change(samples, draws)
        parts = [own.of(each or [1] * len(own)) for own, each in zip(draws, counts, strict=True)]
        made = change([flat(view) for view in samples], parts)
        return [_by_row(view, each) if each else view for view, each in zip(made, counts, strict=True)]
    sides = [[one for side in zip(*pairs, strict=True) for one in side] for pairs in samples]
    both_sides = [Draws.joined([own.child(0), own.child(1)]) for own in draws]
    halves = [(view[: len(view) // 2], view[len(view) // 2 :]) for view in change(sides, both_sides)]
    return [list(zip(*both, strict=True)) for both in halves]


def _by_row(samples: list[Any], counts: list[int]) -> list[Any]:
    """Undo `flat`; of views that are several samples themselves, the samples."""
    ends = itertools.accumulate(counts)
    return [flat(samples[end - count : end]) for end, count in zip(ends, counts, strict=True)]


def known_input(rows: Sequence[Tensor]) -> Input:
    """What frozen encoders make of rows, as one batch: `features` `[N, W]`, or of steps `[T, W]` `steps` `[N, T, W]`
    and their `mask` `[N, T]`."""
    if rows[0].ndim == 1:
        return {"features": torch.stack(list(rows))}
    lengths = torch.tensor([len(each) for each in rows])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return {"steps": nn.utils.rnn.pad_sequence(list(rows), batch_first=True), "mask": mask}


def collate(modality: Modality, samples: Sequence[Any]) -> Input:
    """Samples as one batch; of N pairs all first ones, then all second ones, 2 N rows. Of rows with several samples
    all of them, and `of` `[M]`, the row that each is of."""
    if modality.pair is None:
        counts = counts_of(samples)
        if counts is None:
            return modality.collate(samples)
        return modality.collate(flat(samples)) | {"of": torch.repeat_interleave(torch.tensor(counts))}
    return modality.collate([one for side in zip(*samples, strict=True) for one in side])
