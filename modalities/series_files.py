"""Series in files and lists: numbers of `.npy` and text files, or of a part of one, read without the rest."""

import codecs
import io
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format
from numpy.typing import NDArray

from clx.modalities.dates import BadDate, dates, is_date
from clx.modalities.errors import CellError
from clx.modalities.files import open_file
from clx.modalities.numbers import ABSENT
from clx.modalities.series_times import TooSparse, places, spread

Values = NDArray[np.float64]
PIECE = re.compile(r"(.*)#(\d*):(\d*)", re.DOTALL)
HEADERS = {(1, 0): format.read_array_header_1_0, (2, 0): format.read_array_header_2_0}
BLOCK = 1 << 20
LONGEST_LINE = 10_000_000
WIDE = 8
"""An array with so many times more columns than rows is more likely one of channels than one of steps."""


@dataclass(frozen=True)
class Reading:
    """How files and lists become steps of channels."""

    time: str | bool = False
    """Column of text files with the time of a step, by its name; True is the first one, False none."""
    channels_first: bool = False
    """Whether two-dimensional `.npy` arrays are stored `[C, T]`."""
    all_channels_first: bool = False
    """Whether text and lists are, too, a line or list for each channel, which is never guessed."""


AS_STORED = Reading()


def piece_of(cell: str) -> tuple[str, slice]:
    """A file, and the steps of it that are meant: the first 500 of `rec.npy#0:500`, all of `rec.npy`."""
    match = PIECE.fullmatch(cell)
    if match is None:
        return cell, slice(None)
    return match[1], slice(*(int(text) if text else None for text in match.groups()[1:]))


def values_of(cell: Any, longest: int, reading: Reading = AS_STORED) -> Values:
    """The first `longest` steps of a cell, `[T, C]`; NaN where it has none."""
    if isinstance(cell, Path):
        name, piece = piece_of(str(cell))
        cell = Path(name)
        suffix = cell.suffix.lower()
        if suffix not in {".npy", ".csv", ".tsv", ".txt"}:
            raise CellError(f"unknown extension {suffix}" if suffix else "a file without an extension")
        with open_file(cell, sys.maxsize) as file:
            if suffix == ".npy":
                return _npy(file, longest, reading.channels_first, piece)
            if piece != slice(None):
                raise CellError("only of .npy files a piece can be read")
            return _text(file, longest, reading)
    if isinstance(cell, bytes):
        if cell.startswith(b"\x93NUMPY"):
            return _npy(io.BytesIO(cell), longest, reading.channels_first)
        return _text(io.BytesIO(cell), longest, reading)
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise CellError("not a JSON list") from error
    if reading.all_channels_first:
        whole = _array(cell, sys.maxsize)
        return (whole.T if len(cell) and np.ndim(cell[0]) else whole)[:longest]
    return _array(cell, longest)


def steps_in(path: Path) -> int:
    """Length of the series in a `.npy` file, from its header alone. Raises `CellError`."""
    if path.suffix.lower() != ".npy":
        raise CellError("windows are cut from .npy files and from lists")
    return shape_in(path)[0]


def shape_in(cell: Path | bytes) -> tuple[int, ...]:
    """Shape of the array in a `.npy` file or its bytes, from its header alone. Raises `CellError`."""
    with io.BytesIO(cell) if isinstance(cell, bytes) else open_file(cell, sys.maxsize) as file:
        return _header(file)[0]


