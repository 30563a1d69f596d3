"""Dates and times as people write them, as seconds since 1970."""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import date, datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clx.modalities.numbers import missing

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAY = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]{0,6}\.?,? +)?"
NAME = rf"({'|'.join(MONTHS)})[a-z]{{0,6}}\.?"
YEAR_FIRST = re.compile(r"(\d{4})([-/.])(\d\d?)\2(\d\d?)(?!\d)")
YEAR_LAST = re.compile(WEEKDAY + r"(\d\d?)([-/.])(\d\d?)\2(\d{4})(?!\d)", re.I)
COMPACT = re.compile(r"(\d{4})(\d\d)(\d\d)(?!\d)")
DAY_NAME = re.compile(WEEKDAY + rf"(\d\d?)(?:st|nd|rd|th)?[-/. ]? ?{NAME}[-/., ]+(\d{{4}})(?!\d)", re.I)
NAME_DAY = re.compile(WEEKDAY + rf"{NAME}[-. ]+(\d\d?)(?:st|nd|rd|th)?[-,]? *(\d{{4}})(?!\d)", re.I)
SEASON = re.compile(r"\d\d(\d\d)-(\d\d)")
MONTH = re.compile(r"(\d{4})-(\d\d)(?!\d)")
TWO_DIGITS = re.compile(r"\d\d?([-/.])\d\d?\1\d\d(?!\d)")
PLAIN = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)?")
TIME = re.compile(r"(?:T|,? +)(\d\d?)(?:(:?)(\d\d)(?:\2(\d\d)(?:[.,](\d+))?)?)?(?: ?([ap])\.?m\.?)?", re.I)
ZONE = re.compile(r" ?(?:(?:utc|gmt)?([+-])(\d\d):?(\d\d)?|z|utc|gmt)", re.I)
EPOCHS = {1.0: (1e8, 1e10), 1e-3: (1e11, 1e13), 1e-6: (1e14, 1e16), 1e-9: (1e17, 1e19)}
"""Size of numbers that count seconds, milli-, micro- and nanoseconds since 1970: those of the years 1973 to 2286."""


class BadDate(ValueError):
    """A cell that is no date that can be read. The message holds its text and the reason."""

    def __init__(self, index: int, text: str, reason: str, ambiguous: bool = False) -> None:
        super().__init__(f"{text[:40]!r} {reason}")
        self.index, self.text, self.reason = index, text, reason
        self.ambiguous = ambiguous
        """Whether it may be 1 February or 2 January, and no other cell tells: `day_first` decides."""


class Moment(NamedTuple):
    """What one text says."""

    date: tuple[int, int, int]
    """Year, month and day; for `numeric` the two numbers before the year stand in the order of the text."""
    numeric: bool
    """Whether day and month are in the order that `day_first` says."""
    clock: float
    """Seconds since midnight, in UTC where there is a zone."""
    zoned: bool

    def exists(self) -> bool:
        """Whether the calendar has it, in one order of day and month at least."""
        for day_first in (False, True):
            with suppress(ValueError):
                self.seconds(day_first)
                return True
        return False

    def seconds(self, day_first: bool) -> float:
        """Since 1970. Raises `ValueError` for a date that no calendar has."""
        year, month, day = self.date
        if self.numeric and day_first:
            month, day = day, month
        return (date(year, month, day).toordinal() - 719_163) * 86_400 + self.clock


def dates(values: Sequence[Any], day_first: bool | None = None) -> NDArray[np.float64]:
    """Cells `[N]` of one column as seconds since 1970, in UTC where they say their zone; NaN where there is none.

    Text is read as `2024-02-13`, `13/02/2024`, `20240213`, `13 Feb 2024` or `February 13, 2024`, with a time such as
    `14:05`, `14:05:09.25`, `2:05 PM` and a zone such as `Z`, `UTC`, `+02:00` behind it. Numbers are seconds, milli-,
    micro- or nanoseconds since 1970, told by their size. `datetime` and `date` are taken as they are.

    Args:
        day_first: whether `01/02/2024` is 1 February; None has the column tell, by a cell such as `13/02/2024`.

    Raises:
        BadDate: at the first cell that cannot be read, or where no cell tells which number is the day.
    """
    if (found := _plain(values)) is not None:
        return found
    found = np.full(len(values), np.nan)
    moments: dict[int, Moment] = {}
    numbers: dict[int, float] = {}
    for i, value in enumerate(values):
        number = _number(value)
        if missing(value):
            continue
        if number is not None:
            numbers[i] = number
            continue
        try:
            moments[i] = _of_object(value) if isinstance(value, date) else moment(str(value))
        except ValueError as error:
            raise BadDate(i, str(value), str(error)) from None
    if numbers and moments:
        i = max(min(numbers), min(moments))
        raise BadDate(i, str(values[i]), "is " + ("a number" if i in numbers else "a date") + " unlike those before")
    for i, seconds in _since_1970(numbers, values):
        found[i] = seconds
    day_first = _order(moments, values, day_first)
    zoned = {each.zoned: i for i, each in reversed(moments.items())}
    if len(zoned) == 2:
        i = max(zoned.values())
        raise BadDate(i, str(values[i]), f"has {'a' if moments[i].zoned else 'no'} time zone, unlike those before")
    for i, each in moments.items():
        try:
            found[i] = each.seconds(day_first)
        except ValueError as error:
            raise BadDate(i, str(values[i]), f"is no date: {error}") from None
    return found


