"""A recording to forecast, made here."""

import numpy as np
from numpy.typing import NDArray

from clx.pipelines.data.builtin_digits import Tables

WEEKS = {"train": 36, "val": 12, "test": 12}  # one after the other


def seasons(_: str) -> Tables:
    """An hourly recording of demand: working days and weekends, a slow drift, a trend and noise that lasts.

    The day's two humps are higher on working days and grow and shrink from week to week (an AR(1) of 0.9); the
    noise is an AR(1) of 0.8 whose size goes with the demand. So it is no sum of sines, nor the same every week.
    """
    import pyarrow as pa

    rng = np.random.default_rng(19)
    hours = np.arange(168 * sum(WEEKS.values()))
    day, hour = hours // 24, hours % 24
    weekly = _lasting(0.1 * rng.normal(size=(len(hours) // 168 + 1, 2)), 0.9)  # of each hump
    drift = np.stack([np.interp(hours, 168 * np.arange(len(weekly)), walk) for walk in weekly.T])
    work = np.where(day % 7 < 5, 1.0, 0.45)
    morning, evening = (np.exp(-0.5 * ((hour - at) / 2.5) ** 2) for at in (8, 19))
    shape = work * morning * np.exp(drift[0]) + (0.6 + 0.4 * work) * evening * np.exp(drift[1])
    noise = _lasting(rng.normal(size=len(hours)), 0.8)
    values = (10 + 5 * shape + 0.1 * noise * (1 + shape) + hours / len(hours)).astype(np.float32)
    tables, start = {}, 0
    for split, weeks in WEEKS.items():
        part, start = values[start : start + 168 * weeks], start + 168 * weeks
        series = pa.ListArray.from_arrays(pa.array([0, len(part)], pa.int32()), pa.array(part))
        tables[split] = pa.table({"series": series, "split": [split]})
    return tables


def _lasting(shocks: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """AR(1): each step keeps a share of the one before."""
    values = shocks.copy()
    for t in range(1, len(values)):
        values[t] += share * values[t - 1]
    return values
