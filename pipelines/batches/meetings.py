"""Which rows meet in a batch: by the values of a column, as a function of counters alone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clx.pipelines.batches.columns import require_column
from clx.pipelines.batches.nearby import nearby
from clx.pipelines.batches.passes import Passes, Rows
from clx.pipelines.config.schema import Config
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.values import Values, classes_of, values_of
from clx.pipelines.system.errors import BadInput

LOOKED_AT = 1000  # batches whose values are counted


class ByValue(Passes):
    """Rows meet, or do not, by their values in a column."""

    def __init__(self, values: Values, batch_size: int, seed: int) -> None:
        super().__init__(batch_size, seed)
        self.values = values

    @property
    def alike(self) -> Values:
        return self.values

    def described(self) -> dict[str, Any]:
        """How many values there are, and how many a batch has of them."""
        counts, batches = self.values.counts, self.batches(0)
        codes = np.sort(self.values.apart()[batches[:LOOKED_AT]], axis=1)
        several = 1 + (np.diff(codes, axis=1) > 0).sum(1)
        missed = np.ones(len(self.values.codes), dtype=bool)
        missed[batches.ravel()] = False
        spread = np.quantile(counts, [0, 0.5, 1]).round().astype(int).tolist() if len(counts) else [0, 0, 0]
        return {
            "rule": self.rule,
            "values": len(counts),
            "rows_of_a_value": dict(zip(("min", "median", "max"), spread, strict=True)),
            "rows_without_a_value": self.values.without,
            "batches_of_a_pass": self.per_pass,
            "values_of_a_batch": {
                "min": int(several.min()),
                "mean": round(float(several.mean()), 1),
                "max": int(several.max()),
            },
            "rows_left_out_of_a_pass": int(missed.sum()),
        }

    def line(self) -> str:
        at = self.described()
        few, many = at["rows_of_a_value"]["min"], at["rows_of_a_value"]["max"]
        low, high = at["values_of_a_batch"]["min"], at["values_of_a_batch"]["max"]
        without = f", {at['rows_without_a_value']} rows without one" if self.values.without else ""
        left = at["rows_left_out_of_a_pass"]
        out = f"; {left} of {len(self.values.codes)} rows are in none of a pass" if left else ""
        return (
            f"batches: {self.rule}. {self.values.column} has {at['values']} values of {_range(few, many)} rows"
            f"{without}; a batch has {_range(low, high)} of them, a pass {self.per_pass} batches{out}"
        )

    def _by_value(self, codes: NDArray[np.int32], draw: np.random.Generator) -> tuple[Rows, Rows]:
        """All rows in an order in which values are mixed and the rows of a value stand together, mixed too; and the
        value of each."""
        rank = draw.permutation(int(codes.max()) + 1).astype(np.int32)
        rows = np.arange(len(codes), dtype=np.int32)
        draw.shuffle(rows)
        rows = rows[np.argsort(rank[codes[rows]], kind="stable")]
        return rows, codes[rows]


class Together(ByValue):
    """Rows of one value meet."""

    def __init__(self, values: Values, batch_size: int, seed: int, mixed: bool) -> None:
        super().__init__(values, batch_size, seed)
        self.mixed = mixed
        self.codes = values.apart()
        self.whole = (np.bincount(self.codes) // batch_size * batch_size).astype(np.int32)
        """Of the rows of each value, how many are in batches of its own."""
        rest = len(self.codes) - int(self.whole.sum())
        self.per_pass = (len(self.codes) - rest) // batch_size + (rest // batch_size if mixed else 0)
        if not self.per_pass:
            most = int(values.counts.max(initial=0))
            raise BadInput(
                f"train.batches.together: no value of {values.column} has the {batch_size} rows of a batch, the most "
                f"have {most}: train.batches.rest: mixed lets values share one, or train.batch_size = {max(2, most)}"
            )

    @property
    def rule(self) -> str:
        others = "several share what is left of a batch" if self.mixed else "never those of two"
        return f"rows of one {self.values.column} together, {others}"

    def drawn(self, draw: np.random.Generator) -> Rows:
        size = self.batch_size
        rows, codes = self._by_value(self.codes, draw)
        whole = _within(codes) < self.whole[codes]
        found = rows[whole].reshape(-1, size)
        if not self.mixed:
            return found
        rest = rows[~whole]
        return np.concatenate([found, rest[: len(rest) // size * size].reshape(-1, size)])


class Distinct(ByValue):
    """No two rows of one value meet."""

    def __init__(self, values: Values, batch_size: int, seed: int) -> None:
        super().__init__(values, batch_size, seed)
        self.codes = values.apart()
        counts = np.bincount(self.codes)
        self.per_pass = most_batches(counts, batch_size)
        if not self.per_pass:
            raise BadInput(
                f"train.batches.distinct: {values.column} has {len(counts)} different values, and a batch of "
                f"{batch_size} rows would have as many: train.batch_size = {len(counts)} or less"
            )

    @property
    def rule(self) -> str:
        return f"no two rows of one {self.values.column}"

    def drawn(self, draw: np.random.Generator) -> Rows:
        rows, codes = self._by_value(self.codes, draw)
        return rows[dealt(codes, self.per_pass, self.batch_size, draw)]


class Episodes(ByValue):
    """So many classes, so many rows of each."""

    def __init__(self, values: Values, classes: int, rows: int, seed: int) -> None:
        super().__init__(values, classes * rows, seed)
        self.classes, self.again = classes, rows
        there = len(values.names)
        if there < classes:
            raise BadInput(
                f"train.batches: {classes} classes in a batch, and {values.column} has {there} in the training rows"
            )
        self.per_pass = most_batches(np.maximum(1, values.counts // rows), classes)  # of every class there is a row

    @property
    def rule(self) -> str:
        few = int((self.values.counts < self.again).sum())
        again = f"; {few} of them have fewer, which come again in a batch" if few else ""
        return f"{self.classes} classes of {self.again} rows each{again}"

    def drawn(self, draw: np.random.Generator) -> Rows:
        known = np.flatnonzero(self.values.codes >= 0)
        order, codes = self._by_value(self.values.codes[known], draw)
        order = known[order]
        first = np.flatnonzero(np.diff(codes, prepend=-1))
        counts = np.diff(first, append=len(order))
        shares = np.maximum(1, counts // self.again)
        # the so-manieth share of each class, and in it the so-manieth row, from the first again where there are too few
        number = np.arange(shares.sum()) - np.repeat(np.cumsum(shares) - shares, shares)
        within = number[:, None] * self.again + np.arange(self.again)
        lots = order[np.repeat(first, shares)[:, None] + within % np.repeat(counts, shares)[:, None]]
        chosen = dealt(np.repeat(codes[first], shares), self.per_pass, self.classes, draw)
        found: Rows = lots[chosen].reshape(self.per_pass, self.batch_size)
        return found


def most_batches(counts: Rows, size: int) -> int:
    """How many batches of `size` different values can be made where each value is there so often `[V]`.

    P batches can where sum_v min(count_v, P) >= P size: a value is in a batch once (Gale 1957, Ryser 1957).

    >>> most_batches(np.array([3, 1, 1, 1]), 2)
    3
    """
    low, high = 0, int(counts.sum()) // size
    while low < high:
        middle = (low + high + 1) // 2
        fits = int(np.minimum(counts, middle).sum()) >= middle * size
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def dealt(codes: Rows, batches: int, size: int, draw: np.random.Generator) -> Rows:
    """Places `[P, size]` of things whose values are `codes` `[N]`, equal ones side by side, so that no batch has two of
    one value; `batches` is what `most_batches` says, or less.

    Line by line, each one thing for every batch: a value has no more things than there are batches, so it stands in one
    line or at the end of one and the beginning of the next, of which the second leaves out the batches of the first.
    """
    lines = np.flatnonzero(_within(codes) < batches)[: batches * size].astype(np.int32).reshape(size, batches)
    found = np.empty((batches, size), dtype=np.int32)
    before = np.empty(0, dtype=np.int64)
    for k, line in enumerate(lines):
        places = draw.permutation(batches)
        if k and codes[line[0]] == codes[lines[k - 1][-1]]:
            begun = before[codes[lines[k - 1]] == codes[line[0]]]
            goes_on = int((codes[line] == codes[line[0]]).sum())
            taken = np.zeros(batches, dtype=bool)
            taken[begun] = True
            free = places[~taken[places]]
            others = np.concatenate([free[goes_on:], places[taken[places]]])
            places = np.concatenate([free[:goes_on], draw.permutation(others)])
        found[places, k] = line
        before = places
    return found


def _within(codes: Rows) -> Rows:
    """For each place `[N]` of values of which equal ones stand side by side, how many like it stand before it."""
    first = np.flatnonzero(np.diff(codes, prepend=codes[0] - 1)).astype(np.int32)
    found = np.arange(len(codes), dtype=np.int32)
    found -= np.repeat(first, np.diff(first, append=len(codes)))
    return found


def meetings_of(config: Config, train: Manifest) -> Passes | None:
    """What `train.batches` asks for of the training rows; None where it is not given. Raises `BadInput`."""
    asked, settings = config.train.batches, config.train
    if asked is None:
        return None
    if asked.near is not None:
        return nearby(config, asked, train)
    column = asked.together or asked.distinct
    if column is not None:
        key = "train.batches.together" if asked.together else "train.batches.distinct"
        require_column(column, key, train)
        values = values_of(train, column, key)
        if asked.together:
            return Together(values, settings.batch_size, settings.seed, asked.rest == "mixed")
        return Distinct(values, settings.batch_size, settings.seed)
    classes, rows = asked.classes or 0, asked.rows or 0
    return Episodes(classes_of(config.data, train, "train.batches.classes"), classes, rows, settings.seed)


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
