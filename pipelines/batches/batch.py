"""What a batch is: its key, its rows as tensors, and the rows that could not be read."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from clx.modalities.base import Input
from clx.modalities.lengths import remember
from clx.pipelines.system.phases import phase


class Key(NamedTuple):
    """One batch: its place in the run and its rows, whose randomness the epoch seeds."""

    epoch: int
    number: int
    rows: np.ndarray
    turns: np.ndarray | None = None
    """Where rows may come more than once in an epoch, how often each came before: its views are then new ones."""

    def part(self, where: slice) -> "Key":
        """The key of some of the rows, which are then what they are in the whole batch."""
        return self._replace(rows=self.rows[where], turns=None if self.turns is None else self.turns[where])

    def turns_of_rows(self) -> np.ndarray:
        """`turns`, zeros where no row comes twice."""
        return np.zeros(len(self.rows), dtype=np.int64) if self.turns is None else self.turns


class BadRow(NamedTuple):
    """A row that could not be used, and why."""

    row: int
    where: str
    column: str
    reason: str


@dataclass
class Counts:
    """Rows of one batch on all ranks, which each rank knows before it encodes its own."""

    rows: list[int]
    """By rank."""
    present: dict[str, list[int]]
    """By view name and rank."""
    several: dict[str, bool]
    """Whether some row has several samples of the view, on any rank."""
    targets: int
    sets: int
    """Columns of the targets, and of the sets of labels."""

    @classmethod
    def of(cls, by_rank: list[list[int]], views: Iterable[str]) -> "Counts":
        """From what each rank has: rows, columns of targets and of sets, and of each view its rows and whether one has
        several samples."""
        views = list(views)
        rows, targets, sets, *shown = zip(*by_rank, strict=True)
        present = dict(zip(views, map(list, shown[::2]), strict=True))
        several = dict(zip(views, map(any, shown[1::2]), strict=True))
        return cls(list(rows), present, several, max(targets), max(sets))


@dataclass
class Batch:
    """Inputs by view name, who is present, and what the objectives may ask for.

    `inputs[name]` holds only the rows where `present[name]` `[B]` is True, in order.
    """

    inputs: dict[str, Input]
    present: dict[str, Tensor]
    labels: Tensor
    targets: Tensor
    sample_id: Tensor
    label_sets: Tensor | None = None
    """`[B, C]` where labels are sets, see `losses.extras.EXTRAS`; `labels` are then -1."""
    repeats: Tensor | None = None
    """`[B]` int64, equal for rows that share an image, a recording or a text; None where no rows of the split do."""
    groups: Tensor | None = None
    """`[B]` int64, the number of each row's group, -1 for none; None where nothing asks for them."""
    weights: Tensor | None = None
    """`[B]`, mean 1 over the training rows; None where all count alike."""
    contents: dict[str, Tensor] | None = None
    """`[B]` by view name, equal numbers for cells of equal content; None where nothing asks for them."""
    bad: list[BadRow] = field(default_factory=list)
    lacks: bool = True
    """Whether some row may lack an input. False is only said of a batch on a GPU, so that losses need not look."""
    counts: Counts | None = None
    """Where several processes train together, and each has a part of the rows."""

    @classmethod
    def empty(cls, names: Iterable[str], bad: list[BadRow]) -> "Batch":
        """No rows, but those that could not be read."""
        numbers = torch.zeros(0, dtype=torch.long)
        none = {name: torch.zeros(0, dtype=torch.bool) for name in names}
        return cls({}, none, numbers, torch.zeros(0, 0), numbers, bad=bad)

    def __len__(self) -> int:
        return len(self.sample_id)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device, without waiting for copies from pinned memory. One that is on a GPU stays."""
        if not self.sample_id.is_cpu:
            return self
        moved = self.mapped(lambda tensor: tensor.to(device, non_blocking=True))
        if device.type != "cpu":
            moved.lacks = not all(bool(here.all()) for here in self.present.values())
            for name, value in self.inputs.items():
                if "mask" in value and value["mask"].dim() == 2:
                    remember(moved.inputs[name]["mask"], value["mask"])
        return moved

    def pin_memory(self) -> "Batch":
        """The same batch in pinned memory, from which it is copied while the GPU computes."""
        return self.mapped(Tensor.pin_memory)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same batch with each of its tensors changed."""

        def changed(value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(value)
            return {key: changed(part) for key, part in value.items()} if isinstance(value, dict) else value

        return replace(self, **{f.name: changed(getattr(self, f.name)) for f in fields(self)})


def ahead(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches on a CUDA device, each copied while the one before it is computed with; elsewhere as they are.

    On a stream of its own: in that of the computation a copy would wait for its turn.
    """
    if device.type != "cuda":
        yield from batches
        return
    copies, before = torch.cuda.Stream(device), None
    for batch in batches:
        with phase("moving"), torch.cuda.stream(copies):
            moved = batch.to(device)
        if before is not None:
            yield before
        before = arrived(moved, copies, device)
    if before is not None:
        yield before


def arrived(batch: Batch, copies: torch.cuda.Stream, device: torch.device) -> Batch:
    """The batch, which computation may use from now on: it waits for the copies, the host does not."""
    computing = torch.cuda.current_stream(device)
    computing.wait_stream(copies)

    def used(tensor: Tensor) -> Tensor:
        tensor.record_stream(computing)  # its memory is not given to the next copy before that is done with it
        return tensor

    return batch.mapped(used)
