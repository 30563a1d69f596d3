"""Values as text: numbers, lines of bars, and what JSON can hold."""

import math
from collections.abc import Sequence
from typing import Any

BARS = " ▁▂▃▄▅▆▇█"


def number(value: float) -> str:
    """A figure with as many digits as are read: three behind the point, four in all where it is large or tiny.

    >>> [number(value) for value in (0.12345, 0.000123456, 123.45, 0.0)]
    ['0.123', '0.0001235', '123.5', '0.000']
    """
    return f"{value:.4g}" if abs(value) >= 10 or (value and abs(value) < 1e-3) else f"{value:.3f}"


def finite(value: Any, digits: int | None = None) -> Any:
    """A JSON value with null for NaN and infinity, which JSON has not; its numbers to so many digits, where given.

    >>> finite({"a": [1.23456, float("nan")]}, 3)
    {'a': [1.23, None]}
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if digits is None else float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: finite(each, digits) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each, digits) for each in value]
    return value


def bars(values: Sequence[float], most: int = 60, *, from_zero: bool = False) -> str:
    """Numbers as one line of at most `most` bars, each the mean of as many neighbours.

    The lowest bar is the least of them; with `from_zero`, as in a histogram, nothing is drawn for 0.

    >>> bars([0, 1, 2, 3, 4, 5, 6, 7])
    '▁▂▃▄▅▆▇█'
    >>> bars([0, 1, 4, 8], from_zero=True)
    ' ▁▄█'
    """
    together = -(-len(values) // most) or 1
    parts = [values[k : k + together] for k in range(0, len(values), together)]
    means = [math.fsum(part) / len(part) for part in parts]
    if not means:
        return ""
    low, high = 0.0 if from_zero else min(means), max(means)
    shares = [(mean - low) / (high - low or 1) for mean in means]
    if from_zero:
        return "".join(BARS[max(1, round(8 * share)) if share else 0] for share in shares)
    return "".join(BARS[1 + round(7 * share)] for share in shares)
