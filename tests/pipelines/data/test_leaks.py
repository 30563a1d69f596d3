"""Leaks of several columns are told in one line."""

from clx.pipelines.data.leaks import Leak, told_at_once


def test_leaks_of_several_columns_are_one_line_with_one_example() -> None:
    first = Leak("test", 158, "text_en", 29, "/far/away/words.csv row 64", "/far/away/words.csv row 2")
    others = [first._replace(column="text_fr", shared=12), first._replace(split="val", rows=9, shared=1)]
    assert told_at_once([first, *others]) == (
        "rows have what a training row has: of 158 test rows 29 the text_en, 12 the text_fr; "
        "of 9 val rows 1 the text_en; words.csv row 64 has the text_en of words.csv row 2"
    )
