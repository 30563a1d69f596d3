"""Cells as numbers, classes or nothing: what a text that people write for a number means, decided once per column.

Plain Python. Tables, targets and labels read cells by what stands here, so that they agree.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable
from numbers import Real
from typing import Any, NamedTuple
from unicodedata import normalize

ABSENT = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "nat", "null", "none", "?", "-"})
"""What a missing number looks like in text, in lower case. A caption or a path may read so."""
DASH = "-"
"""The one of these that is a class where it stands for one, beside `+` say."""
TRUTH = {"true": "True", "false": "False", "yes": "yes", "no": "no"}
SIGNS = "$€£¥₹₩₽₺₫₪฿¢"
CODES = "usd|eur|gbp|jpy|chf|cny|rmb|inr|krw|aud|cad|nzd|sek|nok|dkk|pln|czk|huf|brl|mxn|rub|try|zar"
MONEY = frozenset(CODES.upper().split("|"))
NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?P<before>(?:[A-Za-z]{{0,2}}[{SIGNS}]|(?:{CODES})\b)?)\s*(?P<second>[-+]?)"
    r"(?P<digits>(?:\d[\d.,' ]*\d|[.,]?\d+)\.?)(?P<power>(?:[eE][-+]?\d+)?)\s*(?P<unit>(?:[^\d\s.,'+-][^\d\s]*)?)",
    re.IGNORECASE,
)
"""A number with what may stand around it."""
ONE_GROUP = re.compile(r"[1-9]\d{0,2}[.,]\d{3}")
"""Thousands, or three decimals: a column shows which by its other cells."""
SPACES = str.maketrans({"\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u2212": "-", "\u2019": "'"})
ENDLESS = {f"{sign}{word}": float(f"{sign}inf") for sign in ("", "+", "-") for word in ("inf", "infinity")}
MOSTLY = 0.9
"""Share of a column's texts that must agree; the others are then bad cells, each with its row."""
LONGEST = 80
"""Characters of a cell in a message."""
FEW = 20
"""Different texts up to which a column of several units is a category, such as `1st` and `2nd`."""
MOST_UNITS = 5
"""With more, `12 Main` and `7 Park` are addresses."""


DECIDES = """data.numbers: {decimal: "."} or {decimal: ","} decides (-s 'data.numbers={decimal: "."}')"""


class Writing(NamedTuple):
    """How the numbers of a text column are written."""

    decimal: str = "."
    thousands: str = ""
    """Mark between groups of three digits; empty for any of `,`, `.`, space and apostrophe but the decimal mark."""
    unit: str = ""
    """What stands beside each number, such as `kg`, `%` or `$`."""

    def __str__(self) -> str:
        said = f"numbers with decimal {self.decimal!r}" + (f", thousands {self.thousands!r}" if self.thousands else "")
        return said + (f", in {self.unit}" if self.unit else "")


PLAIN = Writing()


class Unclear(ValueError):
    """A column of text that can be read as numbers in two ways. `cells` are those that show it."""

    def __init__(self, reason: str, *cells: str) -> None:
        super().__init__(reason)
        self.cells = cells


class _Parts(NamedTuple):
    sign: float
    digits: str
    """With their marks."""
    power: str
    unit: str


def missing(cell: Any) -> bool:
    """Whether a cell among numbers stands for nothing: None, NaN, blank, `NA`, `null`, `?`, `-`.

    So it does among classes, where `-` alone names one (see `class_name`).
    """
    if cell is None or isinstance(cell, str):
        return cell is None or cell.strip().lower() in ABSENT
    if isinstance(cell, int | float):  # to ask for the abstract class takes several times as long
        return cell != cell
    return isinstance(cell, Real) and math.isnan(cell)


def is_dash(cell: Any) -> bool:
    """Whether a cell holds a dash alone: nothing among numbers, a class among classes."""
    return isinstance(cell, str) and cell.strip() == DASH


def class_name(cell: Any) -> str | None:
    """The class that a cell of a label names, the same in whatever file and type it stands; None for a missing one.

    Trimmed, an accent and its letter in one (NFC); a number without a fraction is that whole number; truth and yes or
    no are so in any case of letters.

    >>> [class_name(cell) for cell in (0, 0.0, " 0 ", "0.0", True, "TRUE", "YES", "a cat ", "N/A", 0.5, "007", "-")]
    ['0', '0', '0', '0', 'True', 'True', 'yes', 'a cat', None, '0.5', '007', '-']
    """
    if missing(cell) and not is_dash(cell):
        return None
    if isinstance(cell, bytes):
        cell = cell.decode(errors="replace")
    text = str(int(cell)) if isinstance(cell, float) and cell.is_integer() else normalize("NFC", str(cell).strip())
    whole = re.fullmatch(r"(-?\d+)\.0+", text)
    return whole[1] if whole else TRUTH.get(text.lower(), text)


