"""How the cells of a table's column are to be read: as numbers in some writing, as dates, or as categories."""

import math
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clx.modalities.dates import TWO_DIGITS, BadDate, dates, is_date, is_season
from clx.modalities.errors import CellError
from clx.modalities.numbers import PLAIN, Unclear, Writing, writing_of

YEAR, DAY = 365.25 * 86_400, 86_400  # seconds
DECIDES = "data.numbers: {day_first: true} or {day_first: false} decides (-s data.numbers.day_first=true)"
ODD_DATES = 20
"""Cells of a column of dates that may be none, each to be named as bad; one more, and the first is an error."""


class Dates(NamedTuple):
    """A column of dates and times."""

    day_first: bool | None = None
    """Whether `01/02/2024` is 1 February, where the column has such dates."""
    features: tuple[str, ...] = ()
    """Of `features_of`, those that differ from row to row in the training cells."""

    def __str__(self) -> str:
        order = {True: ", the day first", False: ", the month first", None: ""}[self.day_first]
        return f"dates{order}, as {', '.join(self.features)}"

    def read(self, cell: Any) -> dict[str, float]:
        """The features of one cell. Raises `CellError` for what is no date."""
        try:
            found = features_of(dates([cell], self.day_first))
        except BadDate as error:
            raise CellError(str(error)) from None
        return {name: float(found[name][0]) for name in self.features}

    def read_all(self, cells: Sequence[Any]) -> dict[str, NDArray[np.float64]]:
        """The features `[N]` of the cells that are dates."""
        found = features_of(readable(list(cells), self.day_first)[1])
        return {name: found[name] for name in self.features}


class Marks(NamedTuple):
    """What the user says of how numbers and dates are written; None leaves it to the cells."""

    decimal: str | None = None
    thousands: str | None = None
    day_first: bool | None = None


NO_MARKS = Marks()

Reading = Writing | Dates | None
"""Of a column; None for one of categories."""


def reading_of(values: Sequence[Any], column: str = "", marks: Marks = NO_MARKS) -> Reading:
    """How the present cells of a column are to be read: as what most of them are.

    Raises:
        Unclear: where they can be read in two ways, with the cells that show it and the key of `data` that decides.
    """
    texts = list(dict.fromkeys(value for value in values if isinstance(value, str)))
    numeric = sum(isinstance(value, Real | Decimal) for value in values)
    stamps = sum(isinstance(value, date) for value in values)
    try:
        if 2 * max(numeric, stamps) > len(values):
            return PLAIN if numeric >= stamps else _dates(list(values), marks)
        writing = writing_of(texts, marks.decimal, marks.thousands)
        if writing is None and texts and 2 * sum(map(is_date, texts)) >= len(texts) and not all(map(is_season, texts)):
            return _dates(texts, marks)
        short = [text for text in texts if writing is None and TWO_DIGITS.match(text.strip())]
        if short and 2 * len(short) >= len(texts):
            raise Unclear(f"{short[0]!r} is a date with two digits for the year: write all four", short[0])
    except Unclear as error:
        raise Unclear(f"{column}: {error}" if column else str(error), *error.cells) from None
    return writing


def readable(values: list[Any], day_first: bool | None) -> tuple[list[Any], NDArray[np.float64]]:
    """The cells that are dates, and these in seconds since 1970. Raises `Unclear` where too many are none."""
    values = list(values)
    for left in range(ODD_DATES, -1, -1):
        try:
            return values, dates(values, day_first)
        except BadDate as error:
            if error.ambiguous:
                raise Unclear(f"{error}: {DECIDES}", error.text) from None
            if not left or len(values) == 1:
                raise Unclear(str(error), error.text) from None
            del values[error.index]
    raise AssertionError


def _dates(values: list[Any], marks: Marks) -> Dates:
    """The order of day and month in cells most of which are dates, and the features that differ."""
    values, seconds = readable(values, marks.day_first)
    changing = tuple(name for name, each in features_of(seconds).items() if np.ptp(each) > 1e-9)
    order = _order_of(values, seconds) if marks.day_first is None else marks.day_first
    return Dates(order, changing or ("year",))


def _order_of(values: list[Any], seconds: NDArray[np.float64]) -> bool | None:
    """Which order of day and month these dates were read in; None where it makes no difference."""

    def agrees(day_first: bool) -> bool:
        try:
            return np.array_equal(seconds, dates(values, day_first), equal_nan=True)
        except BadDate:
            return False

    first, last = agrees(True), agrees(False)
    return None if first and last else first


def features_of(seconds: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Times `[N]` in seconds since 1970 as numbers `[N]` to learn from: the year with its fraction, and the season, the
    day of the week and the time of day as points on circles, on which the end lies beside the beginning.

    >>> {name: round(float(x[0]), 3) for name, x in features_of(np.array([0.0])).items()}  # a Thursday at midnight
    {'year': 1970.0, 'season sin': 0.0, 'season cos': 1.0, 'weekday sin': 0.434, 'weekday cos': -0.901, \
'hour sin': 0.0, 'hour cos': 1.0}
    """
    found = {"year": 1970 + seconds / YEAR}
    day = np.floor(seconds / DAY)
    for name, turns in (
        ("season", seconds / YEAR),
        ("weekday", (day + 3) % 7 / 7),  # 1 January 1970 was a Thursday
        ("hour", (seconds - day * DAY) / DAY),
    ):
        found |= {f"{name} sin": np.sin(2 * math.pi * turns), f"{name} cos": np.cos(2 * math.pi * turns)}
    return found
