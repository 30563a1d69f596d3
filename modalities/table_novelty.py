"""Where a table's cells stand among its training cells: ranks of numbers, and categories and numbers that are new."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import torch
from torch import Tensor

UNKNOWN = "a value that training lacks"
RARE = "a value that is not among the most frequent ones of training (max_categories)"


def far(low: float, high: float) -> tuple[float, float]:
    """Beyond which a number is far outside the range of the training cells: more than the range's width.

    >>> far(10.0, 30.0)
    (-10.0, 50.0)
    """
    return low - (high - low), high + (high - low)


def outside(low: float, high: float) -> str:
    """What is said of such a number."""
    return f"a number far outside the range of training, {low:g} to {high:g}"


def suspects(x: Tensor, bounds: list[tuple[float, float]]) -> Tensor:
    """`[N]`: which samples `[N, 2 K + C]` of a table have an unknown category, or one of the K numbers at or beyond its
    scaled bounds. Where a scale ends at the range of training, that is more than are far outside."""
    k = len(bounds)
    low, high = torch.tensor(bounds).reshape(-1, 2).T
    numbers, present, codes = x[:, :k], x[:, k : 2 * k] == 0, x[:, 2 * k :]
    odd = ((numbers <= low) | (numbers >= high)) & present
    return torch.cat([codes == 1, odd], 1).any(1)


def novel(
    numbers: Mapping[str, tuple[float, float, float]], categories: Mapping[str, tuple[int, bool]]
) -> dict[str, str]:
    """What is new in a row, by column: of numbers with their training range, of category codes with whether all of
    the training categories are known.

    >>> novel({"area": (1e6, 10.0, 30.0), "rooms": (3.0, 1.0, 5.0)}, {"city": (1, True)})
    {'area': 'a number far outside the range of training, 10 to 30', 'city': 'a value that training lacks'}
    """
    found = {}
    for column, (number, low, high) in numbers.items():
        below, above = far(low, high)
        if number < below or number > above:
            found[column] = outside(low, high)
    return found | {column: UNKNOWN if whole else RARE for column, (code, whole) in categories.items() if code == 1}


def normal_rank(quantiles: Sequence[float], number: float) -> float:
    """The rank of a number among the quantiles, as a normal deviate between -3.1 and 3.1."""
    first, after = bisect_left(quantiles, number), bisect_right(quantiles, number)
    if first < after:
        rank = (first + after - 1) / 2
    elif 0 < first < len(quantiles):
        below, above = quantiles[first - 1], quantiles[first]
        rank = first - 1 + (number - below) / (above - below)
    else:
        rank = 0 if first == 0 else len(quantiles) - 1
    return NormalDist().inv_cdf(min(max(rank / (len(quantiles) - 1), 0.001), 0.999))
