"""Series as they come: tables with one row per time step, `.ts` archives, recordings too long for one row."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clx.modalities.series_files import WIDE, piece_of, shape_in, steps_in
from clx.pipelines.config.series_schema import Long, Windows
from clx.pipelines.data.cell_files import here
from clx.pipelines.data.manifest import LeftOut, Manifest
from clx.pipelines.system.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

Values = NDArray[np.float64]
Integers = NDArray[np.int64]
FUTURE = "future"
"""Column with the steps behind a window."""
TIMES = "times"
"""Column with the times of a series' steps."""


def lists(rows: Sequence[NDArray[Any]]) -> "pa.Array":
    """Rows `[T, C]` as a column of `[T]` lists, or of `[T, C]` lists where there are several channels."""
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    values: Any = pa.array(np.concatenate([row.ravel() for row in rows]).astype(np.float32))
    channels = rows[0].shape[1]
    if channels > 1:
        steps = np.arange(offsets[-1] + 1) * channels
        values = pa.ListArray.from_arrays(pa.array(steps, pa.int32()), values)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def refuse_own_columns(manifest: Manifest, column: str | None, made: Collection[str], asker: str) -> None:
    """Raise `BadInput` for a column of the user's with a name that clx gives to one of its own."""
    if column in made:
        raise BadInput(f"{manifest.name}: {asker} makes a column {column!r} of its own: rename that of the table")


