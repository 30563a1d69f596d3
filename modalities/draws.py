"""Random numbers of rows: each row has its own, whatever batch it stands in and whoever makes that.

A number is a function of the row's key, of how many draws came before and of its place in the row's part, and of
nothing else: so the numbers of a row are the same among other rows, and the first steps of a short series have the
same ones whether or not a longer one pads it. They are SplitMix64's (Steele et al. 2014), a hash of a counter, which
needs no state for each row and takes a whole batch at once; long noise is torch's, from a generator seeded by row.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mixed(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's hash of each number, in place where the array may be written."""
    keys ^= keys >> np.uint64(30)
    keys *= np.uint64(0xBF58476D1CE4E5B9)
    keys ^= keys >> np.uint64(27)
    keys *= np.uint64(0x94D049BB133111EB)
    keys ^= keys >> np.uint64(31)
    return keys


class Draws:
    """The random numbers of N samples. Every method but `child`, `take` and `of` draws, and so leads to others."""

    def __init__(self, keys: NDArray[np.uint64]) -> None:
        self.keys = keys
        """`[N]`."""
        self.made = 0

    @classmethod
    def by(cls, seed: int, *numbers: ArrayLike) -> "Draws":
        """Of samples that a seed and a number `[N]` for each, or several such, tell apart."""
        keys = np.full(len(np.asarray(numbers[0])), seed % 2**64, dtype=np.uint64)
        for each in numbers:
            keys = _under(keys, np.asarray(each).astype(np.int64).view(np.uint64))
        return cls(keys)

    @classmethod
    def seeded(cls, seed: int, count: int) -> "Draws":
        """Of `count` samples, by their place."""
        return cls.by(seed, np.arange(count))

    def __len__(self) -> int:
        return len(self.keys)

    def child(self, number: int) -> "Draws":
        """Other draws of the same samples, for a part of them or another purpose."""
        return Draws(_under(self.keys, np.array([number]).view(np.uint64)))

    def take(self, places: Sequence[int]) -> "Draws":
        """Those of some of the samples."""
        return Draws(self.keys[np.asarray(places, dtype=np.int64)])

    def of(self, counts: Iterable[int]) -> "Draws":
        """Those of the parts of each sample, where it has so many, one sample's parts after the other's. The first
        part has the sample's own."""
        counts = np.asarray(list(counts))
        number = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        return Draws(np.repeat(self.keys, counts) + number.astype(np.uint64) * GOLDEN)

    @staticmethod
    def joined(parts: Sequence["Draws"]) -> "Draws":
        """Those of the samples of several, one after the other."""
        return Draws(np.concatenate([part.keys for part in parts]))

    def bits(self, *shape: int) -> NDArray[np.uint64]:
        """64 random bits for each element of `[N, *shape]`."""
        self.made += 1
        keys = self.child(-self.made).keys
        counter = np.arange(1, math.prod(shape) + 1, dtype=np.uint64) * GOLDEN
        return mixed(keys[:, None] + counter[None]).reshape(len(keys), *shape)

    def rand(self, *shape: int) -> Tensor:
        """Uniform from 0 up to 1, without 1: `[N, *shape]`."""
        return torch.from_numpy((self.bits(*shape) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24))

    def randn(self, *shape: int) -> Tensor:
        """Normal, `[N, *shape]`, by the method of Box and Muller."""
        bits = self.bits(*shape)
        radius = torch.from_numpy((bits >> np.uint64(32)).astype(np.float32)).add_(0.5).mul_(2**-32)
        angle = torch.from_numpy((bits & np.uint64(0xFFFFFFFF)).astype(np.float32)).mul_(2 * math.pi * 2**-32)
        return radius.log_().mul_(-2).clamp_(min=0).sqrt_().mul_(angle.cos_())

    def integers(self, below: int, *shape: int) -> Tensor:
        """Whole numbers from 0 to below `below`, which is at most 2^32: `[N, *shape]`, int64."""
        bits = self.bits(*shape) >> np.uint64(32)
        return torch.from_numpy(((bits * np.uint64(below)) >> np.uint64(32)).astype(np.int64))

    def noise(self, lengths: Sequence[int]) -> Tensor:
        """Normal noise of so many numbers for each sample, end to end: for long ones, several times as fast as
        `randn`."""
        seeds = (self.bits(1)[:, 0] >> np.uint64(1)).tolist()
        generator = torch.Generator()
        found = torch.empty(sum(lengths))
        for part, seed in zip(found.split(list(lengths)), seeds, strict=True):
            torch.randn(len(part), generator=generator.manual_seed(seed), out=part)
        return found


def _under(keys: NDArray[np.uint64], numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Other keys, one for each of these and its number."""
    step = mixed(numbers + GOLDEN)
    return mixed((keys ^ step) * GOLDEN + step)
