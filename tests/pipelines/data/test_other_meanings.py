"""Numbers that may be dates, texts that may be series, and rows that may be parts of a file."""

from typing import Any

from clx.pipelines.data.column_kinds import kinds_of
from clx.pipelines.data.other_meanings import other_meanings
from samples import manifest


def said(**columns: list[Any]) -> list[str]:
    rows = manifest(**columns)
    return [*other_meanings(rows, kinds_of(rows), dict.fromkeys(columns, "input table"))]


def test_dates_written_as_numbers() -> None:
    (line,) = said(day=[20230101, 20230131, 20240229], sum=[20230101, 20239901, 20230105])
    assert line == "column day: 20230101 is read as a number; where dates are meant, write 2023-01-01"


def test_numbers_in_texts() -> None:
    (line,) = said(trace=["0.5 1.5 -2 3", "[ 1. 2. 3.5e-2  4. ]", "1;2;3;4"], text=["a b c d", "1 2 3 dogs", "in 2024"])
    assert line == "column trace: '0.5 1.5 -2 3'... is read as a text; where a series is meant, write [1.5, 2, ...]"


def test_rows_that_may_be_parts_of_a_file() -> None:
    files = ["a.wav", "a.wav", "b.wav", "b.wav"]
    (line,) = said(clip=files, start=[0, 1.5, 0, 2.5])
    assert line.startswith("column clip: files come again, and start may say from when to when a row is from; each row")
    (line,) = said(photo=["a.png", "a.png", "b.png"], x_min=[1, 2, 3])
    assert "x_min may say where in a picture" in line
    assert said(clip=["a.wav", "b.wav", "c.wav"], start=[0, 1.5, 2]) == said(clip=files, start=list("abcd")) == []
