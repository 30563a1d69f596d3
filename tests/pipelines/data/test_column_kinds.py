"""What cells and columns are, by the majority."""

import datetime

import pytest

from clx.pipelines.data.column_kinds import column, words


def kind(name: str, *cells: object) -> str:
    return column(name, list(enumerate(cells))).kind


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["a.png", "b.png", "seven"], "image"),
        (["a.png", "seven"], "category"),  # one of two is no majority
        ([1.5, 2.5, 3.5, float("inf")], "number"),
        (["1.5", "2", "-3e2", "inf", *"456789"], "number"),
        (["$1,200", "$900", "$1,000"], "number"),
        (["1_0", "2_0", "3_0"], "category"),
        (["2024-01-02", "2024-01-03", "2024-02-01"], "date"),
        ([datetime.datetime(2024, 1, 2), datetime.datetime(2024, 1, 3)], "date"),
        ([True, False, True], "category"),
        ([{"a": 1}, {"a": 2}], "objects"),
    ],
)
def test_the_kind_of_most_cells(cells: list[object], expected: str) -> None:
    assert kind("x", *cells) == expected


def test_indices_and_identifiers_are_no_numbers() -> None:
    assert kind("Unnamed: 0", 0, 1, 2) == "an index"
    assert kind("anything", *range(5, 30)) == "an index"
    assert kind("anything", *(i + (i > 9) for i in range(30))) == "an index"  # of which one row was left out
    assert kind("anything", *(2 * i for i in range(30))) == "number"
    assert kind("anything", *range(10), *range(9, 29)) == "number"
    assert kind("anything", *range(5)) == "number"  # too few rows to say so
    assert kind("PassengerId", 4, 9, 2) == kind("user_id", "4", "9", "2") == "an identifier"
    assert kind("humid", 4, 9, 2) == "number"


def test_words_of_scripts_without_spaces() -> None:
    assert words("a red bird") == 3
    assert words("しろいとり") == 2.5
    assert kind("x", *(f"しろいクジャクの{n}" for n in "あいうえお")) == "text"
    assert kind("text_ja", "カエル", "とり") == "text"
    assert kind("question_type", "what", "who", "what") == "category"
