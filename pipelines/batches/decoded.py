"""Rows that were read, or could not be, before they become a batch; and whose random numbers they have."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clx.modalities.draws import Draws
from clx.modalities.numbers import number
from clx.pipelines.data.wrong_answers import infinite

ONE_OF_SEVERAL, DROPPED, REPLACED, NEIGHBOUR, VIEW = 6, 7, 8, 9, 10
"""What a row's random numbers are for."""


class Decoded(NamedTuple):
    """A row that was read."""

    inputs: dict[str, Any]
    """Samples of the modalities that are present."""
    label: int
    applying: list[int] | None
    """The classes of a set; None where none are known, or labels are no sets."""
    absent: list[int] | None
    """Of a set of which not all is known, the classes that do not apply; None where that is all others."""
    targets: list[float]
    contents: dict[str, int | list[int]]
    """Of what cells there are, by modality, where they are asked for; of each of those of which one is drawn."""


class Bad(Exception):
    """A row that could not be read, and why."""

    def __init__(self, row: int, column: str, reason: str) -> None:
        super().__init__(reason)
        self.row, self.column, self.reason = row, column, reason


def target_of(row: int, column: str, value: Any) -> float:
    """The number in a cell of a target's column, NaN for none. Raises `Bad`."""
    try:
        found = number(value)
    except ValueError as error:
        raise Bad(row, column, str(error)) from None
    if math.isinf(found):
        raise Bad(row, column, infinite(value))
    return found


class Asked(NamedTuple):
    """The rows that a batch was asked for: what is random about one follows from the seed, the epoch and the row, not
    from the batch it is in, nor from the process that makes it."""

    seed: int
    epoch: int
    numbers: NDArray[np.int64]
    """Of each row in its table."""
    turns: NDArray[np.int64]
    """How often it came before in the epoch."""

    def take(self, places: Sequence[int]) -> "Asked":
        """Some of them."""
        at = np.asarray(places, dtype=np.int64)
        return self._replace(numbers=self.numbers[at], turns=self.turns[at])

    def draws(self, purpose: int, *which: int | str) -> Draws:
        """The random numbers of the rows for a purpose, such as which view of which modality."""
        told = [int.from_bytes(one.encode(), "big") if isinstance(one, str) else one for one in which]
        return Draws.by(mixed_seed(self.seed, purpose, self.epoch, *told), self.numbers, self.turns)


def mixed_seed(*numbers: int) -> int:
    """One seed from several, well spread."""
    parts = [n % 2**32 if n < 2**32 else n for n in numbers]
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def sets_of(samples: list[Decoded], classes: int) -> Tensor:
    """`[B, classes]`: 1 for each class that applies, 0 for each that does not, NaN where that is not known."""
    sets = torch.full((len(samples), classes), torch.nan)
    for line, sample in zip(sets, samples, strict=True):
        if sample.applying is not None:
            line[slice(None) if sample.absent is None else sample.absent] = 0
            line[sample.applying] = 1
    return sets


def without(samples: list[Decoded], drop: Mapping[str, float], asked: Asked) -> list[Decoded]:
    """The samples of a batch without the inputs that are left out this time, by the share `drop` of each: never all
    that a row has."""
    left: list[Decoded] = []
    for sample, draw in zip(samples, asked.draws(DROPPED).rand(len(drop)).tolist(), strict=True):
        # above 1, an input stays; below, the largest is as likely any of them
        height = {name: u / share for (name, share), u in zip(drop.items(), draw, strict=True)}
        highest = max(sample.inputs, key=lambda name: height.get(name, torch.inf), default=None)
        kept = {n: x for n, x in sample.inputs.items() if n == highest or height.get(n, torch.inf) >= 1}
        left.append(sample._replace(inputs=kept))
    return left
