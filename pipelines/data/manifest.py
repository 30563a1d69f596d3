"""Rows of data: an Arrow table, where it came from, and which of its rows are meant.

A manifest of ten million rows stays one table, mapped into memory where it is large (`mapped`), that worker processes
share; splits are row numbers into it.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from warnings import warn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clx.modalities.dates import BadDate, dates
from clx.modalities.numbers import Writing, missing
from clx.pipelines.data.arrow_types import is_bytes, is_list, is_text
from clx.pipelines.data.hugging_face import struct_converter
from clx.pipelines.data.mapped import touched
from clx.pipelines.system.errors import BadInput, ClxWarning, nearest
from clx.pipelines.system.remote import Url

if TYPE_CHECKING:
    import pyarrow as pa

LARGE = 1 << 20
"""Rows above which memory is spared: what looks at all of them looks at one piece after the other, or at some."""


@dataclass(frozen=True)
class LeftOut:
    """Files or rows of a source that are not used."""

    reason: str
    count: int
    example: str
    """The first of them."""


@dataclass(frozen=True, eq=False)
class Manifest:
    """Some rows of a table. Rows are addressed 0 to `len(manifest) - 1`, in the order of `rows`."""

    name: str
    """What the user named, for messages."""
    root: Path | Url
    """Folder from which relative paths in cells count."""
    table: "pa.Table"
    rows: NDArray[np.int64]
    """Indices into `table` (int32 of a large one); they survive splitting, so messages can name the row of the file."""
    allow_outside: bool = False
    """Accept paths that lead out of `root`."""
    path_column: str | None = None
    """Column that names a row in messages, for class folders, whose rows have no number anybody knows."""
    file: Path | None = None
    """Where the table was read from, if from one file."""
    left_out: tuple[LeftOut, ...] = ()
    """What the source holds besides and is not used, for what is said before time is spent."""
    written: Mapping[str, Writing] = field(default_factory=dict)
    """Columns of text that hold numbers and were read as such, with how they are written."""
    drawn_by: tuple[str, ...] | None = None
    """Where its split was drawn, the columns whose equal cells kept rows together; empty where there are none."""
    split_from: str | None = None
    """What decided which split the rows are of: folder names, a column, a file of their own, a draw."""
    files: tuple[tuple[str, int], ...] = ()
    """Of a table put together from several files: each one's name, and the index in `table` of its first row."""
    parts: tuple["Manifest", ...] = ()
    """Of several sources, each one's own table, one after the other in `table`; their `rows` mean nothing."""
    version: str = ""
    """Of a table elsewhere, what is another one where its content is another."""
    query: str = field(default="", repr=False)
    """What its URL ends with, such as a signature, which its pieces are asked for with too."""
    replay_from: int | None = None
    """The index in `table` from which on rows are of earlier data and come again (`data.replay`)."""
    notes: tuple[str, ...] = ()
    """What was understood of the source that one might not expect, in words."""

    @property
    def columns(self) -> list[str]:
        return list(self.table.column_names)

    def __len__(self) -> int:
        return len(self.rows)

    def cell(self, i: int, column: str) -> Any:
        """One cell of row `i`, as `row` gives it."""
        cells, convert = self._cells[column]
        touched()
        return convert(cells[int(self.rows[i])])

    def row(self, i: int, columns: Iterable[str] | None = None) -> dict[str, Any]:
        """The cells of row `i` as the file has them, of all columns or of those named.

        Null, NaN and blank text are None; structs are what they stand for (see `struct_converter`); lists of numbers
        are arrays `[T]` or `[T, C]`, other lists are lists of cells without those that are None.
        """
        at, known = int(self.rows[i]), self._cells
        found = {}
        for name in known if columns is None else columns:
            cells, convert = known[name]
            found[name] = convert(cells[at])
        touched()
        return found

    @cached_property
    def _cells(self) -> dict[str, tuple[Any, Callable[[Any], Any]]]:
        """Columns with what turns their scalars into cells: chosen once, since every row asks."""
        chunked = {name: self.table.column(name) for name in self.table.column_names}
        return {
            name: (cells.chunk(0) if cells.num_chunks == 1 else cells, converter(cells.type))
            for name, cells in chunked.items()
        }

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_cells"}

    def where(self, i: int) -> str:
        """Where row `i` stands, such as `pairs.csv row 7`: row 1 is the first row of data, below any header."""
        if self.parts:
            part, row = self._part(i)
            return replace(part, rows=np.array([row])).where(0)
        if self.path_column:
            return str(Path(self.name) / self.cell(i, self.path_column))
        row = int(self.rows[i])
        name, first = next(((name, first) for name, first in reversed(self.files) if first <= row), (self.name, 0))
        return f"{name} row {row - first + 1}"

    def of_row(self, i: int) -> "Manifest":
        """What says where the files are that row `i` names: this manifest, or the source that the row is of."""
        return self._part(i)[0] if self.parts else self

    def part_rows(self) -> list[slice]:
        """The rows of each part, which stand together as long as rows are in the order of the table."""
        ends = np.searchsorted(self.rows, self._starts)
        return [slice(int(start), int(stop)) for start, stop in zip(ends, ends[1:], strict=False)]

    def _part(self, i: int) -> tuple["Manifest", int]:
        row = int(self.rows[i])
        k = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.parts[k], row - int(self._starts[k])

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """The place in `table` of the first row of each part, and the end."""
        return np.cumsum([0, *(part.table.num_rows for part in self.parts)])

    def take(self, indices: ArrayLike) -> "Manifest":
        """The rows at `indices` (into this manifest), sharing the table."""
        return replace(self, rows=self.rows[np.asarray(indices, dtype=np.int64)])

    def called(self, names: Mapping[str, str]) -> "Manifest":
        """The same rows where each column `names[NAME]` is called NAME; another of that name is hidden by it.

        Raises `BadInput` where there is no such column.
        """
        for column in names.values():
            self.require(column)
        columns = {name: names.get(name, name) for name in dict.fromkeys([*self.columns, *names])}
        table = self.table.select(list(columns.values())).rename_columns(list(columns))
        path = next((name for name, column in columns.items() if column == self.path_column), None)
        return replace(self, table=table, path_column=path)

    def require(self, column: str) -> None:
        """Raise `BadInput` when there is no such column."""
        if column not in self.table.column_names:
            found = ", ".join(map(repr, self.columns[:12])) + (", ..." if len(self.columns) > 12 else "")
            hint = nearest(column, self.columns) if len(self.columns) > 1 else ""
            hint = hint if hint.startswith(" (did") else ""
            raise BadInput(f"{self.name}: no column {column!r}{hint}; its columns are {found}")

    def column(self, name: str) -> list[Any]:
        """All cells of a column, as `row` gives them. Raises `BadInput` when there is no such column."""
        self.require(name)
        cells, convert = self.table.column(name), self._cells[name][1]
        starts = np.cumsum([0, *(len(chunk) for chunk in cells.chunks)])
        chunk_of = np.searchsorted(starts, self.rows, side="right") - 1
        found: list[Any] = []
        # Run by run of rows in one chunk: `take` over all chunks at once would first join them.
        for run in np.split(np.arange(len(self)), np.flatnonzero(np.diff(chunk_of)) + 1):
            if len(run):
                at = chunk_of[run[0]]
                found += map(convert, cells.chunk(int(at)).take(self.rows[run] - starts[at]))
        return found


