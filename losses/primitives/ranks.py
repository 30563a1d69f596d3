"""The ranks that share the work of a primitive: who computes which pairs of rows, and the sums over all of them.

A rank is one process of several that train together. Within `sharing`, each of them is given the same rows, those of
all ranks, and calls the same losses in the same order. A primitive then computes the logits of its own pairs only;
its sums are added up over the ranks in the forward pass, its gradients in backward. So every rank returns the whole
loss, and in backward the whole gradient of all rows and of every scalar: nobody has to add them up again. What is
random must be drawn from generators in the same state, and the same inputs must need a gradient on all ranks.

The collectives of a call follow from its shapes, from the number of rows and not from what is in them; no branch that
looks at numbers leads to one. Outside of `sharing` there is one rank, which computes what it would without this file.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

fewest_pairs: int | None = None  # in place of `worth_sharing`
together = 1 << 20  # bytes; smaller tensors of one call are sent as one


@dataclass
class Traffic:
    """What the primitives of this process have sent so far."""

    collectives: int = 0
    bytes: int = 0
    """Of the tensors that were reduced. A ring of W ranks sends 2 (W - 1) / W times as many from each rank."""

    def count(self, x: Tensor) -> None:
        self.collectives += 1
        self.bytes += x.numel() * x.element_size()


traffic = Traffic()


@dataclass(frozen=True)
class World:
    """Ranks that share a call, and which of them this process is."""

    rank: int = 0
    size: int = 1
    group: Any = None

    def part(self, n: int, rank: int | None = None) -> slice:
        """The rows of a rank, this one by default, when `n` are cut evenly."""
        rank = self.rank if rank is None else rank
        return slice(n * rank // self.size, n * (rank + 1) // self.size)

    def rectangle(self, n: int, m: int) -> list[tuple[slice, slice]]:
        """Rows and columns of the blocks of an `n` by `m` matrix that this rank computes."""
        return [(self.part(n), slice(0, m))]

    def triangle(self, n: int) -> list[tuple[slice, slice]]:
        """Rows and columns of the blocks that this rank computes of a symmetric matrix of `n` rows.

        The first is its own rows by themselves, on the diagonal, of which half is enough. The others are its rows with
        those of the ranks after it, half way round; with an even number of ranks, the two that are opposite share what
        lies between them. So all ranks have the same number of entries, and each pair of rows is in one block.
        """
        own, half = self.part(n), (self.size - 1) // 2
        ahead = [(self.rank + k) % self.size for k in range(1, half + 1)]
        before_wrap = [k for k in ahead if k > self.rank]
        after_wrap = [k for k in ahead if k < self.rank]
        blocks = [(own, own)]
        for ranks in (before_wrap, after_wrap):
            if ranks:
                blocks.append((own, slice(self.part(n, ranks[0]).start, self.part(n, ranks[-1]).stop)))
        if self.size % 2 == 0:
            other = self.part(n, (self.rank + self.size // 2) % self.size)
            if self.rank < self.size // 2:
                blocks.append((slice(own.start, (own.start + own.stop) // 2), other))
            else:
                blocks.append((own, slice((other.start + other.stop) // 2, other.stop)))
        return blocks

    def add_up(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over all ranks, in place and to the same bits on every rank."""
        if self.size > 1:
            self._reduce(tensors, dist.ReduceOp.SUM)

    def highest(self, *tensors: Tensor) -> None:
        """Replace each entry by the highest of all ranks, in place."""
        if self.size > 1:
            self._reduce(tensors, dist.ReduceOp.MAX)

    def _reduce(self, tensors: tuple[Tensor, ...], how: Any) -> None:
        """Small tensors of one type are sent as one, the others as they are: a copy of them would cost memory."""
        small: dict[torch.dtype, list[Tensor]] = {}
        for x in tensors:
            if x.numel() * x.element_size() < together or not x.is_contiguous():
                small.setdefault(x.dtype, []).append(x)
            else:
                self._send(x, how)
        for parts in small.values():
            flat = torch.cat([x.flatten() for x in parts])
            self._send(flat, how)
            for x, result in zip(parts, flat.split([x.numel() for x in parts]), strict=True):
                x.copy_(result.view_as(x))

    def _send(self, x: Tensor, how: Any) -> None:
        traffic.count(x)
        dist.all_reduce(x, how, group=self.group)


alone = World()
_world = alone


@contextmanager
def sharing(group: Any = None, fewest: int | None = None) -> Iterator[None]:
    """Let the ranks of a process group share the primitives that are called here; their backward may come later.

    Args:
        group: by default all processes. All of it must enter, with the same rows.
        fewest: similarities from which on a call is shared, in place of `worth_sharing`. 0 shares everything.
    """
    global _world, fewest_pairs
    before, size = (_world, fewest_pairs), dist.get_world_size(group)
    _world, fewest_pairs = World(dist.get_rank(group), size, group) if size > 1 else alone, fewest
    try:
        yield
    finally:
        _world, fewest_pairs = before


def worth_sharing(x: Tensor) -> int:
    """Similarities from which on a call is shared, on the device of `x`."""
    return 1 << (19 if x.is_cpu else 26)


def sharers(x: Tensor, pairs: int) -> World:
    """The ranks that share a call on rows like those of `x` with so many similarities; this one alone if these are few.

    Sums and gradients cross once, in proportion to the rows; work is in proportion to the pairs.
    """
    if _world.size == 1:
        return alone
    return _world if pairs >= (worth_sharing(x) if fewest_pairs is None else fewest_pairs) else alone
