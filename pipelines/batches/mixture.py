"""Rows of several sources in given shares: which rows a step has, as a function of counters alone."""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clx.pipelines.data.permutation import HELD, Permutation


@dataclass(frozen=True)
class Mixture:
    """Batches that hold rows of each source by its share: after any number of steps each has had its share of all
    rows, to a row per source, and every row of a source came as often as any other of it, or once more."""

    parts: tuple[tuple[int, int], ...]
    """First row of each source, and the one behind its last."""
    shares: tuple[float, ...]
    batch_size: int
    seed: int

    def taken(self, rows: int) -> list[int]:
        """How many of the first `rows` rows of the run are of each source; none ever has fewer for more rows.

        One source after the other takes its share of what those before it left, rounded.

        >>> Mixture(((0, 10), (10, 20)), (0.7, 0.3), 5, seed=0).taken(15)
        [11, 4]
        """
        left, ahead, found = rows, sum(map(_exact, self.shares)), []
        for share in map(_exact, self.shares):
            # half a row is rounded up; the last source takes all that is left
            found.append(int((2 * left * share / ahead + 1) // 2))
            left, ahead = left - found[-1], ahead - share
        return found

    def step(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of a step `[B]`, mixed, and how often each came before in the run."""
        rows, turns = [], []
        before, behind = self.taken(number * self.batch_size), self.taken((number + 1) * self.batch_size)
        for k, (first, stop) in enumerate(self.parts):
            at, count = before[k], stop - first
            while at < behind[k]:
                turn, place = divmod(at, count)
                until = min(count, place + behind[k] - at)
                rows.append(first + self._stretch(k, turn, place, until))
                turns.append(np.full(until - place, turn))
                at += until - place
        mixed = np.random.default_rng([self.seed, 4, number]).permutation(self.batch_size)
        return np.concatenate(rows)[mixed], np.concatenate(turns)[mixed]

    def _stretch(self, k: int, turn: int, start: int, stop: int) -> NDArray[np.int64]:
        """What stands at these places of the order in which a source is passed for the so-manieth time."""
        first, behind = self.parts[k]
        if behind - first > HELD:
            return Permutation(behind - first, [self.seed, 5, k, turn]).stretch(start, stop)
        return _held(self.seed, k, turn, behind - first)[start:stop]


@lru_cache(maxsize=16)
def _held(seed: int, k: int, turn: int, rows: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 5, k, turn]).permutation(rows)


def _exact(share: float) -> Fraction:
    """0.7 as 7/10, so that no rounding of binary numbers decides."""
    return Fraction(repr(share))
