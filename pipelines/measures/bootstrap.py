"""Figures with bootstrap intervals: any statistic of weighted rows, recomputed for thousands of weightings at once."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Statistic = Callable[[Array], dict[str, Array]]
"""Figures by name, each `[b]`, of the rows weighted by each line of `[b, n]`."""
CELLS = 2**22  # of a block of weights
ROUNDING = 1e-9
DRAWS = "_draws"


def figures(
    rows: int,
    statistic: Statistic,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    groups: Any | None = None,
    keep: bool = False,
) -> dict[str, Any]:
    """Each figure of `statistic` over all rows, and beside `figure` its interval `figure_ci`, `[low, high]`.

    Percentile bootstrap (Efron 1979): rows are drawn with replacement, which is to weight each by how often it was
    drawn. Equal seeds give equal intervals. With `groups`, a number for each row `[n]`, whole groups are drawn: rows
    that share a picture, say, are no witnesses of their own. With `keep` the figure of each resample, `[resamples]`,
    stands beside it as `figure_draws`: of two models that were asked the same rows with the same seed the k-th of one
    is of the rows of the k-th of the other, so that their differences are a paired bootstrap.
    """
    whole = {name: value[0].item() for name, value in statistic(np.ones((1, rows))).items()}
    if not resamples:
        return whole
    if groups is None:
        draws = _weights(rows, resamples, seed)
    else:
        _, place = np.unique(np.asarray(groups), return_inverse=True)
        draws = (weights[:, place] for weights in _weights(int(place.max()) + 1, resamples, seed, rows))
    drawn = [statistic(weights) for weights in draws]
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    found: dict[str, Any] = {}
    for name, value in whole.items():
        values = np.concatenate([each[name] for each in drawn])
        if keep:
            found[f"{name}{DRAWS}"] = values.astype(np.float32)
        values = values[np.isfinite(values)]
        found[name] = value
        found[f"{name}_ci"] = np.quantile(values, tails).tolist() if len(values) else [value, value]
    return found


def _weights(rows: int, resamples: int, seed: int, width: int = 0) -> Iterator[Array]:
    """How often each row is drawn in each resample, in blocks `[b, rows]`, small enough for `[b, width]` too."""
    draw = np.random.default_rng(seed)
    block = max(1, CELLS // max(rows, width))
    for start in range(0, resamples, block):
        many = min(block, resamples - start)
        chosen = draw.integers(0, rows, size=(many, rows)) + np.arange(many)[:, None] * rows
        yield np.bincount(chosen.ravel(), minlength=many * rows).reshape(many, rows).astype(np.float64)


def without_draws(value: Any, path: str = "") -> tuple[Any, dict[str, Any]]:
    """Nested figures without the `_draws` beside them, and these by the path of their figure.

    >>> without_draws({"probe": {"image": {"top1": 0.5, "top1_draws": "[...]"}}})
    ({'probe': {'image': {'top1': 0.5}}}, {'probe.image.top1': '[...]'})
    """
    if not isinstance(value, dict):
        return value, {}
    kept, draws = {}, {}
    for key, inner in value.items():
        here = f"{path}.{key}" if path else str(key)
        if str(key).endswith(DRAWS):
            draws[here.removesuffix(DRAWS)] = inner
        else:
            kept[key], more = without_draws(inner, here)
            draws |= more
    return kept, draws


def shared(statistic: Statistic, shares: Tensor | None) -> Statistic:
    """A statistic of rows that count for so much each, `[n]`; for one each where that is None."""
    if shares is None:
        return statistic
    factor = shares.numpy().astype(np.float64)
    return lambda weights: statistic(weights * factor)


def means(values: dict[str, Any]) -> Statistic:
    """The mean of each of several values per row `[n]`."""
    columns = np.stack([np.asarray(value, dtype=np.float64) for value in values.values()], 1)
    return lambda weights: dict(zip(values, (weights @ columns / weights.sum(1, keepdims=True)).T, strict=True))


def median(name: str, values: Any) -> Statistic:
    """The median of a value per row. Weights may be shares, whose sum is half of all up to rounding alone."""
    array = np.asarray(values, dtype=np.float64)
    order = np.argsort(array, kind="stable")
    ranked = array[order]

    def statistic(weights: Array) -> dict[str, Array]:
        reached = weights[:, order].cumsum(1)
        half = reached[:, -1:] / 2
        low, high = half * (1 - ROUNDING), half * (1 + ROUNDING)
        return {name: (ranked[(reached >= low).argmax(1)] + ranked[(reached > high).argmax(1)]) / 2}

    return statistic


def class_means(name: str, values: Any, labels: Any) -> Statistic:
    """The mean over classes of the mean of a value per row; classes that a resample lacks do not count."""
    label = np.asarray(labels)
    order = np.argsort(label, kind="stable")
    starts = np.flatnonzero(np.diff(label[order], prepend=-1))
    sorted_values = np.asarray(values, dtype=np.float64)[order]

    def statistic(weights: Array) -> dict[str, Array]:
        here = weights[:, order]
        counts = np.add.reduceat(here, starts, axis=1)
        sums = np.add.reduceat(here * sorted_values, starts, axis=1)
        there = counts > 0
        return {name: np.where(there, sums / np.where(there, counts, 1), 0).sum(1) / there.sum(1)}

    return statistic


def together(*statistics: Statistic) -> Statistic:
    """Several statistics of the same rows as one, so that all see the same resamples."""

    def statistic(weights: Array) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for each in statistics:
            found |= each(weights)
        return found

    return statistic


def ranked(values: Any, some: Any | None = None) -> Callable[[Array], Array]:
    """Ranks `[b, n]` of a value per row among the weighted rows, ties sharing their mean rank; of `some` rows alone
    where a mask `[n]` is given."""
    _, place = np.unique(np.asarray(values), return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    told = place if some is None else place[some]

    def ranks(weights: Array) -> Array:
        counts = np.add.reduceat(weights[:, order], starts, axis=1)
        below = counts.cumsum(1) - counts
        return np.asarray((below + (counts + 1) / 2)[:, told])

    return ranks
