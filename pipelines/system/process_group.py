"""Processes that compute one thing together: how they meet, what they tell each other, and how they end together.

Besides what they compute, each has a line to rank 0 on which nothing is said until the end. So a process that is gone
is noticed at once by all, whatever they wait for, a GPU included.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from clx.pipelines.system.errors import BadInput, Failed
from clx.pipelines.system.launch import LIFELINE
from clx.pipelines.system.ranks import Place
from clx.pipelines.system.signals import STOPS

MEETING = timedelta(minutes=10)
"""How long processes wait for each other in the beginning."""
PATIENCE = timedelta(days=7)
"""How long one waits for the others afterwards: rank 0 may be saving. Whether they live is not told by time."""
LAST_WORD = 3.0
"""Seconds in which rank 0 says the error that all have, before another rank says its own."""


class Group:
    """This process's view of the processes that it works with. All call the same methods in the same order."""

    def __init__(self, place: Place, then: str = "") -> None:
        """Meet the others. `then` says what to do where one is gone. Raises `Failed` where they do not come."""
        self.then = then and f"; {then}"
        self.rank, self.local_rank, self.size = place.rank, place.local_rank, place.size
        self.launched = LIFELINE in os.environ
        """Whether the process that has started this one watches it, and says which one was killed."""
        if self.launched:
            threading.Thread(target=_end_with, args=(int(os.environ[LIFELINE]),), daemon=True).start()
        os.environ |= {"MASTER_ADDR": place.address, "MASTER_PORT": str(place.port)}
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            store, rank, size = next(rendezvous("env://", place.rank, place.size, timeout=MEETING))
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
            self.lines, self.words = (dist.new_group(backend="gloo", timeout=PATIENCE) for _ in range(2))
        except (RuntimeError, ValueError) as error:  # torch.distributed.DistError is a RuntimeError
            said = " ".join(str(error).split())[:200]
            raise Failed(
                f"the {place.size} ranks did not meet at {place.address}:{place.port} within "
                f"{MEETING.seconds // 60} minutes: {said}"
            ) from None
        self.calls, self.bytes = 0, 0
        """Collectives so far, and the bytes that this process has put into them."""
        self.left = False
        """Whether this process has said that it ends with an error."""
        others = range(1, self.size) if self.rank == 0 else [0]
        self.listeners = [threading.Thread(target=self._listen, args=(rank,), daemon=True) for rank in others]
        for each in self.listeners:
            each.start()

    def device(self, asked: str) -> str:
        """The device of this process where the config asks for this one. Raises `BadInput`."""
        kind, _, number = asked.partition(":")
        if number:
            raise BadInput(f"train.device is {asked}, but there are {self.size} ranks: say {kind}, each takes its own")
        if kind == "cpu" or not torch.cuda.is_available():
            if kind not in ("auto", "cpu"):
                raise BadInput(f"train.device is {asked}, which rank {self.rank} does not have: auto or cpu")
            return "cpu"
        if self.local_rank >= torch.cuda.device_count():
            raise BadInput(
                f"rank {self.rank} is process {self.local_rank + 1} of its machine, which has "
                f"{torch.cuda.device_count()} CUDA devices: as many processes as devices, or train.device = cpu"
            )
        torch.cuda.set_device(self.local_rank)
        return f"cuda:{self.local_rank}"

    def shares(self, rows: int) -> str:
        """How many of so many rows each has, in words."""
        few, rest = divmod(rows, self.size)
        return f"on {self.size} ranks, {f'{few} or {few + 1}' if rest else few} each"

    def exchange(self, numbers: list[int]) -> list[list[int]]:
        """The whole numbers of each rank, as many each: lists by rank."""
        mine = torch.tensor(numbers, dtype=torch.int64)
        everyone = mine.new_empty(self.size * len(numbers))
        self._count(mine)
        dist.all_gather_into_tensor(everyone, mine)
        found: list[list[int]] = everyone.view(self.size, len(numbers)).tolist()
        return found

    def tell(self, value: Any) -> list[Any]:
        """A picklable value of each rank, by rank."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.words)
        return found

    def told(self, value: Any) -> Any:
        """Rank 0's picklable value."""
        found = [value]
        dist.broadcast_object_list(found, 0, group=self.words)
        return found[0]

    def collected(self, value: Any) -> list[Any]:
        """A picklable value of each rank, by rank; on rank 0, of which others have none."""
        found: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(value, found, 0, group=self.words)
        return found or []

    def share(self, length: int) -> slice:
        """Which of so many things in order are this rank's."""
        return slice(length * self.rank // self.size, length * (self.rank + 1) // self.size)

    def gathered(self, rows: Tensor, counts: list[int]) -> Tensor:
        """The rows `[N_rank, W]` of all ranks, `[sum N_rank, W]`, by rank. `counts` says how many each has."""
        most = max(counts)
        padded = rows if len(rows) == most else torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
        everyone = rows.new_empty(self.size * most, *rows.shape[1:])
        self._count(padded)
        dist.all_gather_into_tensor(everyone, padded.contiguous())
        if min(counts) == most:
            return everyone
        return torch.cat([everyone[rank * most : rank * most + count] for rank, count in enumerate(counts)])

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        self._count(values)
        dist.all_reduce(values)
        return values

    def scattered(self, values: Tensor) -> Tensor:
        """Of the sum of `values` `[R, ...]` over ranks, this rank's `[...]`."""
        found = values.new_empty(values.shape[1:])
        self._count(values)
        dist.reduce_scatter_tensor(found.view(-1), values.view(-1))
        return found

    def from_first(self, values: Tensor) -> None:
        """Those of rank 0, in place."""
        self._count(values)
        dist.broadcast(values, 0)

    def _count(self, values: Tensor) -> None:
        self.calls += 1
        self.bytes += values.numel() * values.element_size()

    def wait(self) -> None:
        """Until all are here."""
        self.exchange([0])

    def leave(self, code: int) -> None:
        """Say that this process ends with this exit code, and end: all with rank 0, and with the first error.

        Rank 0's errors are said by it alone, so another rank waits whether it has the same one.
        """
        if self.rank:  # a signal, which rank 0 has as well, is its business from now on
            with suppress(ValueError):  # not in the main thread
                for number in STOPS:
                    signal.signal(number, signal.SIG_IGN)
        if self.rank and code:
            time.sleep(LAST_WORD)
        self.left = code != 0
        for rank in range(1, self.size) if self.rank == 0 else [0]:
            with suppress(RuntimeError):
                dist.send(torch.tensor([code, self.rank]), rank, group=self.lines)
        for each in self.listeners:  # a thread that still waited would abort the process
            each.join()
        dist.destroy_process_group()

    def _listen(self, rank: int) -> None:
        """Wait for the last word of a rank."""
        word = torch.zeros(2, dtype=torch.int64)
        try:
            dist.recv(word, rank, group=self.lines)
        except RuntimeError:
            if self.left:  # the others end because this one does
                return
            self._gone(rank)
        code = int(word[0])
        if code and self.rank == 0:
            self._end_all(code, rank)
        if code:
            end(code)

    def _gone(self, rank: int) -> NoReturn:
        """A rank has ended without a word. Rank 0 says so, or rank 1 where it is rank 0; or else who has started us."""
        if self.launched:
            time.sleep(2 * LAST_WORD)
        elif self.rank < 2:
            print(
                f"error: rank {rank} of {self.size} is gone (killed, or its machine lost), so the others are ended"
                f"{self.then}",
                file=sys.stderr,
                flush=True,
            )
        if self.rank == 0:
            self._end_all(1, rank)
        end(1)

    def _end_all(self, code: int, but: int) -> NoReturn:
        for rank in range(1, self.size):
            if rank != but:
                with suppress(RuntimeError):
                    dist.send(torch.tensor([code, but]), rank, group=self.lines)
        end(code)


@contextmanager
def joined(place: Place, then: str = "") -> Iterator[Group]:
    """Work with the other processes: an error of one, in the block, ends all, and so does one that is gone."""
    group = Group(place, then)
    try:
        yield group
    except BaseException as error:
        if group.rank == 0 and not hasattr(
            error, "exit_code"
        ):  # most likely because another one is gone: then `_listen` ends this one
            time.sleep(LAST_WORD)
        group.leave(getattr(error, "exit_code", 1))
        if group.rank:
            error.args = (f"rank {group.rank}: {error}",)
        raise
    group.leave(0)


def of_this_rank(x: Tensor) -> Tensor:
    """What this rank has of a tensor that may be split over the ranks (a `DTensor`)."""
    found: Tensor = x.to_local() if hasattr(x, "to_local") else x
    return found


def end(code: int) -> NoReturn:
    """End this process, which may wait for one that is gone, and those that read data for it."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


def _end_with(lifeline: int) -> None:
    """End when the process that has started this one does."""
    with suppress(OSError):
        os.read(lifeline, 1)
    end(1)