def windowed(manifest: Manifest, windows: Windows, long: Long | None = None) -> Manifest:
    """A row per window: of a file `FILE.npy#START:STOP` stands in its place, of a list that part of it.

    `recording` and `start` say what each window is of, for neighbours; series that were made by `long` may have
    their `recording` from there. A series shorter than a window is one by itself; what is left behind the last whole
    window belongs to none. With a horizon `future` holds the steps behind each window, fewer or none where the
    series ends. Raises `BadInput` where the table has such columns; `future` also without a horizon, as an
    evaluation may set one.
    """
    import pyarrow as pa

    named = long is not None and (long.id or "recording") == "recording"
    for column in manifest.columns:
        refuse_own_columns(
            manifest, column, {"start", FUTURE} if named else {"recording", "start", FUTURE}, "data.windows"
        )
    bounds = extents(manifest, windows.column)
    _refuse_turned(manifest, windows, bounds)
    counts = np.array([1 + max(0, stop - start - windows.length) // windows.stride for start, stop in bounds])
    rows = np.repeat(np.arange(len(bounds)), counts)
    number = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    first, last = np.array(bounds, dtype=np.int64).reshape(-1, 2)[rows].T
    start = first + number * windows.stride
    stop = np.minimum(start + windows.length, last)
    some = _measured(manifest, windows.column, rows, start, stop)
    left_out = [LeftOut("window without a value", int((~some).sum()), manifest.where(int(rows[some.argmin()])))]
    rows, start, stop, last = rows[some], start[some], stop[some], last[some]
    made = _cut(manifest, windows.column, rows, start, stop)
    table = made.table
    if windows.horizon is not None:
        future = _pieces(manifest, windows.column, rows, stop, np.minimum(stop + windows.horizon, last))
        table = table.append_column(FUTURE, future)
    if not named:
        table = table.append_column("recording", _names(manifest, windows.column).take(pa.array(rows)))
    left = manifest.left_out if some.all() else (*manifest.left_out, *left_out)
    return replace(made, table=table.append_column("start", pa.array(start)), left_out=left)


def _measured(manifest: Manifest, column: str, rows: Integers, start: Integers, stop: Integers) -> NDArray[np.bool_]:
    """Which parts of series hold a value; all where the series are files, which are not read for it, or none has."""
    cells = manifest.column(column)
    if isinstance(cells[0], str):
        return np.ones(len(rows), bool)
    counts = [
        np.concatenate([[0], np.isfinite(np.asarray(cell, dtype=np.float32)).reshape(len(cell), -1).any(1).cumsum()])
        for cell in cells
    ]
    some = np.array([counts[r][b] > counts[r][a] for r, a, b in zip(rows, start, stop, strict=True)], dtype=bool)
    return some if some.any() else ~some


def _refuse_turned(manifest: Manifest, windows: Windows, bounds: Sequence[tuple[int, int]]) -> None:
    """Raise `BadInput` for a file too short for a window that has many times more channels than steps."""
    cells = manifest.column(windows.column)
    for i, (start, stop) in enumerate(bounds):
        if stop - start < windows.length and isinstance(cells[i], str):
            name, _ = piece_of(cells[i])
            shape = shape_in(here(name, manifest))
            if len(shape) == 2 and shape[1] >= WIDE * shape[0]:
                raise BadInput(
                    f"{manifest.where(i)}, column {windows.column}: {name}: an array {list(shape)} has {shape[0]} "
                    f"steps, and a window {windows.length}: store it as [steps, channels]"
                )


def parted(manifest: Manifest, column: str, shares: dict[str, float], timed: bool = False) -> dict[str, Manifest]:
    """Every series cut in time: the last part to the last of `shares`, what none asks for to `train`. With `timed`
    their `times` are cut too.

    Raises `BadInput` for a series too short for a part.
    """
    bounds = np.array(extents(manifest, column), dtype=np.int64).reshape(-1, 2)
    rows, parts = np.arange(len(bounds)), _parts(bounds, shares)
    for split, (start, stop) in parts.items():
        if (start >= stop).any():
            i = int((start >= stop).argmax())
            length = bounds[i, 1] - bounds[i, 0]
            raise BadInput(f"{manifest.where(i)}, column {column}: {length} steps are too few for a part for {split}")
    found = {split: _cut(manifest, column, rows, *parts[split]) for split in ("train", *shares)}
    return {split: _timed(part, *parts[split]) for split, part in found.items()} if timed else found


def _parts(bounds: Integers, shares: Mapping[str, float]) -> dict[str, tuple[Integers, Integers]]:
    """First steps and those behind the last, by split, of series `[N, 2]` that are cut in time; the last part
    first."""
    ends, parts = bounds[:, 1], {}
    for split, share in reversed([*shares.items()]):
        start = ends - np.round((bounds[:, 1] - bounds[:, 0]) * share).astype(np.int64)
        parts[split] = start, ends
        ends = start
    return parts | {"train": (bounds[:, 0], ends)}


def _timed(manifest: Manifest, start: Integers, stop: Integers) -> Manifest:
    """The same with as much of the times as there is of each series."""
    import pyarrow as pa

    times = [cell[a:b] for cell, a, b in zip(manifest.column(TIMES), start, stop, strict=True)]
    table = manifest.table
    return replace(manifest, table=table.set_column(table.column_names.index(TIMES), TIMES, pa.array(times)))


def _cut(manifest: Manifest, column: str, rows: Integers, start: Integers, stop: Integers) -> Manifest:
    """The steps `start` to `stop` of the series in `rows`, a row each, with all their columns."""
    import pyarrow as pa

    pieces = _pieces(manifest, column, rows, start, stop)
    table = manifest.table.take(pa.array(manifest.rows[rows]))
    table = table.set_column(table.column_names.index(column), column, pieces)
    path_column = column if pa.types.is_string(pieces.type) else None
    return replace(manifest, table=table, rows=np.arange(len(table)), path_column=path_column)


def _pieces(manifest: Manifest, column: str, rows: Integers, start: Integers, stop: Integers) -> "pa.Array":
    """Cells of parts of series: `FILE.npy#START:STOP`, or lists; null where a part has no step."""
    import pyarrow as pa
    import pyarrow.compute as pc

    some = pa.array(stop > start)
    cells = manifest.column(column)
    if isinstance(cells[0], str):
        names = _names(manifest, column).take(pa.array(rows))
        ends = [pa.array(bound).cast(pa.string()) for bound in (start, stop)]
        pieces = pc.binary_join_element_wise(pc.binary_join_element_wise(names, ends[0], "#"), ends[1], ":")
    else:
        arrays = [np.asarray(cell, dtype=np.float32).reshape(len(cell), -1) for cell in cells]
        pieces = lists([arrays[r][a:b] for r, a, b in zip(rows, start, stop, strict=True)])
    return pieces if len(rows) == some.true_count else pc.if_else(some, pieces, pa.scalar(None, pieces.type))


def _names(manifest: Manifest, column: str) -> "pa.Array":
    """What the series are called: their files, or the number of their row."""
    import pyarrow as pa

    cells = manifest.column(column)
    return pa.array([piece_of(cell)[0] if isinstance(cell, str) else i for i, cell in enumerate(cells)])


def extents(manifest: Manifest, column: str) -> list[tuple[int, int]]:
    """First step and the one behind the last of every cell."""
    manifest.require(column)
    return [_extent(manifest, i, cell, column) for i, cell in enumerate(manifest.column(column))]


def _extent(manifest: Manifest, i: int, cell: Any, column: str) -> tuple[int, int]:
    """First step and the one behind the last of a cell."""
    if cell is None:
        raise BadInput(f"{manifest.where(i)}, column {column}: empty")
    if not isinstance(cell, str):
        return 0, len(cell)
    name, piece = piece_of(cell)
    try:
        length = steps_in(here(name, manifest))
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
        raise BadInput(f"{manifest.where(i)}, column {column}: {name}: {reason}") from None
    start, stop, _ = piece.indices(length)
    if start >= stop:
        raise BadInput(f"{manifest.where(i)}, column {column}: {cell} holds no step; the file has {length}")
    return start, stop
