"""Columns looked at once for each different cell, or at once as a whole."""

import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clx.pipelines.data.distinct import distinct, numbers, plain_numbers, readable_numbers
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.system.errors import BadInput

COLUMNS = {
    "truth": [True, None, False, True],
    "none": pa.nulls(4),
    "number": [1.0, float("nan"), None, 1.0],
    "text": [" ", "a", None, "a"],
    "decimal": [Decimal("1.5")] * 4,
    "date": [datetime.datetime(2024, 1, 1), None, None, datetime.datetime(2024, 1, 2)],
    "list": [[1], [2], None, [1]],
    "bytes": [b"a", b"b", None, b"a"],
    "dictionary": pa.array(["a", "b", None, "a"]).dictionary_encode(),
}


def manifest(columns: dict[str, object], rows: list[int] | None = None, chunks: int = 1) -> Manifest:
    table = pa.concat_tables([pa.table(columns)] * chunks)
    return Manifest("a.csv", Path(), table, np.arange(len(table)) if rows is None else np.array(rows))


@pytest.mark.parametrize("column", COLUMNS)
def test_cells_are_those_of_the_rows(column: str) -> None:
    rows = manifest(COLUMNS, [7, 1, 2, 3, 0], chunks=2)
    values, of_row = distinct(rows, column)
    assert str([values[k] for k in of_row]) == str(rows.column(column))


def test_each_is_looked_at_once() -> None:
    values, of_row = distinct(manifest({"label": ["b", "a", "b", None] * 1000}), "label")
    assert (values, of_row[:4].tolist(), len(of_row)) == (["b", "a", None], [0, 1, 0, 2], 4000)


def test_numbers_are_the_same_read_at_once_and_one_by_one() -> None:
    cells = ["1", " -2.5e3 ", "NA", "", None, "inf", ".5", "1e400"]
    rows = manifest({"plain": cells, "odd": [*cells[:-1], "1,000.0"]})
    assert plain_numbers(rows.table.column("plain")) is not None
    assert plain_numbers(rows.table.column("odd")) is None
    same = [1, -2500, np.nan, np.nan, np.nan, np.inf, 0.5]
    np.testing.assert_array_equal(numbers(rows, "plain"), [*same, np.inf])
    np.testing.assert_array_equal(numbers(rows, "odd"), [*same, 1000])


def test_what_is_no_number_is_named_or_told_of() -> None:
    rows = manifest({"y": ["1", "1_0", "3"]})
    with pytest.raises(BadInput, match="a.csv row 2, column y: '1_0' is not a number"):
        numbers(rows, "y")
    found, odd = readable_numbers(rows, "y")
    assert (str(found.tolist()), odd) == ("[1.0, nan, 3.0]", True)