def all_rows(count: int) -> NDArray[np.int64]:
    """The rows 0 to `count - 1`; those of a large table in half the memory."""
    return cast("NDArray[np.int64]", np.arange(count, dtype=np.int32 if LARGE < count < 1 << 31 else np.int64))


def converter(kind: "pa.DataType") -> Callable[[Any], Any]:
    import pyarrow.types as types

    if is_text(kind):
        return _text
    if types.is_dictionary(kind):
        convert = converter(kind.value_type)
        return lambda scalar: convert(scalar.value) if scalar.is_valid else None
    if is_list(kind):
        return _list_converter(kind.value_type)
    if types.is_struct(kind):
        return struct_converter(kind, converter)
    return _number if types.is_floating(kind) else _as_it_is


def _list_converter(kind: "pa.DataType") -> Callable[[Any], Any]:
    """Of lists of this type: arrays of numbers, or lists of cells."""
    import pyarrow.types as types

    if not (types.is_struct(kind) or types.is_dictionary(kind) or is_text(kind) or is_bytes(kind)):
        return lambda scalar: _array(scalar.values) if scalar.is_valid else None
    convert = converter(kind)
    return lambda scalar: [c for each in scalar.values if (c := convert(each)) is not None] if scalar.is_valid else None


def _text(scalar: "pa.Scalar") -> str | None:
    text: str | None = scalar.as_py()
    return text if text and not text.isspace() else None


def _number(scalar: "pa.Scalar") -> float | None:
    value: float | None = scalar.as_py()
    return None if value is None or math.isnan(value) else value


def _as_it_is(scalar: "pa.Scalar") -> Any:
    return scalar.as_py()


def _array(values: "pa.Array") -> Any:
    """Numbers as `[T]`, equally long lists of numbers as `[T, C]` (null is NaN), anything else as Python lists."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        # A copy, since Arrow's memory is read-only and torch warns about tensors over such memory.
        return np.array(values.to_numpy(zero_copy_only=False))
    if hasattr(kind, "value_type") and values.null_count == 0 and len(values):
        widths = set(pc.list_value_length(values).to_pylist())
        inner = values.flatten()
        if len(widths) == 1 and (pa.types.is_integer(inner.type) or pa.types.is_floating(inner.type)):
            return np.array(inner.to_numpy(zero_copy_only=False)).reshape(len(values), -1)
    return values.to_pylist()


def seconds(
    manifest: Manifest, column: str, key: str, day_first: bool | None = None, unit_of: str | None = None
) -> NDArray[np.float64]:
    """A column of times `[N]`: numbers as they are, dates as seconds since 1970, NaN for none.

    Args:
        key: of the config, whose `day_first` decides between 1 February and 2 January.
        unit_of: `every = 10`, say, which counts in seconds for dates: warns of numbers that look like dates.

    Raises `BadInput`, naming the first row that is neither a number nor a date, and `key` where it must decide.
    """
    cells = [None if missing(cell) else cell for cell in manifest.column(column)]
    try:
        found = np.array([np.nan if cell is None else float(cell) for cell in cells])
    except (TypeError, ValueError):
        try:
            return dates(cells, day_first)
        except BadDate as error:
            decide = f": {key}.day_first=true or {key}.day_first=false decides" if error.ambiguous else ""
            raise BadInput(f"{manifest.where(error.index)}, column {column}: {error}{decide}") from None
    if unit_of is not None:
        with suppress(BadDate):
            dates(cells[:100])
            some = next(cell for cell in cells if cell is not None)
            said = f"{some} and the like look like dates and are taken as numbers: {unit_of} counts in their unit"
            warn(f"{manifest.name}, column {column}: {said}", ClxWarning, stacklevel=2)
    return found