def number(cell: Any, writing: Writing = PLAIN) -> float:
    """A cell as a number: NaN for a missing one.

    Raises:
        ValueError: for what is no number in this writing; `1_0` never is.

    >>> number("1.200,50 EUR", Writing(",", unit="EUR")), number("$1,200", Writing(unit="$")), number(" -3e2 ")
    (1200.5, 1200.0, -300.0)
    """
    if isinstance(cell, bool | int | float):
        return float(cell)
    if missing(cell):
        return math.nan
    if not isinstance(cell, str):
        try:
            return float(cell)  # of NumPy or Decimal
        except (TypeError, ValueError):
            raise ValueError(f"{_shown(cell)} is not a number") from None
    if (text := cell.strip().lower()) in ENDLESS:
        return ENDLESS[text]
    if writing == PLAIN and _as_written_by_programs(text):
        return float(text)
    parts = _parts(cell)
    value = None if parts is None else _value(parts, writing)
    if parts is None or value is None:
        raise ValueError(f"{_shown(cell)} is not a number" + ("" if writing == PLAIN else f" (column of {writing})"))
    if parts.unit != writing.unit and value:
        raise ValueError(f"{_shown(cell)} is not a number" + (f" in {writing.unit}" if writing.unit else ""))
    grouped = ONE_GROUP.fullmatch(parts.digits) and writing.decimal not in parts.digits
    if grouped and not writing.thousands and not _is_money(parts.unit):
        minus = "-" if parts.sign < 0 else ""
        ways = [minus + re.sub("[.,]", mark, parts.digits) + parts.power for mark in ("", writing.decimal)]
        raise ValueError(f"{_shown(cell)} may be thousands or three decimals: write {' or '.join(ways)}")
    return value


def _is_money(unit: str) -> bool:
    return unit in MONEY or bool(set(unit) & set(SIGNS))


def _shown(cell: Any) -> str:
    text = str(cell)
    return repr(text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}...")


def writing_of(cells: Iterable[Any], decimal: str | None = None, thousands: str | None = None) -> Writing | None:
    """How the numbers of a column are written; None where most of its texts are none or codes, or it has no text.

    Args:
        decimal, thousands: the marks, where the user has said them.

    Raises:
        Unclear: where the cells allow two readings (`1,234` and nothing else), contradict each other, or are in
            several units.

    >>> writing_of(["1.200,50 EUR", "3 EUR", "NA"]), writing_of(["$1,200"]), writing_of(["red", "blue", "3"])
    (Writing(decimal=',', thousands='.', unit='EUR'), Writing(decimal='.', thousands=',', unit='$'), None)
    """
    texts = dict.fromkeys(cell for cell in cells if isinstance(cell, str) and not missing(cell))
    if are_codes(texts):
        return None
    if decimal in (None, ".") and thousands is None and texts and all(map(_as_written_by_programs, texts)):
        return PLAIN
    parsed = {text: parts for text in texts if (parts := _parts(text)) is not None}
    numeric = len(parsed) + sum(text.strip().lower() in ENDLESS for text in texts)
    if not parsed or 2 * numeric < len(texts):
        return None
    unit = _common_unit(parsed)
    if unit is None:
        return None
    mark = decimal or {".": ",", ",": "."}.get(thousands or "") or _decimal_mark(parsed)
    if thousands is None:
        readable = [parts.digits for parts in parsed.values() if _value(parts, Writing(mark)) is not None]
        groups = {c for digits in readable for c in digits if c in ",.' " and c != mark}
        thousands = groups.pop() if len(groups) == 1 else ""
    return Writing(mark, thousands, unit)


def are_codes(texts: Iterable[str]) -> bool:
    """Whether the different texts of a column are codes, such as postcodes: 1 in 100 and two or more begin with a zero
    before other digits, and their numbers do not just count, as 01 to 12 do.

    >>> are_codes(["01067", "04103", "80331"]), are_codes(["01", "02", "03"]), are_codes(["0", "0.5", "12"])
    (True, False, False)
    """
    whole = [text for each in texts if (text := each.strip()).isdecimal()]
    padded = sum(len(text) > 1 and text[0] == "0" for text in whole)
    if padded < max(2, len(whole) / 100):
        return False
    figures = {int(text) for text in whole}
    return max(figures) - min(figures) >= 2 * len(figures)


