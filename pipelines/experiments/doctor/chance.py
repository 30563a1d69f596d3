"""What a loss is where nothing is known: the bound that belongs to its kind, which a run has to come below."""

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch

from clx.losses.primitives.masks import mean_where
from clx.pipelines.batches.batch import Batch
from clx.pipelines.data.imbalance import Floats, column_weights, label_of, row_weights
from clx.pipelines.experiments.doctor.opened import Opened

AMONG_ROWS = ("clip", "infonce", "nt-xent")
"""Losses that pick a row's partner among those of a batch, all of which a blind guess takes for equally likely."""


class Chance(NamedTuple):
    """A bound."""

    loss: float
    said: str
    shares: Floats | None = None
    """Where it is one of answers, which rows of another batch have as well: how often a blind guess says each class."""


def chance_of(opened: Opened, size: int) -> Chance | None:
    """The bound of a run's objective on batches of `size` rows; None where it has several terms or another kind."""
    config = opened.config
    if len(config.objective) != 1 or size < 1:
        return None
    name = config.objective[0].name
    if name in AMONG_ROWS:
        return Chance(math.log(size), f"chance among {size} rows is ln {size} = {math.log(size):.3g}, or a little less")
    if name != "cross-entropy" or config.data.label_column is None:
        return None
    shares = guessed_shares(opened)
    some = shares[shares > 0]
    loss = float(-(some * np.log(some)).sum())
    even = len(some) > 0 and abs(loss - math.log(len(some))) < 0.005
    weighed = " and how much they count" if config.data.balance or config.data.weight else ""
    told = f"ln {len(some)} = {loss:.3g}" if even else f"{loss:.3g}, by how frequent they are{weighed}"
    return Chance(loss, f"chance among {len(some)} classes is {told}", shares)


def guessed_shares(opened: Opened) -> Floats:
    """The guess that costs least on training rows of which nothing is known `[C]`: the share of each class, its rows
    counted as training weighs them or draws them."""
    data, number = opened.config.data, opened.run.class_index
    codes = np.array([-1 if name is None else number.get(name, -1) for name in _named(opened)], dtype=np.int64)
    weights = np.ones(len(codes))
    for each in (row_weights(data, opened.train), column_weights(data, opened.train)):
        weights = weights if each is None else weights * each
    counts = np.bincount(codes[codes >= 0], weights[codes >= 0], minlength=len(number))
    return np.asarray(counts / max(counts.sum(), 1e-12), dtype=np.float64)


def blind(shares: Floats, rows: list[Batch]) -> float:
    """The mean loss of such a guess on these very batches, whose rare classes may have come more or less often.

    Val rows have no weights: their bound is the cross-entropy of their own classes under the guess of training, and not
    the entropy of these classes. That is less, but only a guess that knew how frequent they are in val would reach it,
    and a run with `balance` is meant to say rare classes more often than they come.
    """
    # a class whose rows all have weight 0 costs much, and not infinity, of which weight 0 would make NaN
    costs = -torch.from_numpy(shares).clamp(min=1e-12).log()
    found = [
        mean_where(batch.labels >= 0, costs.to(batch.labels.device)[batch.labels.clamp(min=0)], batch.weights).item()
        for batch in rows
    ]
    return sum(found) / max(1, len(found))


def class_counts(opened: Opened) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """How many training rows each class has, of those that have one `[C]`."""
    counts = np.unique([one for one in _named(opened) if one is not None], return_counts=True)[1]
    return np.asarray(counts, dtype=np.float64)


def _named(opened: Opened) -> list[str | None]:
    """The class of each training row, None where it has none."""
    data = opened.config.data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [label_of(data, value) for value in opened.train.column(str(data.label_column))]
