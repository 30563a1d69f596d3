"""What is guessed of series in files: which column is the time, and which way round an array lies."""

import io
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clx.modalities.base import CellError
from clx.modalities.files import open_file
from clx.modalities.series_files import WIDE, Reading, piece_of, shape_in, table_in, times_of

LOOKED_AT = 100  # cells, and steps of each
UNIT = r"(?:[ _]*[\[(]?(?:s|sec|secs|seconds|ms|us|ns|min|h)[\])]?)?"
TIME = re.compile(rf"(?:t|time|(?:date|time)[ _]?(?:stamp|time)?|date|epoch|elapsed|seconds){UNIT}", re.I)
COUNT = re.compile(r"(?:unnamed: 0|index|idx|step|sample|frame|row)?", re.I)


def as_told(time: str | bool | None, layout: str | None) -> Reading:
    """How cells are read as far as it is said. Raises `ValueError` for a column of times where lines are channels."""
    turned = layout == "channels-first"
    if turned and time:
        raise ValueError(
            "time is a column of text with a step per line; with layout: channels-first lines are channels"
        )
    return Reading(time or False, turned, turned)


def reading_of(cells: Sequence[Any], time: str | bool | None, layout: str | None) -> Reading:
    """How the cells are to be read, as asked or else as all of those given tell.

    Text files have a time column where each has one by a name such as `time` or `timestamp`, or a first column
    without a name or called `index`, and it grows. A `.npy` array is `[C, T]` where the first axis alone is always as
    long, or where it is 8 times shorter. Raises `ValueError` for arrays that may well be either.
    """
    reading = as_told(time, layout)
    if time is None and not reading.all_channels_first:
        found = {_time_in(cell) for cell in cells if _is_text(cell)}
        reading = replace(reading, time=found.pop() if len(found) == 1 else False)
    if layout is None:
        reading = replace(reading, channels_first=_lies(shapes(cells)))
    return reading


def shapes(cells: Sequence[Any]) -> set[tuple[int, int]]:
    """Shapes of two-dimensional arrays among the cells that are `.npy` files, or their bytes."""
    found = set()
    for cell in cells:
        whole = isinstance(cell, Path) and cell.suffix.lower() == ".npy" and piece_of(str(cell))[0] == str(cell)
        if whole or (isinstance(cell, bytes) and cell.startswith(b"\x93NUMPY")):
            with suppress(CellError, OSError):
                shape = shape_in(cell)
                found |= {(shape[0], shape[1])} if len(shape) == 2 and all(shape) else set()
    return found


def _lies(found: set[tuple[int, int]]) -> bool:
    """Whether arrays of these shapes are `[C, T]`. Raises `ValueError` where nothing tells."""
    rows, columns = {row for row, _ in found}, {column for _, column in found}
    if not found or len(columns) == 1 < len(rows) or len(rows) > 1:
        return False
    [row] = rows
    if len(columns) > 1 or min(columns) >= WIDE * row:
        return True
    [column] = columns
    if column <= row:
        return False
    raise ValueError(
        f"arrays of shape [{row}, {column}]: {row} steps of {column} channels, or {column} steps of {row}? "
        "layout: time-first or layout: channels-first decides"
    )


def _is_text(cell: Any) -> bool:
    if isinstance(cell, Path):
        return cell.suffix.lower() in {".csv", ".tsv", ".txt"}
    return isinstance(cell, bytes) and not cell.startswith(b"\x93NUMPY")


def _time_in(cell: Path | bytes) -> str | bool:
    """The column of a text file that is the time, by its name in lower case; True for a first one that has none."""
    try:
        with io.BytesIO(cell) if isinstance(cell, bytes) else open_file(cell, sys.maxsize) as file:
            names, lines = table_in(file, LOOKED_AT)
    except (CellError, OSError, UnicodeDecodeError):
        return False
    if len(lines) < 3 or len(lines[0]) < 2:
        return False
    lower = [name.lower() for name in names or []]
    for name in lower[: len(lines[0])]:
        if TIME.fullmatch(name) and lower.count(name) == 1 and _grows([line[lower.index(name)] for line in lines]):
            return name
    counted = _grows([line[0] for line in lines]) and (names is None or COUNT.fullmatch(lower[0]) is not None)
    return counted and (names is None or lower[0] == "" or lower[0])


def _grows(cells: Sequence[str]) -> bool:
    try:
        return bool(np.isfinite(times_of(cells, 1)).all())
    except CellError:
        return False


def notes(cells: Sequence[Any], reading: Reading, time: str | bool | None, layout: str | None) -> list[str]:
    """What was not asked for and follows from the cells, a line each."""
    lines = []
    if time is None and reading.time is not False:
        column = f"the column {reading.time!r}" if isinstance(reading.time, str) else "the first column"
        lines.append(f"{column} of its files is the time of a step and no channel (time: false makes it one)")
    if layout is None and reading.channels_first:
        channels, steps = min(shapes(cells))
        lines.append(
            f"arrays [{channels}, {steps}] are {steps} steps of {channels} channels (layout: time-first turns)"
        )
    wide = next((np.shape(cell) for cell in cells if isinstance(cell, np.ndarray) and _is_wide(cell)), None)
    if layout is None and wide is not None:
        lines.append(
            f"lists [{wide[0]}, {wide[1]}] are {wide[0]} steps of {wide[1]} channels (layout: channels-first turns)"
        )
    return lines


def _is_wide(cell: NDArray[Any]) -> bool:
    return cell.ndim == 2 and cell.shape[1] >= WIDE * cell.shape[0]
