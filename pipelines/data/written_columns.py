"""Columns of text that hold numbers or dates: how they are written, decided by all of a file, with the row in doubt."""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from clx.modalities.numbers import DECIDES, PLAIN, Unclear, Writing, missing, number
from clx.modalities.table_columns import NO_MARKS, Marks, Reading, reading_of
from clx.pipelines.config.data_schema import Data, Written
from clx.pipelines.data.arrow_types import decoded, is_text
from clx.pipelines.data.csv_files import separator_of
from clx.pipelines.data.distinct import number_of, plain_numbers
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.system.errors import BadInput

SAMPLE = 1000
"""Cells of another column that are looked at for how a file writes numbers."""


def holds_text(manifest: Manifest, column: str) -> bool:
    """Whether the file has this column as text."""
    return is_text(decoded(manifest.table.schema.field(column).type))


def text_reading(manifest: Manifest, column: str, written: Written | None) -> Reading:
    """How a column of text is to be read: as numbers in some writing, dates, or neither (None).

    Raises:
        BadInput: where it can be read in two ways, with the row that shows it and the key that decides.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = manifest.table.column(column)
    if written is None and all(plain_numbers(pa.chunked_array([chunk])) is not None for chunk in cells.chunks):
        _refuse_thousands(manifest, column)
        return PLAIN
    texts = [text for text in pc.unique(cells).to_pylist() if not missing(text)]
    marks = NO_MARKS if written is None else Marks(written.decimal, written.thousands, written.day_first)
    try:
        return reading_of(texts, marks=marks)
    except Unclear as error:
        first = pc.index(cells.cast("string"), error.cells[0]).as_py()
        where = replace(manifest, rows=np.array([first])).where(0)
        raise BadInput(f"{where}, column {column}: {error}") from None


def _refuse_thousands(manifest: Manifest, column: str) -> None:
    """`1.724` and `400` are 1724 and 400 in a file that writes `81,8` in another column, and may be so where semicolons
    divide the cells, as beside decimal commas, and no other column has `81.8`: raise `BadInput` for these, unless a
    point in the column stands before another count of digits, and is decimal."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.utf8_trim_whitespace(manifest.table.column(column).cast(pa.large_string()))
    points = pc.fill_null(pc.match_substring_regex(texts, r"[.eE]"), False)
    grouped = pc.fill_null(pc.match_substring_regex(texts, r"^[-+]?[1-9]\d{0,2}(\.\d{3})+$"), False)
    if not pc.any(points).as_py() or not pc.all(pc.equal(points, grouped)).as_py():
        return
    others = [c for c in manifest.table.column_names if c != column and holds_text(manifest, c)]
    comma = next((c for c in others if _has_decimals(manifest.table.column(c).slice(0, SAMPLE), ",")), None)
    if comma is not None:
        why = f"column {comma} has decimal commas"
    elif _semicolons(manifest) and not any(
        _has_decimals(manifest.table.column(c).slice(0, SAMPLE), ".") for c in others
    ):
        why = "semicolons divide the file, as where commas are decimal"
    else:
        return
    first = pc.index(grouped, True).as_py()
    where = replace(manifest, rows=np.array([first])).where(0)
    cell = texts[first].as_py()
    raise BadInput(f"{where}, column {column}: {cell!r} may be thousands or three decimals, as {why}: {DECIDES}")


def _semicolons(manifest: Manifest) -> bool:
    """Whether the rows are of one file of text that semicolons divide."""
    file = manifest.file
    return file is not None and ".csv" in map(str.lower, file.suffixes) and separator_of(file, manifest.name) == ";"


def _has_decimals(cells: Any, mark: str) -> bool:
    """Whether most cells are numbers, and some with a mark that can divide no thousands."""
    import pyarrow.compute as pc

    known = [text for text in pc.utf8_trim_whitespace(cells).to_pylist() if not missing(text)]
    marked = [re.fullmatch(rf"[-+]?\d+{re.escape(mark)}(\d+)", text) for text in known]
    whole = sum(text.lstrip("+-").isdecimal() for text in known)
    return 2 * (whole + sum(map(bool, marked))) > len(known) and any(m and len(m[1]) != 3 for m in marked)


def with_numbers(manifest: Manifest, columns: Iterable[str], written: Written | None) -> Manifest:
    """The same where columns of text that hold numbers hold them as such: `1.200,50 EUR` is 1200.5.

    A cell that is no number in the column's writing stays text, to be found with its row by who reads it.
    """
    table, found = manifest.table, dict(manifest.written)
    for column in columns:
        if column not in table.column_names or not holds_text(manifest, column):
            continue
        reading = text_reading(manifest, column, written)
        writing = reading if isinstance(reading, Writing) else PLAIN
        if writing != PLAIN:
            found[column] = writing
            table = table.set_column(table.column_names.index(column), column, _read(table.column(column), writing))
    return replace(manifest, table=table, written=found) if found else manifest


def with_numbers_beside(manifest: Manifest, columns: Iterable[str], written: Written | None) -> Manifest:
    """The same for columns that are only repeated beside an answer: one that does not hold numbers throughout, or can
    be read in two ways, stays as its file has it."""
    for column in columns:
        with suppress(BadInput):
            found = with_numbers(manifest, [column], written)
            if found is not manifest and _typed(found, column) is not None:
                manifest = found
    return manifest


def as_numbers(manifest: Manifest, columns: Iterable[str]) -> Manifest:
    """The same where columns of text that hold numbers throughout, as programs write them, have the type of numbers."""
    table = manifest.table
    for column in columns:
        text = column in table.column_names and holds_text(manifest, column)
        if text and (cells := _typed(manifest, column)) is not None:
            table = table.set_column(table.column_names.index(column), column, cells)
    return manifest if table is manifest.table else replace(manifest, table=table)


def _typed(manifest: Manifest, column: str) -> Any:
    """A column of text as one of numbers, null where one is missing; None where a cell is no number."""
    import pyarrow as pa

    cells = manifest.table.column(column)
    parts = [plain_numbers(pa.chunked_array([chunk])) for chunk in cells.cast(decoded(cells.type)).chunks]
    known = [pa.array(part, from_pandas=True) for part in parts if part is not None]
    return pa.chunked_array(known, pa.float64()) if len(known) == len(parts) else None


def with_marks(data: Data, train: Manifest) -> Data:
    """The same with the writing of the training targets, where it is one, so that other files are read alike."""
    marks = {(writing.decimal, writing.thousands) for writing in train.written.values()}
    if data.numbers is not None or len(marks) != 1:
        return data
    ((decimal, thousands),) = marks
    numbers = Written.model_validate({"decimal": decimal, "thousands": thousands or None})
    return data.model_copy(update={"numbers": numbers})


def _read(cells: Any, writing: Any) -> Any:
    """The column as Python writes numbers, with what is none as it was."""
    import pyarrow as pa

    known: dict[str | None, str | None] = {}
    for text in cells.unique().to_pylist():
        try:
            known[text] = None if missing(text) else repr(number(text, writing))
        except ValueError:
            plain = number_of(text) is not None
            known[text] = f"{text} (column of {writing})" if plain else text  # no number in another writing either
    return pa.chunked_array([pa.array([known[text] for text in cells.to_pylist()], pa.string())])
