"""What is said of data before time is spent on them."""

from pathlib import Path

import pyarrow as pa
import pytest

from clx.pipelines.config.data_schema import Data, Written
from clx.pipelines.config.schema import Config
from clx.pipelines.data.classes import alike_but_for_case
from clx.pipelines.data.manifest import Manifest, all_rows
from clx.pipelines.data.missing_cells import missing_in, numbers_for_missing, words_for_missing
from clx.pipelines.data.understood import _example, classes_in, classes_line, in_lines, left_out_lines, understood
from clx.pipelines.data.written_columns import text_reading
from clx.pipelines.system.errors import BadInput

LEFT_OUT = [{"reason": f".x{n} files", "count": n, "example": f"a.x{n}"} for n in (1, 2, 3, 4)]


def test_the_largest_sorts_of_what_is_left_out_are_named_and_the_others_counted() -> None:
    assert left_out_lines(LEFT_OUT, 4)[0] == "4 .x4 files (a.x4)"
    assert left_out_lines(LEFT_OUT, 2) == ["4 .x4 files (a.x4)", "3 .x3 files (a.x3)", "3 of 2 more sorts"]


def test_each_note_is_said_once() -> None:
    splits = {"train": {"rows": 4, "from": "all rows"}}
    column = {"column": "x", "use": "input table", "missing": 0}
    found = {"splits": splits, "left_out": LEFT_OUT, "notes": ["column x: files below img"], "columns": [column]}
    said = "\n".join(in_lines(found))
    assert said.count("files below img") == 1
    assert "; left out: 4 .x4 files (a.x4)" in said


def test_examples_of_urls_are_without_what_gives_access() -> None:
    table = pa.table({"image": ["https://x.org/a.png?sig=SECRET"], "several": [["https://x.org/b.png?sig=SECRET"]]})
    manifest = Manifest("m", Path(), table, all_rows(1))
    assert [_example(manifest, column) for column in table.column_names] == [
        "https://x.org/a.png",
        "1: https://x.org/b.png",
    ]


def test_words_for_missing_classes_and_classes_alike_but_for_case_are_told() -> None:
    table = pa.table({"y": ["none", "None ", "Cat", "cat", "dog", "-", "", None]})
    rows = [Manifest("m", Path(), table, all_rows(6)), Manifest("m", Path(), table, all_rows(2))]
    (said,) = words_for_missing("y", rows, "class")
    assert said == "column y: 2 cells 'none', 2 cells 'None' count as missing: write another word where that is a class"
    (said,) = alike_but_for_case("y", rows)
    assert said == "column y: 'Cat' and 'cat' are classes of their own, by the case of letters"
    fine = [Manifest("m", Path(), table.slice(3), all_rows(5))]
    assert not [*words_for_missing("y", fine, "class"), *alike_but_for_case("y", fine)]
    coded = pa.table({"y": table["y"].dictionary_encode(), "several": [["Cat"], ["cat"], ["none"], [], *[None] * 4]})
    rows = [Manifest("m.parquet", Path(), coded, all_rows(8))]
    (said,) = words_for_missing("y", rows, "class")
    assert said.startswith("column y: 1 cells 'none', 1 cells 'None' count as missing")
    assert missing_in(rows[0], "y", "category").sum() == 4
    assert missing_in(rows[0], "several", "labels").sum() == 4
    assert len([*alike_but_for_case("y", rows)]) == 1
    assert not [*words_for_missing("several", rows, "class"), *alike_but_for_case("several", rows)]


