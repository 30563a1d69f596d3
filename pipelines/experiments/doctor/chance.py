"""What a loss is where nothing is known: the bound that belongs to its kind, which a run has to come below."""

import math
import warnings
from typing import NamedTuple

import numpy as np

from clx.pipelines.data.imbalance import label_of
from clx.pipelines.experiments.doctor.opened import Opened

AMONG_ROWS = ("clip", "infonce", "nt-xent")
"""Losses that pick a row's partner among those of a batch, all of which a blind guess takes for equally likely."""


class Chance(NamedTuple):
    """A bound."""

    loss: float
    said: str
    of_classes: bool = False
    """Whether it is one of answers, which rows of another batch have as well."""


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
    shares = np.full(len(opened.run.facts.classes), 1.0) if config.data.balance else class_counts(opened)
    shares = shares / shares.sum()
    loss = float(-(shares * np.log(shares)).sum())
    even = len(shares) > 0 and abs(loss - math.log(len(shares))) < 0.005
    told = f"ln {len(shares)} = {loss:.3g}" if even else f"{loss:.3g}, by how frequent they are"
    return Chance(loss, f"chance among {len(shares)} classes is {told}", of_classes=True)


def class_counts(opened: Opened) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """How many training rows each class has, of those that have one `[C]`."""
    data = opened.config.data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        named = [label_of(data, value) for value in opened.train.column(str(data.label_column))]
    counts = np.unique([one for one in named if one is not None], return_counts=True)[1]
    return np.asarray(counts, dtype=np.float64)
