"""Batches of rows in their order: which rows each has, and the processes that make them."""

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Sampler

from clx.pipelines.batches.batch import BadRow, Batch, Key
from clx.pipelines.batches.cells import reads_files
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.data.permutation import HELD, BlockPermutation, Permutation
from clx.pipelines.data.row_groups import WINDOW
from clx.pipelines.system.cores import own_cores
from clx.pipelines.system.errors import BadInput, Failed
from clx.pipelines.system.remote import Unreachable
from clx.pipelines.system.signals import leave_to_parent, withheld


class Lost(Failed):
    """A process that reads data is gone, or where they are is out of reach. The run itself is as it was."""


class Rule(Protocol):
    """Says which rows a step has, in place of an order of all."""

    def step(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of a step of the run `[B]`, and how often each came before."""


@dataclass
class Order(Sampler[Key]):
    """Keys of a training run in order: a new permutation, or draw, each epoch, whole batches only.

    Nothing but counters decides what comes next, so a run resumes in the middle of an epoch by `start`.
    """

    rows: int
    batch_size: int
    seed: int
    start: int
    """Batches already consumed, over all epochs."""
    stop: int
    """Batches of the whole run."""
    weights: NDArray[np.float64] | None = None
    """Rows are drawn in these proportions, again and again, instead of each once an epoch."""
    rule: Rule | None = None
    """Sources that rows are taken from by their shares, or which rows meet; an epoch has as many rows as there are."""
    blocks: NDArray[np.int64] | None = None
    """Where blocks of rows begin that are fetched as a whole, `[N + 1]` with the end: rows of a few at a time are
    mixed."""

    @property
    def per_epoch(self) -> int:
        return self.rows // self.batch_size

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[Key]:
        size, epoch = self.batch_size, -1
        computed = self.rows > HELD or (self.blocks is not None and self.weights is None)
        drawn = None if self.weights is None or not computed else np.cumsum(self.weights)
        for done in range(self.start, self.stop):
            if done // self.per_epoch != epoch:
                epoch = done // self.per_epoch
                if self.rule is not None or drawn is not None:
                    pass
                elif computed:
                    order = self._computed([self.seed, 2, epoch])
                else:
                    shuffled, turns = self._held(epoch)
            at = done % self.per_epoch
            part = slice(at * size, (at + 1) * size)
            if self.rule is not None:
                yield Key(epoch, at, *self.rule.step(done))
            elif drawn is not None:
                yield Key(epoch, at, *self._drawn(drawn, epoch, at))
            elif computed:
                yield Key(epoch, at, order.stretch(part.start, part.stop))
            else:
                yield Key(epoch, at, shuffled[part], None if turns is None else turns[part])

    def _computed(self, seed: list[int]) -> Permutation | BlockPermutation:
        return Permutation(self.rows, seed) if self.blocks is None else BlockPermutation(self.blocks, seed, WINDOW)

    def _drawn(self, ends: NDArray[np.float64], epoch: int, at: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of a batch, drawn by their weights, whose sums are `ends`, and a turn that no other in the epoch
        has of the same row."""
        draw = np.random.default_rng([self.seed, 2, epoch, at])
        rows = np.searchsorted(ends[:-1], draw.random(self.batch_size) * ends[-1], side="right")
        return rows, at * self.batch_size + came_before(rows)

    def _held(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """The rows of an epoch in order, and of those that are drawn several times the turn of each."""
        draw = np.random.default_rng([self.seed, 2, epoch])
        if self.weights is None:
            return draw.permutation(self.rows), None
        shuffled = draw.choice(self.rows, self.rows, p=self.weights / self.weights.sum())
        return shuffled, came_before(shuffled)


def came_before(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each place `[N]`, at how many earlier ones the same row stands."""
    order = np.argsort(rows, kind="stable")
    first = np.r_[True, np.diff(rows[order]) > 0]
    places = np.arange(len(rows))
    found = np.empty_like(places)
    found[order] = places - np.maximum.accumulate(np.where(first, places, 0))
    return found


def once(rows: int, batch_size: int, seed: int | None = None, blocks: NDArray[np.int64] | None = None) -> list[Key]:
    """Keys that pass over every row once, the last batch as short as it must be.

    In order, or mixed by `seed`: losses that compare the rows of a batch need batches that are alike, and
    manifests are often sorted by class. `blocks` as in `Order`.
    """
    if seed is not None and blocks is not None:
        order = BlockPermutation(blocks, [seed, 3], WINDOW).stretch(0, rows)
    else:
        order = np.arange(rows) if seed is None else np.random.default_rng([seed, 3]).permutation(rows)
    return [Key(0, k, order[start : start + batch_size]) for k, start in enumerate(range(0, rows, batch_size))]


def batches(
    data: BatchDataset,
    keys: Sampler[Key] | Sequence[Key],
    workers: int | Literal["auto"] = 0,
    pin: bool = False,
    report: Callable[[list[BadRow]], None] = lambda bad: None,
    empty: bool = False,
) -> Iterator[Batch]:
    """Batches in the order of `keys`, made by `workers` processes (0: by this one; see `usual_workers`).

    Each batch's bad rows are told to `report`; where the policy allows none, or no usable row was found,
    `BadInput` names the first. Those without rows are left out, unless `empty`.
    """
    workers = usual_workers(data) if workers == "auto" else workers
    data.known.share(workers)
    made = DataLoader(
        data,
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        worker_init_fn=leave_to_parent,
        generator=torch.Generator(),  # its base seed must not draw from the run's random stream
    )
    for batch in _received(made):
        if batch.bad:
            report(batch.bad)
            if data.on_bad == "fail" or (data.on_bad == "replace" and not len(batch)):
                first = batch.bad[0]
                raise BadInput(f"{first.where}, column {first.column}: {first.reason}")
        data.known.tell()
        if len(batch) or empty:
            yield batch


def usual_workers(data: BatchDataset) -> int:
    """How many processes should read: none where no cell of the first rows is a file or the bytes of one; else all
    cores of this process but one, or half of them where encoders need them too, and 8 at most."""
    if not any(reads_files(data.manifest, name, modality) for name, modality in data.modalities.items()):
        return 0
    cores = own_cores()
    return min(8, max(1, cores - 1 if torch.accelerator.is_available() else cores // 2))


def _received(made: "DataLoader[Batch]") -> Iterator[Batch]:
    """What the workers make. Raises `Lost`, here and nowhere else, when one of them is gone.

    Torch's handler of SIGCHLD would raise wherever the program is, in the middle of a step too, which could then
    neither be finished nor saved. Without it a loss is noticed when a batch is waited for.
    """
    before = signal.getsignal(signal.SIGCHLD)
    there, workers = {*multiprocessing.active_children()}, list[BaseProcess]()
    end = partial(_end, workers, os.getpid())
    atexit.register(end)
    try:
        with withheld():
            try:
                coming = iter(made)
                workers += getattr(coming, "_workers", [])
            except BaseException:  # of a handler, while they are started
                workers += {*multiprocessing.active_children()} - there
                raise
        if made.num_workers and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)
        yield from coming
    except Unreachable as error:  # of a worker torch has put its traceback before the line
        raise Lost(str(error).rpartition("Unreachable: ")[2].strip()) from None
    except RuntimeError as error:
        said = str(error)
        if "exited unexpectedly" not in said and "is killed by signal" not in said:
            raise
        raise Lost(
            "a process that reads data was killed, most likely for want of memory: fewer train.workers or a smaller "
            "train.batch_size need less"
        ) from None
    finally:
        end()
        atexit.unregister(end)


def _end(workers: "Sequence[BaseProcess]", parent: int) -> None:
    """End the workers of this process. They ignore SIGTERM and SIGINT (`leave_to_parent`): Python would wait for them
    for ever when it ends while a traceback, say, still holds on to what they read for."""
    if os.getpid() == parent:
        for worker in workers:
            worker.kill()