def _as_written_by_programs(text: str) -> bool:
    """Whether Python reads it too, as it does most numbers, and much faster than all that people write."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text and text.isascii()


def _parts(text: str) -> _Parts | None:
    """A text taken apart; None for one that is no number in any writing."""
    match = NUMBER.fullmatch(text.translate(SPACES).strip())
    if match is None:
        return None
    sign = -1.0 if "-" in match["sign"] + match["second"] else 1.0
    parts = _Parts(sign, match["digits"], match["power"], _unit(f"{match['before']} {match['unit']}".strip()))
    both = match["sign"] and match["second"]
    return None if both or all(_value(parts, Writing(mark)) is None for mark in ".,") else parts


def _unit(unit: str) -> str:
    """`EUR` for `eur`, `year` for `years`: the same units. `mW` and `MW` are not."""
    if unit.upper() in MONEY:
        return unit.upper()
    return unit.lower().removesuffix("s") if len(unit) > 3 else unit


def _value(parts: _Parts, writing: Writing) -> float | None:
    whole, _, fraction = parts.digits.partition(writing.decimal)
    between = set(whole) - set("0123456789")
    if len(between) > 1 or not between <= set(writing.thousands or ",.' ") - {writing.decimal}:
        return None
    mark = re.escape(between.pop()) if between else ""
    if mark and not re.fullmatch(rf"[1-9]\d{{0,2}}({mark}\d{{3}})+|[1-9]\d?({mark}\d{{2}})+{mark}\d{{3}}", whole):
        return None  # the second is the Indian 12,34,567
    if fraction and not fraction.isdecimal():
        return None
    return parts.sign * float(f"{re.sub('[^0-9]', '', whole) or 0}.{fraction or 0}{parts.power}")


def _common_unit(parsed: dict[str, _Parts]) -> str | None:
    """The unit that nearly all have, which may be none at all; None where they have many, and are no numbers."""
    units = Counter(parts.unit for parts in parsed.values() if _value(parts, PLAIN) != 0)
    unit, count = units.most_common(1)[0] if units else ("", 0)
    if count >= MOSTLY * units.total():
        return unit
    if len(units) > MOST_UNITS or len(parsed) <= FEW:
        return None
    one, other = (next(text for text, parts in parsed.items() if parts.unit == u) for u, _ in units.most_common(2))
    raise Unclear(f"one is {one!r} and another {other!r}: give all cells one unit", one, other)


def _decimal_mark(parsed: dict[str, _Parts]) -> str:
    """The decimal mark that the cells show: `12,5` and `1.234,5` a comma, `1,234,567` and `12.5` a point.

    A point before three digits (`1.234`) is decimal, as programs write it, but for amounts of money; a comma there
    (`1,234`) marks thousands of money, and is unclear elsewhere.
    """
    sure: dict[str, list[str]] = {".": [], ",": []}
    doubtful: dict[str, list[str]] = {".": [], ",": []}
    for text, parts in parsed.items():
        marks = [c for c in parts.digits if c in ".,"]
        if not marks:
            continue
        last = marks[-1]
        if len(marks) > 1:
            sure[last if marks.count(last) == 1 else {".": ",", ",": "."}[last]].append(text)
        else:
            whole, _, fraction = parts.digits.partition(last)
            grouped = len(fraction) == 3 and re.fullmatch(r"[1-9]\d{0,2}", whole)
            (doubtful if grouped else sure)[last].append(text)
    mark = max(sure, key=lambda each: len(sure[each]))
    if sure["."] and sure[","] and len(sure[mark]) < MOSTLY * (len(sure["."]) + len(sure[","])):
        one, other = sure["."][0], sure[","][0]
        raise Unclear(f"{one!r} has a decimal point and {other!r} a decimal comma: {DECIDES}", one, other)
    if sure[mark]:
        return mark
    money = any(_is_money(parts.unit) for parts in parsed.values())
    unclear = doubtful[","] if not money or doubtful["."] else []
    if unclear := unclear or (doubtful["."] if money else []):
        raise Unclear(f"{unclear[0]!r} may be thousands or three decimals: {DECIDES}", unclear[0])
    return "."
