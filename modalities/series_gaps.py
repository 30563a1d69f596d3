"""Gaps in series, and the deviations of their channels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clx.modalities.series_files import Values


def bridged(values: NDArray[Any]) -> NDArray[Any]:
    """`[T, C]` with a straight line over each gap, at the ends the nearest value; a channel of gaps stays as it is."""
    measured = np.isfinite(values)
    if measured.all():
        return values
    values, steps = values.copy(), np.arange(len(values))
    for c in np.flatnonzero(~measured.all(0) & measured.any(0)):
        values[:, c] = np.interp(steps, steps[measured[:, c]], values[measured[:, c], c])
    return values


def or_one(deviation: Values, mean: Values) -> Values:
    """Deviations to divide by; 1 for a channel that is constant up to rounding."""
    return np.where(deviation > 1e-12 * np.abs(mean), deviation, 1.0)
