"""Text as numbers, classes and nothing."""

import math

import pytest

from clx.modalities.numbers import PLAIN, Unclear, Writing, class_name, missing, number, writing_of

READ = {
    "plain": (["1", "-2.5", "3e2"], [1, -2.5, 300]),
    "decimal commas": (["12,5", "0,123", "7"], [12.5, 0.123, 7]),
    "a doubtful cell beside a clear one": (["1,234", "12,5"], [1.234, 12.5]),
    "thousands and a point": (["1,234", "12.5", "1,234,567.5"], [1234, 12.5, 1234567.5]),
    "points for thousands": (["1.234.567", "1.200,50"], [1234567, 1200.5]),
    "spaces and apostrophes": (["1 234 567", "12.5"], [1234567, 12.5]),
    "Swiss": (["1'234.50", "3.20"], [1234.5, 3.2]),
    "Indian": (["12,34,567", "1.5"], [1234567, 1.5]),
    "three decimals": (["1.234", "2.345"], [1.234, 2.345]),
    "a unit": (["12 kg", "3kg", "1.5 kg"], [12, 3, 1.5]),
    "one and many": (["1 bedroom", "3 bedrooms"], [1, 3]),
    "percent": (["12%", "3.5 %"], [12, 3.5]),
    "dollars": (["$1,200", "$3,400.50", "-$5"], [1200, 3400.5, -5]),
    "dollars without cents": (["$1,200"], [1200]),
    "euros": (["1.200,50 EUR", "EUR 3,10", "3 eur"], [1200.5, 3.1, 3]),
    "a true minus": (["\u22125", "1\u00a0234"], [-5, 1234]),
    "without end": (["-inf", "3", "Infinity"], [-math.inf, 3, math.inf]),
}


@pytest.mark.parametrize("case", READ)
def test_columns_of_text_are_numbers(case: str) -> None:
    cells, values = READ[case]
    writing = writing_of(cells)
    assert writing is not None
    assert [number(cell, writing) for cell in cells] == values


UNCLEAR = {
    "thousands or decimals": ["1,234", "2,345"],
    "dollars, perhaps of petrol": ["$1.234"],
    "both marks": ["12.5", "12,5"],
    "two units": [f"{k} kg" for k in range(1, 20)] + [f"{k} lb" for k in range(1, 20)],
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_what_reads_in_two_ways_is_refused_with_a_cell(case: str) -> None:
    with pytest.raises(Unclear) as raised:
        writing_of(UNCLEAR[case])
    assert raised.value.cells[0] in UNCLEAR[case]


@pytest.mark.parametrize(
    "cells", [["red", "blue", "3"], ["12 Main", "7 Park"], ["1st", "2nd"], ["1.2.3"], ["10-20"], []]
)
def test_other_text_is_no_number(cells: list[str]) -> None:
    assert writing_of(cells) is None


def test_the_user_decides() -> None:
    assert number("1,234", writing_of(["1,234"], ",") or PLAIN) == 1.234
    assert number("1,234", writing_of(["1,234"], ".") or PLAIN) == 1234
    assert number("1.234", writing_of(["1.234"], thousands=".") or PLAIN) == 1234


@pytest.mark.parametrize(
    ("cell", "writing"), [("1_0", PLAIN), ("abc", PLAIN), ("12 kg", PLAIN), ("12", Writing(unit="kg"))]
)
def test_an_odd_cell_is_no_number(cell: str, writing: Writing) -> None:
    with pytest.raises(ValueError, match="is not a number"):
        number(cell, writing)


def test_an_odd_cell_changes_nothing() -> None:
    assert writing_of(["many", *(f"{k},5" for k in range(30))]) == Writing(",")
    assert writing_of(["5 lb", *(f"{k} kg" for k in range(30))]) == Writing(unit="kg")
    assert writing_of(["3.25", *(f"{k},5" for k in range(30))]) == Writing(",")


def test_missing() -> None:
    for cell in (None, math.nan, "", " ", "NA", "n/a", "#N/A", "null", "None", "nan", "-", "?", "NaT"):
        assert missing(cell), cell
        assert math.isnan(number(cell))
        assert class_name(cell) is (cell if cell == "-" else None)  # beside "+" it is a class
    assert not any(map(missing, ["0", 0, "no", "--x", False]))


def test_classes_are_the_same_in_every_type() -> None:
    assert {class_name(cell) for cell in (3, 3.0, "3", " 3 ", "3.0", "3.00")} == {"3"}
    assert {class_name(cell) for cell in (True, "true", "TRUE", " True")} == {"True"}
    assert {class_name(cell) for cell in ("YES", "yes", "Yes ")} == {"yes"}
    assert {class_name(cell) for cell in ("K\u00e4fer", "Ka\u0308fer\u00a0")} == {"K\u00e4fer"}
    assert [class_name(cell) for cell in ("A", "a", "007", "1.10")] == ["A", "a", "007", "1.10"]


def test_three_digits_behind_a_mark_that_no_other_cell_explains_are_refused() -> None:
    with pytest.raises(ValueError, match="'2,868' may be thousands or three decimals: write 2868 or 2.868"):
        number("2,868")
    with pytest.raises(ValueError, match="'-1,234e3' may be .* write -1234e3 or -1.234e3"):
        number("-1,234e3")
    with pytest.raises(ValueError, match="'2.868 kg' may be thousands .* write 2868 or 2,868"):
        number("2.868 kg", Writing(",", unit="kg"))
    for cell in ("0,934", "-0,934", "01,234"):
        with pytest.raises(ValueError, match="is not a number"):
            number(cell)
    assert (number("2,868", Writing(thousands=",")), number("$2,868", Writing(unit="$"))) == (2868, 2868)
    assert (number("2,868.5"), number("1,234,567"), number("2 868")) == (2868.5, 1234567, 2868)
    assert writing_of(["0,934", "2,868"]) == Writing(",")