def _plain(values: Sequence[Any]) -> NDArray[np.float64] | None:
    """The same where all are text such as `2024-02-13 14:05:09`, ten times as fast; None for any others."""
    if not all(isinstance(value, str) and PLAIN.fullmatch(value) for value in values):
        return None
    try:
        return np.array(values, dtype="datetime64[us]").astype(np.int64) / 1e6
    except ValueError:  # of a day that no calendar has: it is named one by one
        return None


def is_date(text: str) -> bool:
    """Whether a text says a date that the calendar has; a bare number does not. See also `is_season`."""
    try:
        return _number(text) is None and moment(text).exists()
    except ValueError:
        return False


def is_season(text: str) -> bool:
    """Whether a text may be a year and the next, as `2009-10`, which is a month where not all of a column are so."""
    found = SEASON.fullmatch(text.strip())
    return found is not None and int(found[2]) == (int(found[1]) + 1) % 100


def moment(text: str) -> Moment:
    """What a text says. Raises `ValueError` with the reason, to be put behind the text."""
    text = text.strip()
    day, numeric, end = _date(text)
    clock, zoned = 0.0, False
    if match := TIME.match(text, end):
        clock, end = _clock(match), match.end()
        if match := ZONE.match(text, end):
            zoned, end = True, match.end()
            if match[1]:
                clock -= (-1 if match[1] == "-" else 1) * (int(match[2]) * 3600 + int(match[3] or 0) * 60)
    if rest := text[end:].strip():
        if re.fullmatch(r"[A-Za-z]+(/\w+)*|\[.*\]", rest):
            raise ValueError(f"names the time zone {rest}: an offset such as +01:00 is understood, or UTC")
        raise ValueError(f"is a date with more behind it: {rest[:20]!r}")
    return Moment(day, numeric, clock, zoned)


def _date(text: str) -> tuple[tuple[int, int, int], bool, int]:
    """Year, month and day, whether the last two are in an order yet to be told, and where they end."""
    if match := YEAR_FIRST.match(text):
        return (int(match[1]), int(match[3]), int(match[4])), False, match.end()
    if match := YEAR_LAST.match(text):
        return (int(match[4]), int(match[1]), int(match[3])), True, match.end()
    if match := COMPACT.match(text):
        return (int(match[1]), int(match[2]), int(match[3])), False, match.end()
    if match := DAY_NAME.match(text):
        return (int(match[3]), _month(match[2]), int(match[1])), False, match.end()
    if match := NAME_DAY.match(text):
        return (int(match[3]), _month(match[1]), int(match[2])), False, match.end()
    if match := MONTH.match(text):
        return (int(match[1]), int(match[2]), 1), False, match.end()
    if TWO_DIGITS.match(text):
        raise ValueError("is a date with two digits for the year: write all four")
    raise ValueError("is neither a number nor a date")


def _month(name: str) -> int:
    return MONTHS.index(name.lower()) + 1


def _clock(match: "re.Match[str]") -> float:
    """Seconds since midnight."""
    hour, minute, second = int(match[1]), int(match[3] or 0), int(match[4] or 0)
    if half := match[6]:
        if not 1 <= hour <= 12:
            raise ValueError(f"has the hour {hour} before {half.upper()}M")
        hour = hour % 12 + (12 if half.lower() == "p" else 0)
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError(f"has no time of day: {match[0].strip(' ,T')}")
    return hour * 3600 + minute * 60 + second + float(f"0.{match[5] or 0}")


def _of_object(value: date) -> Moment:
    """What a `datetime` or `date` says."""
    day = (value.year, value.month, value.day)
    if not isinstance(value, datetime):
        return Moment(day, False, 0.0, False)
    clock = value.hour * 3600 + value.minute * 60 + value.second + value.microsecond / 1e6
    offset = value.utcoffset()
    return Moment(day, False, clock - (offset.total_seconds() if offset is not None else 0), offset is not None)


def _number(value: Any) -> float | None:
    """A number, or text of one; eight digits that are a day of the calendar are not."""
    if isinstance(value, date) or (isinstance(value, str) and "_" in value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    match = COMPACT.fullmatch(str(value).strip())
    return None if match and 1800 <= int(match[1]) < 2200 and int(match[2]) <= 12 and int(match[3]) <= 31 else number


def _since_1970(numbers: dict[int, float], values: Sequence[Any]) -> Iterable[tuple[int, float]]:
    """Numbers of one column in seconds since 1970. Raises `BadDate` for one of another size."""
    if not numbers:
        return
    middle = sorted(map(abs, numbers.values()))[len(numbers) // 2]
    unit = next((unit for unit, (least, most) in EPOCHS.items() if least <= middle < most), None)
    for i, number in numbers.items():
        if unit is None or not EPOCHS[unit][0] <= abs(number) < EPOCHS[unit][1]:
            raise BadDate(i, str(values[i]), "is neither a date nor seconds or milliseconds since 1970")
        yield i, number * unit


def _order(moments: dict[int, Moment], values: Sequence[Any], day_first: bool | None) -> bool:
    """Whether the day stands first in those that are `numeric`, as asked or as the first cell tells that can."""
    numeric = [i for i, each in moments.items() if each.numeric]
    if day_first is not None or not numeric:
        return bool(day_first)
    for i in numeric:
        _, first, second = moments[i].date
        if max(first, second) > 12:
            return first > 12
    first, second = moments[numeric[0]].date[1:]
    if all(moments[i].date[1] == moments[i].date[2] for i in numeric):  # 01/01/2024 is the same either way
        return True
    i = next(i for i in numeric if moments[i].date[1] != moments[i].date[2])
    raise BadDate(i, str(values[i]), "may have the day or the month first, and no other cell tells", ambiguous=True)
