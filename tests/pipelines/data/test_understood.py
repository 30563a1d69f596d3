"""What is said of data before time is spent on them."""

from pathlib import Path

import pyarrow as pa

from clx.pipelines.data.manifest import Manifest, all_rows
from clx.pipelines.data.understood import _example, in_three_lines, left_out_lines

LEFT_OUT = [{"reason": f".x{n} files", "count": n, "example": f"a.x{n}"} for n in (1, 2, 3, 4)]


def test_the_largest_sorts_of_what_is_left_out_are_named_and_the_others_counted() -> None:
    assert left_out_lines(LEFT_OUT, 4)[0] == "4 .x4 files (a.x4)"
    assert left_out_lines(LEFT_OUT, 2) == ["4 .x4 files (a.x4)", "3 .x3 files (a.x3)", "3 of 2 more sorts"]


def test_each_note_is_said_once() -> None:
    splits = {"train": {"rows": 4, "from": "all rows"}}
    column = {"column": "x", "use": "input table", "missing": 0}
    found = {"splits": splits, "left_out": LEFT_OUT, "notes": ["column x: files below img"], "columns": [column]}
    said = "\n".join(in_three_lines(found))
    assert said.count("files below img") == 1
    assert "; left out: 4 .x4 files (a.x4)" in said


def test_examples_of_urls_are_without_what_gives_access() -> None:
    table = pa.table({"image": ["https://x.org/a.png?sig=SECRET"], "several": [["https://x.org/b.png?sig=SECRET"]]})
    manifest = Manifest("m", Path(), table, all_rows(1))
    assert [_example(manifest, column) for column in table.column_names] == [
        "https://x.org/a.png",
        "1: https://x.org/b.png",
    ]