def test_nines_far_from_all_other_numbers_are_told() -> None:
    columns = {
        "age": ["31", "-999", "40", "", "-999", "58"],
        "speed": [3.5, 999.9, 4.0, None, 9999.0, 3.0],  # two ends: of nines the far one counts
        "price": [999, 450, 700, 80, 1200, 90],
        "share": [0.1, 0.99, 0.2, 0.3, 0.4, 0.5],
        "word": ["a", "99", "b", "c", "d", "e"],
        "only": [99, 99, 99, 99, 99, 99],
        "well": [0.1, -999.25, 0.3, 0.2, 0.25, 0.15],
    }
    rows = Manifest("m.csv", Path(), pa.table(columns), all_rows(6))
    assert {column: [*numbers_for_missing(column, rows)] for column in columns} == {
        "age": ["column age: 2 cells are -999, far from all others (31 to 58): empty them where they mean missing"],
        "speed": [
            "column speed: 1 cells are 9999, far from all others (3 to 999.9): empty them where they mean missing"
        ],
        "price": [],
        "share": [],
        "word": [],
        "only": [],
        "well": [
            "column well: 1 cells are -999.25, far from all others (0.1 to 0.3): empty them where they mean missing"
        ],
    }


def test_a_number_that_comes_again_far_from_many_others_is_told() -> None:
    columns = {
        "air": [-200, -200, *(i / 2 for i in range(18))],
        "once": [-200, *(i / 2 for i in range(19))],
        "few": [-200, -200, *[1, 2, 3] * 6],
        "zeros": [0, 0, *range(1, 19)],
    }
    rows = Manifest("m.csv", Path(), pa.table(columns), all_rows(20))
    said = {column: [*numbers_for_missing(column, rows)] for column in columns}
    assert said.pop("air") == [
        "column air: 2 cells are -200, far from all others (0 to 8.5): empty them where they mean missing"
    ]
    assert not any(said.values())


def test_points_may_be_thousands_where_another_column_has_decimal_commas() -> None:
    columns = {
        "rent": ["1.724", "400", "", "2.050"],
        "area": ["81,8", "35,9", "40", "NA"],
        "size": ["1.5", "2.125", "1", "3"],
    }
    rows = Manifest("m.csv", Path(), pa.table(columns), all_rows(4))
    with pytest.raises(
        BadInput, match="m.csv row 1, column rent: '1.724' may be thousands .* as column area has decimal"
    ):
        text_reading(rows, "rent", None)
    assert str(text_reading(rows, "rent", Written(decimal=","))) == "numbers with decimal ',', thousands '.'"
    assert str(text_reading(rows, "size", None)) == "numbers with decimal '.'"
    alone = Manifest(
        "m.csv", Path(), pa.table({"rent": columns["rent"], "tags": ["1,2,3", "4,5", "a", "b"]}), all_rows(4)
    )
    assert str(text_reading(alone, "rent", None)) == "numbers with decimal '.'"


def test_the_classes_of_a_label_are_counted_and_named() -> None:
    table = pa.table({"y": ["a", "-", "b", None, "a", "c"], "tags": ["x|y", "y", "", "z", "x", "x"]})
    rows = Manifest("m.csv", Path(), table, all_rows(6))
    single = {"classes": classes_in(Data(train="m.csv", label="y"), rows)}
    assert classes_line(single) == ["label y: 4 classes (-, a, b, c)"]
    sets = {"classes": classes_in(Data(train="m.csv", label="tags", several="|"), rows)}
    assert classes_line(sets) == ["label tags: 3 classes (x, y, z)"]
    many = Manifest("m.csv", Path(), pa.table({"y": [f"c{k}" for k in range(20)]}), all_rows(20))
    (line,) = classes_line({"classes": classes_in(Data(train="m.csv", label="y"), many)})
    assert line == "label y: 20 classes (c0, c1, c10, c11, c12, c13, c14, c15 and 12 more)"
    assert classes_line({"classes": classes_in(Data(train="m.csv"), rows)}) == []


def test_the_column_of_splits_is_of_the_kind_split() -> None:
    table = pa.table({"phase": ["train"] * 4, "text": ["a b c", "d e f", "g h i", "j k l"]})
    config = Config.model_validate(
        {"data": {"train": "m.csv", "split": "phase"}, "modalities": {"text": {}}, "objective": "nt-xent"}
    )
    seen = understood(config, {"train": Manifest("m.csv", Path(), table, all_rows(4))})
    assert [(at["column"], at["kind"], at["use"]) for at in seen["columns"]] == [
        ("phase", "split", "split"),
        ("text", "text", "input text"),
    ]
