"""What a loss remembers of every training row, by the row's number."""

import torch
from torch import Tensor, nn


class RowMemory(nn.Module):
    """A mixin of losses that are given `sample_id`: `memory` `[N, C]`, saved with the run, 0 for rows never seen.

    It is no buffer: its length is that of the data, and averages of weights must not average it.
    """

    memory: Tensor
    rows: int = 0
    """How many rows there are to train on, where `expect` was told."""
    replaced: tuple[Tensor, Tensor] | None = None
    """The numbers `[B]` of the rows that were written last, and what stood there `[B, C]`."""

    def expect(self, rows: int) -> None:
        """Every `sample_id` will be below `rows`, so that on a GPU nobody has to look how long the memory must be."""
        self.rows = rows

    def make_room(self, ids: Tensor) -> None:
        """Let the memory be on the device of `ids` `[B]`, and have these rows. Reads `ids` unless rows are expected."""
        self.memory = self.memory.to(ids.device)
        known = self.rows and not ids.is_cpu
        grown = (self.rows if known else max(self.rows, int(ids.max()) + 1)) - len(self.memory)
        if grown > 0:
            self.memory = torch.cat([self.memory, self.memory.new_zeros(grown, self.memory.shape[1])])

    def write(self, ids: Tensor, values: Tensor) -> None:
        """Remember `values` `[B, C]` of these rows."""
        self.replaced = ids, self.memory[ids]
        self.memory[ids] = values

    def take_back(self) -> None:
        """Forget what was written last: the step that it was for has not been taken."""
        if self.replaced is not None:
            ids, before = self.replaced
            self.memory[ids] = before
            self.replaced = None

    def get_extra_state(self) -> Tensor:
        """The memory."""
        return self.memory

    def set_extra_state(self, state: Tensor) -> None:
        """Load the memory that `get_extra_state` gave."""
        self.memory, self.replaced = state.clone(), None
