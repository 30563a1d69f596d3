"""CSV and its kin: every cell as text, one line for a malformed row."""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from warnings import warn

import numpy as np

from clx.pipelines.data.file_kinds import kind_of_file
from clx.pipelines.data.lists_in_text import with_lists
from clx.pipelines.data.mapped import is_large, mapped
from clx.pipelines.data.no_rows import below_comments, refuse_second_header, without_totals
from clx.pipelines.data.text_files import BLOCK, arrow_source, check_encoding, opened, refuse_bomb
from clx.pipelines.system.errors import BadInput, ClxWarning

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLE = 1 << 16  # bytes looked at to find the separator
MOST_COLUMNS = 900
"""Of a table whose cells are looked at for lines that may be rows."""


def read_csv(path: Path, name: str) -> "pa.Table":
    """Every column as text; the separator is the one among `, ; tab |` that divides header and rows evenly."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    refuse_bomb(path, name)
    names, separator, comments = _header(path, name)
    read = arrow.ReadOptions(block_size=BLOCK, skip_rows=comments)
    parse = arrow.ParseOptions(delimiter=separator, newlines_in_values=True)
    convert = arrow.ConvertOptions(column_types={column: pa.string() for column in names})
    try:
        options = {"read_options": read, "parse_options": parse, "convert_options": convert}
        table = mapped(path, lambda: _parts(path, options)) if is_large(path) else None
        if table is None:
            table = arrow.read_csv(arrow_source(path), **options)
    except (pa.ArrowInvalid, UnicodeDecodeError, OSError) as error:
        _explain_csv(path, name, separator, comments, error)
    if table.num_rows:
        _refuse_open_quote(path, name, table)
        _refuse_swallowed_rows(path, name, table, separator, comments)
        refuse_second_header(table, name)
        table = without_totals(table, name)
    return with_lists(table.rename_columns([column.strip() for column in names]), name)


def _parts(path: Path, options: dict[str, Any]) -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
    """The columns of a large file and its rows, a block at a time."""
    from pyarrow import csv as arrow

    reader = arrow.open_csv(arrow_source(path), **options)
    return reader.schema, iter(reader)


def separator_of(path: Path, name: str) -> str:
    """The separator of a file. Raises `BadInput` as `read_csv` does."""
    return _header(path, name)[1]


def _header(path: Path, name: str) -> tuple[list[str], str, int]:
    """Column names as written, the separator, and how many lines of comments stand above."""
    with opened(path, name) as file:
        head = file.read(SAMPLE)
        complete = not file.read(1)
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head, final=complete)
    except UnicodeDecodeError:
        check_encoding(path, name)
        raise
    if not text.strip():
        raise BadInput(f"{name}: the file is empty")
    text, comments = below_comments(text, name)
    best: tuple[tuple[bool, float, int], str, list[list[str]]] | None = None
    for separator in "\t,;|" if ".tsv" in map(str.lower, path.suffixes) else ",\t;|":
        records = [r for r in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if r]
        body = records[1:51] if complete else records[1:-1][:50]
        width = len(records[0])
        even = sum(len(r) == width for r in body) / max(len(body), 1)
        score = (width > 1, even, width)
        if best is None or score > best[0]:
            best = score, separator, records
    assert best is not None
    _, separator, records = best
    names, body = records[0], records[1:51] if complete else records[1:-1][:50]
    if ".txt" in map(str.lower, path.suffixes) and (len(names) == 1 or best[0][1] < 0.9):
        raise BadInput(
            f"{name}: text without columns; of a .txt file a table is read, with a line of column names and cells "
            "divided by commas, tabs, semicolons or bars"
        )
    if complete and len(records) == 1:
        raise BadInput(f"{name}: there is a header but no rows of data")
    _refuse_no_header(name, names, body, separator)
    bare = [column.strip() for column in names]
    doubles = [column for i, column in enumerate(bare) if column in bare[:i]]
    if doubles:
        raise BadInput(f"{name}: column {doubles[0]!r} appears more than once")
    return names, separator, comments


def _explain_csv(path: Path, name: str, separator: str, comments: int, error: Exception) -> NoReturn:
    """Read again, one row after the other, to name the row at fault.

    Not by Arrow's `invalid_row_handler`: a thread of its reader that lets go of that Python function while the
    interpreter ends aborts the process ("terminate called without an active exception").
    """
    check_encoding(path, name)
    csv.field_size_limit(BLOCK)
    with opened(path, name) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        width = 0
        for _ in range(comments):
            text.readline()
        with suppress(csv.Error):
            for number, row in enumerate(r for r in csv.reader(text, delimiter=separator) if r):
                width = width or len(row)
                if len(row) != width:
                    shown = " ".join(separator.join(row).split())[:60]
                    raise BadInput(
                        f"{name} row {number}: {len(row)} cells where the header has {width} columns: {shown!r} "
                        f"(quote a cell that holds {_spoken(separator)})"
                    ) from None
    raise BadInput(f"{name}: {' '.join(str(error).split())}") from None


def _spoken(separator: str) -> str:
    return "a tab" if separator == "\t" else repr(separator)


def _refuse_open_quote(path: Path, name: str, table: "pa.Table") -> None:
    """Arrow takes everything after a quote that is never closed as one cell: refuse that, it loses rows."""
    last = table.column(table.num_columns - 1)[-1].as_py() or ""
    if "\n" not in last:
        return
    with opened(path, name) as file:
        end = b""
        while block := file.read(BLOCK):
            end = (end + block)[-64:]
        if not end.rstrip().endswith(b'"'):
            raise BadInput(f"{name} row {table.num_rows}: a quote opens and is never closed")


def _refuse_swallowed_rows(path: Path, name: str, table: "pa.Table", separator: str, comments: int) -> None:
    """A quote that belongs to a text and begins its cell makes one cell of all rows up to the next quote. Refused where
    text goes on behind that one; told of where all whole lines of a cell have as many tabs as a row."""
    import pyarrow.compute as pc

    broken = [column for column in table.columns if pc.any(pc.match_substring(column, "\n")).as_py()]
    if not broken or table.num_columns == 1:
        return
    if (row := _goes_on_behind_quote(path, name, separator, comments)) is not None:
        raise BadInput(
            f"{name} row {row}: a quote opens a cell there that goes on over the rows below, up to the next quote: put "
            "a cell that begins with a quote in quotes, and write each quote within it twice"
        )
    if separator != "\t" or table.num_columns > MOST_COLUMNS:
        return
    rows_within = rf"^[^\n]*\n([^\n\t]+(\t[^\n\t]*){{{table.num_columns - 1}}}\n)+[^\n]*$"
    holds = (pc.match_substring_regex(column, rows_within) for column in broken)
    if rows := [row for column in holds if (row := pc.index(column, True).as_py()) >= 0]:
        said = f"{name} row {min(rows) + 1}: a cell in quotes has lines with as many tabs as a row"
        warn(
            f"{said}: where these are rows, write each quote of a text twice, and the text in quotes",
            ClxWarning,
            stacklevel=2,
        )


def _goes_on_behind_quote(path: Path, name: str, separator: str, comments: int) -> int | None:
    """The first row with a cell of several lines behind whose last quote text goes on; blanks there are no text."""
    csv.field_size_limit(BLOCK)
    blanks = re.compile(rf'" +(?={re.escape(separator)}|\r?\n|$)')
    with opened(path, name) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        for _ in range(comments):
            text.readline()
        reader = csv.reader((blanks.sub('"', line) for line in text), delimiter=separator, strict=True)
        row = lines = 0
        while True:
            try:
                row += bool(next(reader)) and lines > 0
            except StopIteration:
                return None
            except csv.Error:
                row += lines > 0
                if reader.line_num - lines > 1:
                    return row
            lines = reader.line_num


def _refuse_no_header(name: str, names: list[str], body: list[list[str]], separator: str) -> None:
    """A first row of data taken for names would be lost, and nobody could name a column."""
    below = next((row for row in body if len(row) == len(names)), None)
    numeric = [cell for cell in names if _is_number(cell)]
    counted = bool(numeric) and all(c.isdigit() for c in numeric) and np.all(np.diff([int(c) for c in numeric]) == 1)
    alike = below is not None and all(_is_number(a) == _is_number(b) for a, b in zip(names, below, strict=True))
    data = alike and not counted and 2 * len(numeric) >= len(names)
    if data or any(kind_of_file(cell.strip()) for cell in names):
        shown = separator.join(names)[:60]
        raise BadInput(
            f"{name}: the first row should name the columns, and {shown!r} looks like data: write a line of names "
            "above it"
        )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
