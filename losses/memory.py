"""What a loss remembers of every row of the training data, from one visit to the next."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clx.losses.base import Loss


@dataclass(eq=False, kw_only=True)
class Remembering(Loss):
    """A loss with some numbers for each `sample_id`: saved with the run, the same on all ranks.

    Forward must read and write them in training mode alone, and write only where `remembers`.
    """

    fresh: ClassVar[tuple[float, ...]] = ()
    """The numbers of a row that was never seen."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.memory = self.unseen(0)  # by sample_id
        self.replaced: list[tuple[Tensor, Tensor]] = []  # in this step: the numbers of rows, and what stood there

    def unseen(self, rows: int) -> Tensor:
        """The numbers of so many rows that were never seen, `[rows, K]`."""
        return torch.tensor([self.fresh]).repeat(rows, 1)

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        super().setup(names, dim, classes, rows)
        self.memory = self.unseen(rows)
        self.enough = rows  # ids are below this, so a longer memory needs no look at them

    def get_extra_state(self) -> Tensor:
        """The memory. It is no buffer: its length is that of the data, and averages of weights must not average it."""
        return self.memory

    def set_extra_state(self, state: Tensor) -> None:
        """Load the memory that `get_extra_state` gave."""
        self.memory = state.clone()
        self.replaced.clear()

    def told(self) -> dict[str, Tensor]:
        """By name, what of the memory is worth a look when training ends, `[rows]` each; NaN of a row never seen."""
        return {}

    def recall(self, ids: Tensor) -> Tensor:
        """The numbers of these rows `[B, K]`, on their device."""
        self.memory = self.memory.to(ids.device)
        if not (len(self.memory) >= getattr(self, "enough", 0) > 0):
            grown = int(ids.max()) + 1 - len(self.memory) if len(ids) else 0
            if grown > 0:
                self.memory = torch.cat([self.memory, self.unseen(grown).to(self.memory)])
        return self.memory[ids]

    def remember(self, ids: Tensor, numbers: Tensor) -> None:
        """Replace the numbers of these rows by `[B, K]`; of a row that comes twice, one of its entries stays."""
        if self.remembers:
            self.replaced.append((ids, self.memory[ids]))
            self.memory[ids] = numbers.to(self.memory.dtype)

    def begin_step(self) -> None:
        """What is remembered from now on is of a new step."""
        self.replaced.clear()

    def take_back(self) -> None:
        """Forget what this step has made it remember: the step is not taken."""
        for ids, before in reversed(self.replaced):
            self.memory[ids] = before
        self.replaced.clear()
