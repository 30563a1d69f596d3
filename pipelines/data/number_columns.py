"""Numbers among the cells of a column: plain ones, those that people write, codes, and those that count the rows."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from clx.modalities.numbers import PLAIN, Unclear, are_codes, number, writing_of

LEFT_OUT = 0.1
"""Rows that an index may lack, as a share of those that there are."""


def plain_number(value: Any) -> float | None:
    """A finite number, as Python writes it but without its underscores; None for anything else."""
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def numbers_in_text(values: Sequence[Any]) -> bool:
    """Whether the texts of a column are numbers with units, currencies or decimal commas, or are unclear ones."""
    try:
        return writing_of(values) is not None
    except Unclear:
        return True  # who reads it says what is unclear


def amounts(values: Sequence[Any]) -> Iterator[float]:
    """The numbers of a column, in whatever way it writes them; none where that is unclear."""
    with contextlib.suppress(Unclear):
        writing = writing_of(values) or PLAIN
        for value in values:
            with contextlib.suppress(ValueError):
                if math.isfinite(found := number(value, writing)):
                    yield found


def codes_in_text(values: Sequence[Any]) -> bool:
    """Whether the texts of a column are codes with leading zeros, which are no amounts."""
    return are_codes({value for value in values if isinstance(value, str)})


def is_index(numbers: Sequence[tuple[int, float]]) -> bool:
    """Whether whole numbers, each with its row, count the rows: from wherever, or from 0 or 1 where a few were left out
    (years with gaps count nothing)."""
    if len(numbers) < 2:
        return False
    ahead = [value - row for row, value in numbers]
    left_out = ahead[-1] - ahead[0]
    few = LEFT_OUT * (numbers[-1][0] - numbers[0][0]) if ahead[0] in (0, 1) else 0
    return ahead == sorted(ahead) and left_out <= few
