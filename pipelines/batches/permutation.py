"""A permutation of very many numbers that is computed where it is asked for, and nowhere held."""

import numpy as np
from numpy.typing import NDArray

ROUNDS = 6
HELD = 1 << 20
"""Rows up to which an epoch's order is held as a list; of more it is computed batch by batch."""


class Permutation:
    """The numbers 0 to `count - 1` in an order that follows from `seed` alone, any stretch of it by itself.

    A Feistel network of keyed rounds is a permutation of the 4^k numbers that are at least `count`; it is walked on
    from a result beyond `count` until one is below (Black & Rogaway 2002, "Ciphers with arbitrary finite domains").
    """

    def __init__(self, count: int, seed: list[int]) -> None:
        self.count = count
        self.half = np.uint64(max(1, (max(1, count - 1).bit_length() + 1) // 2))
        self.mask = np.uint64((1 << int(self.half)) - 1)
        self.keys = np.random.SeedSequence(seed).generate_state(ROUNDS, np.uint64)

    def stretch(self, start: int, stop: int) -> NDArray[np.int64]:
        """What stands at the places `start` to `stop - 1`."""
        found = self._once(np.arange(start, stop, dtype=np.uint64))
        while (beyond := found >= self.count).any():
            found[beyond] = self._once(found[beyond])
        return found.astype(np.int64)

    def _once(self, x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = x >> self.half, x & self.mask
        for key in self.keys:
            left, right = right, left ^ (_mixed(right + key) & self.mask)
        return (left << self.half) | right


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit of the result depends on every bit given (the finaliser of SplitMix64, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
