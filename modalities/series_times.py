"""Times of the steps of a series: where steps are missing between even ones."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
JITTER = 0.1
"""How far two steps may be from the usual distance, in parts of it, and still be neighbours."""
SPARSE = 10
"""A series with more missing steps than this for each that is there was hardly measured at even times."""


class TooSparse(ValueError):
    """So many steps would be missing that they are hardly meant. The message holds how many."""


def places(times: Floats) -> NDArray[np.int64] | None:
    """The number of each step `[T]` on the even grid that growing times `[T]` lie on, counted from 0.

    None where no step is missing from them, and where they are not even: where not most are equally far apart, to a
    tenth, and all others at about a multiple of that. Raises `TooSparse`.
    """
    apart = np.diff(times)
    if len(apart) < 3:
        return None
    usual = float(np.median(apart))
    near = np.abs(apart - usual) <= JITTER * usual
    if usual <= 0 or 2 * near.sum() <= len(apart):
        return None
    usual = float(apart[near].mean())
    gone = np.where(near, 1, np.round(apart / usual))
    even = near | ((gone >= 2) & (np.abs(apart - gone * usual) <= 0.25 * usual))
    if near.all() or not even.all():
        return None
    if gone.sum() > (SPARSE + 1) * len(times):
        raise TooSparse(f"{gone.sum() - len(apart):.0f} steps are missing between {len(times)} at even times")
    return np.concatenate([[0], gone.cumsum()]).astype(np.int64)


def spread(values: Floats, at: NDArray[np.int64]) -> Floats:
    """Steps `[T, C]` at their places, with rows of NaN in the others."""
    found = np.full((int(at[-1]) + 1, values.shape[1]), np.nan)
    found[at] = values
    return found


def between(times: Floats, at: NDArray[np.int64]) -> Floats:
    """The times of all places, on straight lines between those of the steps that are there."""
    return np.asarray(np.interp(np.arange(int(at[-1]) + 1), at, times))
