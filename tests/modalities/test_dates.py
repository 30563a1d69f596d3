"""Dates as people write them, by value; what cannot be read is named with its cell."""

import datetime as dt
from typing import Any

import numpy as np
import pytest

from clx.modalities.dates import BadDate, dates, is_date, is_season

TEN = 1_707_818_400.0
"""2024-02-13 10:00 UTC, a Tuesday."""
DAY = 1_707_782_400.0
"""The midnight before."""


@pytest.mark.parametrize(
    ("cell", "seconds"),
    [
        ("2024-02-13", DAY),
        ("2024-2-13 10:00", TEN),
        ("2024/02/13T10:00:00", TEN),
        ("20240213", DAY),
        (20240213, DAY),
        ("20240213T100000Z", TEN),
        ("13/02/2024 10:00", TEN),
        ("13.2.2024, 10:00:00.25", TEN + 0.25),
        ("02-13-2024 10:00:00,5 AM", TEN + 0.5),
        ("2/13/2024 10:00 PM", TEN + 12 * 3600),
        ("2/13/2024 12:00 am", DAY),
        ("2/13/2024 12 p.m.", TEN + 2 * 3600),
        ("2024-02-13T10:00:00Z", TEN),
        ("2024-02-13 12:00:00+02:00", TEN),
        ("2024-02-13T04:30:00-0530", TEN),
        ("2024-02-13 11:00 UTC+01:00", TEN),
        ("Tue, 13 Feb 2024 10:00:00 GMT", TEN),
        ("February 13th, 2024 10:00", TEN),
        ("13-Feb-2024", DAY),
        ("2024-02", DAY - 12 * 86_400),
        (1_707_818_400, TEN),
        ("1707818400000", TEN),
        (1_707_818_400_000_000, TEN),
        (dt.datetime(2024, 2, 13, 10), TEN),
        (dt.datetime(2024, 2, 13, 10, tzinfo=dt.timezone(dt.timedelta(hours=1))), TEN - 3600),
        (dt.date(2024, 2, 13), DAY),
        (np.datetime64("2024-02-13T10:00"), TEN),
        (None, np.nan),
        ("  ", np.nan),
        ("N/A", np.nan),
        (float("nan"), np.nan),
    ],
)
def test_values(cell: Any, seconds: float) -> None:
    np.testing.assert_allclose(dates([None, cell]), [np.nan, seconds], rtol=0, atol=1e-5)


def test_one_cell_tells_the_order_of_all() -> None:
    assert dates(["01/02/2024", "13/02/2024"]).tolist() == dates(["2024-02-01", "2024-02-13"]).tolist()
    assert dates(["01/02/2024", "02/13/2024"]).tolist() == dates(["2024-01-02", "2024-02-13"]).tolist()
    assert dates(["01/02/2024"], day_first=True) == dates(["2024-02-01"])
    assert dates(["01/02/2024"], day_first=False) == dates(["2024-01-02"])
    assert dates(["01/01/2024"]) == dates(["2024-01-01"])


@pytest.mark.parametrize(
    ("cells", "index", "reason"),
    [
        (["13/02/2024", "02/13/2024"], 1, "is no date: month must be in 1..12"),
        (["05/05/2024", "01/02/2024"], 1, "may have the day or the month first"),
        (["2024-02-13", "2024-02-30"], 1, "is no date: day"),
        (["2024-02-13 10:00", "2024-02-13 25:00"], 1, "has no time of day: 25:00"),
        (["2024-02-13 13:00 PM"], 0, "has the hour 13 before PM"),
        (["2024-02-13T10:00Z", "2024-02-13T10:00"], 1, "has no time zone, unlike those before"),
        (["2024-02-13T10:00", "2024-02-13T10:00Z"], 1, "has a time zone, unlike those before"),
        (["2024-02-13 10:00 CET"], 0, "names the time zone CET"),
        (["2024-02-13 10:00 Europe/Berlin"], 0, "names the time zone Europe/Berlin"),
        (["13/02/24"], 0, "two digits for the year"),
        (["2024-02-13", 7], 1, "is a number unlike those before"),
        ([1_707_818_400, "2024-02-13"], 1, "is a date unlike those before"),
        ([1_707_818_400, 1_707_818_400_000], 0, "neither a date nor seconds or milliseconds"),
        (["5"], 0, "neither a date nor seconds"),
        (["2024-02-13", "noon"], 1, "is neither a number nor a date"),
        (["today"], 0, "is neither a number nor a date"),
        (["2024-02-13 and more"], 0, "more behind it: 'and more'"),
    ],
)
def test_what_cannot_be_read_is_named(cells: list[Any], index: int, reason: str) -> None:
    with pytest.raises(BadDate, match=reason) as caught:
        dates(cells)
    assert (caught.value.index, caught.value.text) == (index, str(cells[index]))
    assert caught.value.ambiguous == ("first" in reason)


def test_forms() -> None:
    assert all(map(is_date, ["2024-02-13", "13/02/2024", "20240213", "Feb 13, 2024"]))
    assert not any(map(is_date, ["", "2024", "1707818400", "may", "1/2", "192.168.1.1", "a 2024-02-13"]))
    assert not any(map(is_date, ["2018-19", "1999-00", "2024-02-30", "1234-56"])), "seasons, no days"
    assert all(map(is_season, ["2018-19", "1999-00", "2009-10"]))
    assert not any(map(is_season, ["2009-11", "2018-20", "2009-10-11"]))
    assert all(map(is_date, ["2009-11", "13/02/2024", "02/13/2024"]))
