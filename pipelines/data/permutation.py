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


class BlockPermutation:
    """An order of rows that are dear to fetch one by one, and cheap block by block, such as row groups elsewhere.

    The blocks are divided into as many stretches of the file as a window has blocks; a window has one block of each
    stretch, drawn without replacement, and its rows are mixed. So every window is of the whole file, however that is
    sorted, and each block is in one window alone. The order follows from `seed`, any stretch of it by itself.
    """

    def __init__(self, starts: NDArray[np.int64], seed: list[int], window: int) -> None:
        """`starts` `[N + 1]`: the first row of each block, and the number of rows."""
        self.starts, self.seed = starts, seed
        blocks = len(starts) - 1
        count = -(-blocks // window)
        whole, rest = divmod(blocks, count)
        # A stretch that has no block for some windows is the middle one: the mean of theirs is hardly another.
        lengths = [count] * (whole // 2) + [rest] * (rest > 0) + [count] * (whole - whole // 2)
        draw, first = np.random.default_rng(seed), 0
        windows: list[list[int]] = [[] for _ in range(count)]
        for length in lengths:
            for block, place in enumerate(draw.permutation(count)[:length].tolist(), first):
                windows[place].append(block)
            first += length
        self.windows = [np.array(each, dtype=np.int64) for each in windows if each]
        sizes = [int((starts[each + 1] - starts[each]).sum()) for each in self.windows]
        self.ends = np.cumsum(sizes)

    def stretch(self, start: int, stop: int) -> NDArray[np.int64]:
        """What stands at the places `start` to `stop - 1`."""
        found = []
        for number in range(int(np.searchsorted(self.ends, start, "right")), len(self.windows)):
            first = int(self.ends[number - 1]) if number else 0
            if first >= stop:
                break
            blocks = self.windows[number]
            sizes = self.starts[blocks + 1] - self.starts[blocks]
            mixed = Permutation(int(sizes.sum()), [*self.seed, number])
            inside = mixed.stretch(max(0, start - first), min(mixed.count, stop - first))
            before = np.cumsum(sizes) - sizes
            at = np.searchsorted(before, inside, "right") - 1
            found.append(self.starts[blocks][at] + inside - before[at])
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)
