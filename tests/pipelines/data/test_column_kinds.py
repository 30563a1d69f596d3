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


def test_dates_in_words_are_dates_and_no_texts() -> None:
    assert kind("when", "January 5, 2023", "May 17, 2023", "June 1, 2024") == "date"
    assert kind("when", *(f"{d} Jan 2023" for d in range(1, 25))) == "date"
    assert (
        kind("month", "2023-01", "2023-02", "2023-05") == kind("date", "20140728T000000", "20150101T000000") == "date"
    )
    assert kind("when", "1/2/24", "3/4/24", "5/6/24") == "date"  # which is asked about
    assert kind("notes", "May be a red one", "in 2023 it rained", "3 dogs in 2024") == "text"


def test_a_numbered_name_of_a_text_is_an_identifier() -> None:
    numbered = [f"R{7 * i}" for i in range(30)]
    assert kind("review_id", *numbered) == kind("text_id", *numbered) == "an identifier"
    assert kind("text_id", "kucing", "burung", "ikan") == kind("review", *numbered) == "text"


def test_columns_of_words_for_splits_are_splits_whatever_their_name() -> None:
    assert kind("phase", "train", "val", "train") == kind("ml_use", "TRAINING", "TEST") == "split"
    assert kind("fold", "training", "dev", "holdout") == "split"  # which is refused with its row
    assert kind("phase", "training", "dev", "holdout") == kind("go_by", "train", "bus") == "category"
    assert kind("go_by", "train", "train") == "one value only"
