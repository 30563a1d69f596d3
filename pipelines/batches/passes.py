"""Passes over the training rows, in which a rule says which of them meet: what each rule has in common."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clx.pipelines.batches.loader import came_before
from clx.pipelines.data.values import Values

Rows = NDArray[np.integer[Any]]


class Passes(ABC):
    """Passes over the rows, each of `per_pass` batches that follow from the seed and the number of the pass."""

    per_pass: int
    again = 1
    """How often a row may be in a batch."""

    def __init__(self, batch_size: int, seed: int) -> None:
        self.batch_size, self.seed = batch_size, seed
        self._held: tuple[int, Rows] = -1, np.empty((0, batch_size), dtype=np.int32)

    def step(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of a step `[B]`, mixed, and how often each came before in the run."""
        turn, place = divmod(number, self.per_pass)
        mixed = np.random.default_rng([self.seed, 4, number]).permutation(self.batch_size)
        rows = self.batches(turn)[place][mixed].astype(np.int64)
        return rows, turn * self.again + came_before(rows)

    def batches(self, turn: int) -> Rows:
        """The rows of each batch of a pass `[P, B]`; those of the newest pass are held."""
        if self._held[0] != turn:
            draw = np.random.default_rng([self.seed, 6, turn])
            self._held = turn, draw.permutation(self.drawn(draw))
        return self._held[1]

    @abstractmethod
    def drawn(self, draw: np.random.Generator) -> Rows:
        """The batches of a pass `[P, B]`."""

    @property
    def alike(self) -> Values | None:
        """By which a bad row gives its place to another."""
        return None

    @property
    @abstractmethod
    def rule(self) -> str:
        """In words."""

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """What a batch looks like."""

    @abstractmethod
    def line(self) -> str:
        """The same in words."""
