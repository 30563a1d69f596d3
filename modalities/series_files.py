"""Series in files and lists: numbers of `.npy` and text files, or of a part of one, read without the rest."""

import codecs
import io
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format
from numpy.typing import NDArray

from clx.modalities.base import ABSENT, CellError, open_file

Values = NDArray[np.float64]
PIECE = re.compile(r"(.*)#(\d*):(\d*)", re.DOTALL)
HEADERS = {(1, 0): format.read_array_header_1_0, (2, 0): format.read_array_header_2_0}
BLOCK = 1 << 20
LONGEST_LINE = 10_000_000


def piece_of(cell: str) -> tuple[str, slice]:
    """A file, and the steps of it that are meant: the first 500 of `rec.npy#0:500`, all of `rec.npy`."""
    match = PIECE.fullmatch(cell)
    if match is None:
        return cell, slice(None)
    return match[1], slice(*(int(text) if text else None for text in match.groups()[1:]))


def values_of(cell: Any, longest: int) -> Values:
    """The first `longest` steps of a cell, `[T, C]`."""
    if isinstance(cell, Path):
        name, piece = piece_of(str(cell))
        cell = Path(name)
        suffix = cell.suffix.lower()
        if suffix not in {".npy", ".csv", ".tsv", ".txt"}:
            raise CellError(f"unknown extension {suffix}" if suffix else "a file without an extension")
        with open_file(cell, sys.maxsize) as file:
            if suffix == ".npy":
                return _npy(file, longest, piece)
            if piece != slice(None):
                raise CellError("only of .npy files a piece can be read")
            return _text(file, longest)
    if isinstance(cell, bytes):
        npy = cell.startswith(b"\x93NUMPY")
        return _npy(io.BytesIO(cell), longest) if npy else _text(io.BytesIO(cell), longest)
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise CellError("not a JSON list") from error
    return _array(cell, longest)


def steps_in(path: Path) -> int:
    """Length of the series in a `.npy` file, from its header alone. Raises `CellError`."""
    if path.suffix.lower() != ".npy":
        raise CellError("windows are cut from .npy files and from lists")
    with open_file(path, sys.maxsize) as file:
        return _header(file)[0][0]


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
        raise CellError(
            f"an array of {kind} and shape {list(shape)}: numbers [steps] or [steps, channels] are understood"
        )
    return shape, fortran, kind


def _npy(source: BinaryIO, longest: int, piece: slice = slice(None)) -> Values:
    """The first `longest` steps of an array of numbers, or of a piece of it, read without the rest."""
    shape, fortran, kind = _header(source)
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


def _text(source: BinaryIO, longest: int) -> Values:
    """A step per line, a channel per column; the first line may name the channels."""
    lines = []
    for line in _lines(source):
        if line.strip():
            lines.append(line)
        if len(lines) > longest:
            break
    if not lines:
        raise CellError("no values")
    separator = next((mark for mark in "\t;," if mark in lines[0]), None)
    rows = [[_value(part) for part in line.split(separator)] for line in lines[: longest + 1]]
    first = 1 if any(value is None for value in rows[0]) else 0
    rows = rows[first : first + longest]
    widths = dict.fromkeys(map(len, rows))
    if len(widths) > 1:
        raise CellError(_ragged(widths))
    for number, row in enumerate(rows, first + 1):
        if None in row:
            raise CellError(f"line {number}, column {row.index(None) + 1} is not a number")
    return np.array(rows, dtype=np.float64) if rows else np.empty((0, 1))


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


def _value(part: str) -> float | None:
    """A number, NaN for an empty or NA cell, None for any other text."""
    part = part.strip().strip('"')
    try:
        return np.nan if part.lower() in ABSENT else float(part)
    except ValueError:
        return None


def _ragged(widths: Iterable[int]) -> str:
    first, second, *_ = widths
    return f"ragged: rows of {first} and {second} values"