def _header(source: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape of an array of numbers, whether it is stored by columns, and its type; what follows is the data."""
    try:
        version = format.read_magic(source)  # type: ignore[no-untyped-call]
        shape, fortran, kind = HEADERS[version](source)  # type: ignore[no-untyped-call]
    except Exception as error:  # numpy parses the header as Python would, with as many kinds of error
        raise CellError("not a whole .npy file") from error
    if kind.hasobject:
        raise CellError("Python objects, not numbers")
    if kind.kind not in "biuf" or len(shape) not in (1, 2) or min(shape) < 0:
        picture = (
            "; `kind: image` reads it as a picture" if len(shape) == 3 and {shape[0], shape[2]} & {1, 3, 4} else ""
        )
        raise CellError(
            f"an array of {kind} and shape {list(shape)}: numbers [steps] or [steps, channels] are understood{picture}"
        )
    return shape, fortran, kind


def _npy(source: BinaryIO, longest: int, channels_first: bool = False, piece: slice = slice(None)) -> Values:
    """The first `longest` steps of an array of numbers, or of a piece of it, read without the rest."""
    shape, fortran, kind = _header(source)
    if channels_first and len(shape) == 2:
        shape, fortran = shape[::-1], not fortran
    start, count = source.tell(), math.prod(shape)
    if source.seek(0, io.SEEK_END) < start + count * kind.itemsize:
        raise CellError("not a whole .npy file")
    first, stop, _ = piece.indices(shape[0])
    steps, width = min(max(0, stop - first), longest), count // max(1, shape[0])
    if not fortran or len(shape) == 1:
        source.seek(start + first * width * kind.itemsize)
        flat = np.frombuffer(source.read(steps * width * kind.itemsize), kind)
        return _array(flat.reshape(steps, *shape[1:]), longest)
    columns = np.empty((width, steps), kind)
    for column in range(width):
        source.seek(start + (column * shape[0] + first) * kind.itemsize)
        columns[column] = np.frombuffer(source.read(steps * kind.itemsize), kind)
    return _array(columns.T, longest)


def _array(cell: Any, longest: int) -> Values:
    if isinstance(cell, np.ndarray) and cell.dtype.kind in "iuf":
        values = np.array(cell[:longest], dtype=np.float64)
        return _shaped(values)
    try:
        rows = cell[:longest]
        widths = dict.fromkeys(len(row) if isinstance(row, (list, tuple, np.ndarray)) else 0 for row in rows)
        if len(widths) > 1:
            raise CellError(_ragged(widths))
        values = np.array(rows, dtype=np.float64)
    except (TypeError, IndexError, OverflowError) as error:
        raise CellError("not a list of numbers") from error
    except ValueError as error:
        raise error if isinstance(error, CellError) else CellError("not a list of numbers") from error
    return _shaped(values)


def _shaped(values: Values) -> Values:
    if values.ndim not in (1, 2):
        raise CellError(f"{values.ndim} dimensions: [steps] or [steps, channels] are understood")
    return values.reshape(len(values), -1) if values.size else np.empty((0, 1))


def _text(source: BinaryIO, longest: int, reading: Reading) -> Values:
    """A step per line, a channel per column, or the other way round; the first line may name the columns."""
    names, cells = table_in(source, sys.maxsize if reading.all_channels_first else longest)
    first = 1 if names is None else 2
    at = None
    if reading.time is not False and cells:
        at = _time_column(names, len(cells[0]), reading.time)
    rows = []
    for number, line in enumerate(cells, first):
        row = [None if column == at else value_of(part) for column, part in enumerate(line)]
        if (bad := next((c for c, value in enumerate(row) if value is None and c != at), None)) is not None:
            raise CellError(f"line {number}, column {bad + 1} is not a number")
        rows.append(row)
    if at is None:
        values = np.array(rows, dtype=np.float64) if rows else np.empty((0, 1))
        return values.T[:longest] if reading.all_channels_first and len(rows) else values
    times = times_of([line[at] for line in cells], first)
    values = np.array([row[:at] + row[at + 1 :] for row in rows], dtype=np.float64)
    try:
        where = places(times)
    except TooSparse as error:
        raise CellError(f"{error}: one file holds one stretch of time") from None
    return values if where is None else spread(values, where)[:longest]


def table_in(source: BinaryIO, longest: int) -> tuple[list[str] | None, list[list[str]]]:
    """Names of columns, if the first line has them, and the cells of so many lines. Raises `CellError`."""
    lines = []
    for line in _lines(source):
        if line.strip():
            lines.append(line)
        if len(lines) > longest:
            break
    if not lines:
        raise CellError("no values")
    separator = next((mark for mark in "\t;," if mark in lines[0]), None)
    cells = [[part.strip().strip('"') for part in line.split(separator)] for line in lines]
    named = any(value_of(part) is None and not is_date(part) for part in cells[0])
    names, cells = (cells[0], cells[1 : longest + 1]) if named else (None, cells[:longest])
    widths = dict.fromkeys(map(len, cells))
    if len(widths) > 1:
        raise CellError(_ragged(widths))
    return names, cells


def _time_column(names: list[str] | None, width: int, time: str | bool) -> int:
    if width < 2:
        raise CellError("no column beside that of the time")
    if not isinstance(time, str):
        return 0
    found = [name.lower() for name in names or []]
    if time.lower() not in found:
        raise CellError(f"no column {time!r} for the time of a step")
    return found.index(time.lower())


def times_of(cells: Sequence[str], first: int) -> Values:
    """The times of steps, numbers or dates, that grow from line `first` on. Raises `CellError`."""
    numbers = [value_of(cell) for cell in cells]
    times = _dated(cells, first) if None in numbers else np.array(numbers, dtype=np.float64)
    behind = np.flatnonzero(~(np.diff(times) > 0))
    if len(behind):
        k = int(behind[0])
        raise CellError(f"line {first + k + 1}: the time {cells[k + 1]!r} is not after {cells[k]!r}")
    return times


def _dated(cells: Sequence[str], first: int) -> Values:
    """Dates as seconds since 1970. Where no cell tells whether the day stands first, time does by growing."""
    try:
        return dates(cells)
    except BadDate as error:
        said = f"line {first + error.index}: the time {error}"
        if not error.ambiguous:
            raise CellError(said) from None
    growing = [times for times in (dates(cells, True), dates(cells, False)) if (np.diff(times) > 0).all()]
    if len(growing) == 2 and any(places(times) is not None for times in growing):
        raise CellError(said)  # there are holes, but where they are hangs on it
    return growing[0] if growing else dates(cells, True)


def _lines(source: BinaryIO) -> Iterator[str]:
    """Lines of UTF-8 text, one after the other: a file may be far longer than what is read of it."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    rest = ""
    while block := source.read(BLOCK):
        *whole, rest = (rest + decoder.decode(block)).splitlines(keepends=True) or [""]
        yield from whole
        if len(rest) > LONGEST_LINE:
            raise CellError(f"a line of over {LONGEST_LINE // 1_000_000} million characters")
    yield rest + decoder.decode(b"", final=True)


def value_of(part: str) -> float | None:
    """A number, NaN for an empty or NA cell, None for any other text."""
    try:
        return np.nan if part.lower() in ABSENT else None if "_" in part else float(part)
    except ValueError:
        return None


def _ragged(widths: Iterable[int]) -> str:
    first, second, *_ = widths
    return f"ragged: rows of {first} and {second} values"
