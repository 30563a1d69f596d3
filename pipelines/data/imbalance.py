"""How dense a target or the classes are in the training rows: bins, smoothed densities, weights against imbalance."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clx.pipelines.config.data_schema import Balance, Data
from clx.pipelines.data.classes import class_of
from clx.pipelines.data.distinct import distinct, number_of, numbers, readable_numbers
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.stretches import blocks
from clx.pipelines.system.errors import BadInput

BINS = 50
MOST_BINS = 1_000_000
MANY, FEW = 100, 20  # training rows in a bin
EDGE = 1e-4  # of a bin: 0.3 / 0.1 is a little below 3, more so in float32
Floats = NDArray[np.float64]


def targets_of(manifest: Manifest, column: str) -> Floats:
    """The target in a column `[N]`, NaN where it is not finite or a row has none. Raises `BadInput` for other cells."""
    found = numbers(manifest, column)
    return np.where(np.isfinite(found), found, np.nan)


def readable_targets(manifest: Manifest, column: str) -> Floats:
    """The same with NaN for a cell that is no number, too: of such a row others tell, or leave it out."""
    found, _ = readable_numbers(manifest, column)
    return np.where(np.isfinite(found), found, np.nan)


def training_targets(data: Data, train: Manifest, column: str) -> Floats:
    """Those of training rows, where a row with a cell that is no number is left out later on, or else refused now."""
    if data.on_bad_row == "skip":
        return readable_targets(train, column)
    try:
        return targets_of(train, column)
    except BadInput as error:
        raise BadInput(f"{error}; empty it, or -s data.on_bad_row=skip trains without such rows") from None


def _readable(value: Any) -> float:
    found = number_of(value)
    return math.nan if found is None or not math.isfinite(found) else found


def dense_part(values: Floats) -> float:
    """The share of the range of these values in which nine tenths of them lie closest together; 1 where they have none.

    >>> round(dense_part(np.arange(101.0)), 3), round(dense_part(np.arange(101.0) ** 4), 3)
    (0.9, 0.656)
    """
    known = np.sort(values[np.isfinite(values)])
    whole = int(np.ceil(0.9 * len(known)))
    if not len(known) or not (reach := np.ptp(known)):
        return 1.0
    return float((known[whole - 1 :] - known[: len(known) - whole + 1]).min() / reach)


def width_of(values: Floats) -> float:
    """A width of bins for these values: a fiftieth of their range."""
    known = values[np.isfinite(values)]
    return float(np.ptp(known)) / BINS or 1.0 if len(known) else 1.0


def bin_of(values: Floats, width: float) -> NDArray[np.int64]:
    """The bin of each value, `[k w, (k + 1) w)`, one on an edge above it; values must be finite.

    >>> bin_of(np.array([0.0, 0.3, 0.29, -0.1]), 0.1).tolist()
    [0, 3, 2, -1]
    """
    return np.floor(values / width + EDGE).astype(np.int64)


def bin_name(value: Any, width: float) -> str | None:
    """The label of a value's bin: its lower edge. None for what is no finite number.

    >>> bin_name("2.7", 0.5)
    '2.5'
    """
    found = _readable(value)
    return f"{math.floor(found / width + EDGE) * width:.6g}" if math.isfinite(found) else None


def check_width(low: float, high: float, width: float) -> None:
    """Raise `BadInput` when bins of this width from `low` to `high` would be too many to hold or to tell apart."""
    count = (high - low) / width
    if not count < MOST_BINS or not max(abs(low), abs(high)) / width < 2**53:
        raise BadInput(
            f"bin_width {width:g} makes {count:.3g} bins of targets from {low:g} to {high:g}, more than {MOST_BINS}: "
            "set a wider one"
        )


def histogram(values: Floats, width: float) -> tuple[int, NDArray[np.int64]]:
    """The first bin that has a value, and the counts from there to the last one that has. Raises `BadInput` for a
    width that makes too many."""
    known = np.isfinite(values)
    if not known.any():
        return 0, np.zeros(0, dtype=np.int64)
    low, high = (
        float(end) for end in (values.min(where=known, initial=np.inf), values.max(where=known, initial=-np.inf))
    )
    check_width(low, high, width)
    first, last = bin_of(np.array([low, high]), width).tolist()
    counts = np.zeros(last - first + 1, dtype=np.int64)
    for rows in blocks(len(values)):
        counts += np.bincount(bin_of(values[rows][known[rows]], width) - first, minlength=len(counts))
    return first, counts


def kernel_of(balance: Balance) -> Floats:
    """The symmetric kernel of label-distribution smoothing, sum 1."""
    reach = balance.size // 2
    at = np.abs(np.arange(-reach, reach + 1))
    shapes: dict[str, Floats] = {
        "none": (at == 0).astype(np.float64),
        "gaussian": np.exp(-0.5 * (at / balance.sigma) ** 2),
        "triangular": 1 - at / (reach + 1),
        "laplace": np.exp(-at / balance.sigma),
    }
    shape = shapes[balance.kernel]
    return np.asarray(shape / shape.sum(), dtype=np.float64)


def density_weights(values: Floats, width: float, balance: Balance) -> Floats:
    """A weight for each row, mean 1, by the density of its bin: 1 where the value is unknown.

    With a kernel the density is that of label-distribution smoothing (LDS, Yang et al. 2021, arXiv 2102.09554):
    neighbouring bins share their rows, since near targets look alike.
    """
    known = np.isfinite(values)
    first, counts = histogram(values, width)
    if not len(counts):
        return np.ones(len(values))
    spread = np.convolve(counts.astype(np.float64), kernel_of(balance), "full")
    smooth: Floats = spread[balance.size // 2 :][: len(counts)].astype(np.float64)
    weights = np.ones(len(values))
    for rows in blocks(len(values)):
        dense = smooth[bin_of(values[rows][known[rows]], width) - first]
        weights[rows][known[rows]] = 1 / dense if balance.rule == "inverse" else dense**-0.5
    weights /= np.where(known, weights.mean(where=known), 1)
    return weights


def class_weights(labels: Sequence[Any], balance: Balance) -> Floats:
    """The same by the frequency of classes, which have no neighbours to be smoothed with."""
    return weights_of(labels, np.arange(len(labels)), balance)


def weights_of(cells: Sequence[Any], of_row: NDArray[np.int64], balance: Balance) -> Floats:
    """The same of rows `[N]` that each have one of these cells."""
    named = [class_of(cell) for cell in cells]
    _, codes = np.unique(np.array([str(name) for name in named]), return_inverse=True)
    known = np.array([name is not None for name in named])
    rows = np.bincount(of_row, minlength=len(cells))
    dense = np.bincount(codes, rows)[codes]
    weights = np.ones(len(cells))
    weights[known] = 1 / dense[known] if balance.rule == "inverse" else dense[known] ** -0.5
    weights[known] /= np.average(weights[known], weights=rows[known]) if known.any() else 1
    return np.asarray(weights[of_row], dtype=np.float64)


def row_weights(data: Data, manifest: Manifest) -> Floats | None:
    """Weights `[N]` of training rows as `data.balance` says, by the first target, else by the label."""
    if data.balance is None:
        return None
    if data.target:
        assert data.bin_width is not None
        return density_weights(training_targets(data, manifest, data.target[0]), data.bin_width, data.balance)
    assert data.label_column is not None
    return weights_of(*distinct(manifest, data.label_column), data.balance)


def column_weights(data: Data, manifest: Manifest) -> Floats | None:
    """Weights `[N]` of training rows from the column `data.weight`, 1 on average; None without one.

    Raises `BadInput` where a row has none, or one below 0, or where all are 0.
    """
    if data.weight is None:
        return None
    found = targets_of(manifest, data.weight)
    wrong = np.flatnonzero(~(found >= 0))
    if len(wrong):
        cell = manifest.cell(int(wrong[0]), data.weight)
        raise BadInput(
            f"{manifest.where(int(wrong[0]))}: data.weight, {data.weight} is {cell!r}; a row's weight is a number of "
            "at least 0"
        )
    if not found.any():
        raise BadInput(f"{manifest.name}: data.weight, all of {data.weight} is 0, so no row would count")
    return np.asarray(found / found.mean())


def label_of(data: Data, value: Any) -> str | None:
    """The class of a row with this value in the label's column: its name, or its bin where it is a target."""
    if value is None or data.label_column not in data.target:
        return class_of(value)
    assert data.bin_width is not None
    return bin_name(value, data.bin_width)


def with_bins(data: Data, train: Manifest) -> Data:
    """The same with the width of bins written out, where one is needed and none is given."""
    if not data.target or data.bin_width is not None:
        return data
    width = width_of(training_targets(data, train, data.target[0]))
    return data.model_copy(update={"bin_width": float(f"{width:.3g}")})


def shots(train: Floats, values: Floats, width: float, many: int = MANY, few: int = FEW) -> NDArray[np.int64]:
    """How well training covers each value (Yang et al. 2021): 2 where its bin has more than `many` training rows,
    0 fewer than `few`, else 1; -1 for an unknown value."""
    first, counts = histogram(train, width)
    found = np.full(len(values), -1)
    known = np.isfinite(values)
    at = bin_of(values[known], width) - first
    inside = (at >= 0) & (at < len(counts))
    rows = np.where(inside, counts[np.clip(at, 0, max(0, len(counts) - 1))] if len(counts) else 0, 0)
    found[known] = np.where(rows > many, 2, np.where(rows < few, 0, 1))
    return found
