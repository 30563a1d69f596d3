"""From manifest rows to batches: which rows, in which order, decoded, varied, collated, with what is missing masked."""

import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from clx.modalities.base import CellError, Input, Modality
from clx.modalities.series import Series, piece_of
from clx.pipelines.config import Near
from clx.pipelines.density import bin_name
from clx.pipelines.errors import BadInput, Failed
from clx.pipelines.manifest import Manifest, resolve
from clx.pipelines.neighbours import Neighbours
from clx.pipelines.recordings import FUTURE
from clx.pipelines.signals import leave_to_parent


class Lost(Failed):
    """A process that reads data is gone. The run itself is as it was."""


class Key(NamedTuple):
    """One batch: its place in the run, which seeds its randomness, and its rows."""

    epoch: int
    number: int
    rows: np.ndarray


class BadRow(NamedTuple):
    """A row that could not be used, and why."""

    row: int
    where: str
    column: str
    reason: str


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
    weights: Tensor | None = None
    """`[B]`, mean 1 over the training rows; None where all count alike."""
    bad: list[BadRow] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sample_id)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device; copies from pinned memory overlap with computation."""

        def move(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: t.to(device, non_blocking=True) for name, t in tensors.items()}

        return Batch(
            {name: move(value) for name, value in self.inputs.items()},
            move(self.present),
            **move({"labels": self.labels, "targets": self.targets, "sample_id": self.sample_id}),
            weights=None if self.weights is None else self.weights.to(device, non_blocking=True),
            bad=self.bad,
        )

    def pin_memory(self) -> "Batch":
        for value in self.inputs.values():
            value.update({name: t.pin_memory() for name, t in value.items()})
        return self


def column_of(name: str, modality: Modality) -> str | list[str]:
    """The manifest column that feeds a modality, or the columns of a table or a pair."""
    if modality.kind != "table":
        column = modality.column or name
        return column if modality.pair is None else [column, modality.pair]
    columns: list[str] = getattr(modality, "columns", [])
    return columns or ([modality.column] if modality.column else ["*"])


def has_columns(manifest: Manifest, name: str, modality: Modality) -> bool:
    """Whether a manifest has all that a modality reads."""
    wanted = column_of(name, modality)
    return set([wanted] if isinstance(wanted, str) else wanted) <= set(manifest.columns)


def cell_of(row: dict[str, Any], name: str, modality: Modality, manifest: Manifest) -> Any:
    """The resolved cell of one modality in a raw row; None when it is missing.

    A table's cell is `{column: value}`, present with any of them; a pair's is a tuple of both, or missing.
    """
    column = column_of(name, modality)
    if isinstance(column, str):
        return _resolved(row[column], modality, manifest)
    if modality.kind == "table":
        cells = {each: row[each] for each in column}
        return cells if any(value is not None for value in cells.values()) else None
    pair = tuple(_resolved(row[each], modality, manifest) for each in column)
    return None if any(one is None for one in pair) else pair


def _resolved(value: Any, modality: Modality, manifest: Manifest) -> Any:
    inline = modality.kind == "series" and isinstance(value, str) and value.lstrip().startswith("[")
    if value is None or not modality.files or inline:
        return value
    file = piece_of(value)[0] if modality.kind == "series" and isinstance(value, str) else value
    found = resolve(file, manifest)  # what may be opened is decided by the file alone, not by a piece of it
    return found if file is value else Path(f"{found}{value.removeprefix(file)}")


def future_of(row: dict[str, Any], modality: Modality, manifest: Manifest, steps: int) -> Tensor:
    """What a series measures in the `steps` behind a window, `[steps, C]`, NaN where it has ended or has a gap."""
    assert isinstance(modality, Series)
    found = torch.full((steps, modality.channels), torch.nan)
    cell = _resolved(row[FUTURE], modality, manifest)
    if cell is not None:
        values = modality.measured(cell)[:steps]
        found[: len(values)] = values
    return found


def cells(manifest: Manifest, name: str, modality: Modality) -> Iterator[Any]:
    """Present cells of one modality, for `Modality.fit`; paths that are refused are passed over.

    Of more than `modality.fit_rows` rows about as many are taken, evenly spread: statistics need no more.
    """
    columns = columns_of({name: modality})
    for i in range(0, len(manifest), max(1, len(manifest) // modality.fit_rows)):
        with suppress(BadInput):
            cell = cell_of(manifest.row(i, columns), name, modality, manifest)
            if cell is not None and modality.pair is not None:
                yield from cell
            elif cell is not None:
                yield cell


def read_cell(modality: Modality, cell: Any) -> Any:
    """The sample of a cell, or both samples of a pair. Raises `CellError`."""
    return modality.read(cell) if modality.pair is None else tuple(modality.read(one) for one in cell)


def vary(modality: Modality, samples: Sequence[list[Any]], generator: torch.Generator) -> list[list[Any]]:
    """A batch's views from the samples, or pairs of samples, that each is made of (see `Modality.vary`)."""
    if modality.pair is None:
        return modality.vary(samples, generator)
    flat = [[one for side in zip(*pairs, strict=True) for one in side] for pairs in samples]
    halves = [(view[: len(view) // 2], view[len(view) // 2 :]) for view in modality.vary(flat, generator)]
    return [list(zip(*sides, strict=True)) for sides in halves]


def collate(modality: Modality, samples: Sequence[Any]) -> Input:
    """Samples as one batch; of N pairs all first ones, then all second ones, 2 N rows."""
    if modality.pair is None:
        return modality.collate(samples)
    return modality.collate([one for side in zip(*samples, strict=True) for one in side])


def columns_of(modalities: dict[str, Modality], *more: str | None) -> list[str]:
    """All manifest columns that the modalities read, and `more` where given."""
    wanted: list[str] = []
    for name, modality in modalities.items():
        column = column_of(name, modality)
        wanted += column if isinstance(column, list) else [column]
    return list(dict.fromkeys([*wanted, *(name for name in more if name)]))


@dataclass
class Rows(Dataset[Batch]):
    """Batches of a manifest, by `Key`. A batch depends on its key and the seed alone, not on who makes it."""

    manifest: Manifest
    modalities: dict[str, Modality]
    label: str | None = None
    classes: dict[str, int] = field(default_factory=dict)
    bin_width: float | None = None
    """Where given, the classes are bins of this width."""
    target: list[str] = field(default_factory=list)
    ahead: tuple[str, int] | None = None
    """A series modality and a number of steps: the targets are what it measures in the steps behind each window."""
    near: Near | None = None
    """With `augment`, which rows' neighbours the second view and those after it are made of."""
    augment: bool = False
    """Random views, `views` of each modality; without it one plain view named like the modality."""
    on_bad: Literal["fail", "skip", "replace"] = "fail"
    """A bad row ends the batch, is left out, or gives its place to a row drawn at random."""
    missing: float = 0.0
    seed: int = 0
    cache: bool = False
    weights: NDArray[np.float64] | None = None
    """Of each row."""
    features: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    """What frozen encoders make of a modality's cells, by `sample_id`: it then takes the place of its inputs."""

    def __post_init__(self) -> None:
        self.kept: dict[int, _Decoded] = {}
        self.columns = columns_of(self.modalities, self.label, *self.target, FUTURE if self.ahead else None)
        self.neighbours = Neighbours(self.manifest, self.near) if self.near and self.augment else None
        self.dropped: dict[str, np.ndarray] = {}
        if self.missing:
            draw = np.random.default_rng([self.seed, 1]).random((len(self.modalities), len(self.manifest)))
            draw[0, (draw < self.missing).all(0)] = 1  # a row keeps at least one of its cells
            self.dropped = {name: draw[k] < self.missing for k, name in enumerate(self.modalities)}

    def __len__(self) -> int:
        return len(self.manifest)

    def sample(self, i: int) -> "_Decoded":
        """Decoded present inputs by modality, class index (-1 for none) and targets of row `i`."""
        if i in self.kept:
            return self.kept[i]
        row = self.manifest.row(i, self.columns)
        inputs = {}
        for name, modality in self.modalities.items():
            if name in self.dropped and self.dropped[name][i]:
                continue
            known = self.features.get(name, {}).get(int(self.manifest.rows[i]))
            if known is not None:
                inputs[name] = known
                continue
            try:
                cell = cell_of(row, name, modality, self.manifest)
                if cell is not None:
                    inputs[name] = read_cell(modality, cell)
                    if name in self.features:
                        raise CellError("could not be read when the run began")
            except (CellError, BadInput) as error:
                column = column_of(name, modality)
                raise _Bad(i, ",".join(column) if isinstance(column, list) else column, str(error)) from None
        named = None if self.label is None else row[self.label]
        if named is not None and self.bin_width is not None:
            named = bin_name(named, self.bin_width)
        label = -1 if named is None else self.classes.get(str(named), -1)
        targets = [self._number(i, name, row[name]) for name in self.target]
        if self.ahead is not None:
            targets = self._future(i, row, *self.ahead)
        decoded = inputs, label, targets
        if self.cache:
            self.kept[i] = decoded
        return decoded

    def _number(self, i: int, column: str, value: Any) -> float:
        try:
            return float("nan") if value is None else float(value)
        except (TypeError, ValueError):
            raise _Bad(i, column, f"{value!r} is not a number") from None

    def _future(self, i: int, row: dict[str, Any], name: str, steps: int) -> list[float]:
        """What is measured in the steps behind a window, one after the other; NaN behind the end of the series."""
        try:
            values = future_of(row, self.modalities[name], self.manifest, steps)
        except (CellError, BadInput) as error:
            raise _Bad(i, FUTURE, str(error)) from None
        found: list[float] = values.flatten().tolist()
        return found

    def __getitem__(self, key: Key) -> Batch:
        generator = torch.Generator().manual_seed(_mix(self.seed, key.epoch, key.number))
        rows: list[int] = []
        samples: list[_Decoded] = []
        bad: list[BadRow] = []
        for i in key.rows.tolist():
            while True:
                try:
                    samples.append(self.sample(i))
                    rows.append(i)
                    break
                except _Bad as error:
                    bad.append(BadRow(i, self.manifest.where(i), error.column, error.reason))
                    if self.on_bad == "skip":
                        break
                    if self.on_bad == "fail" or len(bad) > 10 * len(key.rows):
                        return self._collate([], [[]], None, bad)
                    i = int(torch.randint(len(self), (), generator=generator))
        of_view = [samples] * max((m.views for m in self.modalities.values()), default=1)
        if self.neighbours is not None:
            of_view[1:] = [self._neighbours(rows, samples, generator, bad) for _ in of_view[1:]]
            if bad and self.on_bad == "fail":
                return self._collate([], [[]], None, bad)
        return self._collate(rows, of_view, generator if self.augment else None, bad)

    def _neighbours(
        self, rows: list[int], samples: list["_Decoded"], generator: torch.Generator, bad: list[BadRow]
    ) -> list["_Decoded"]:
        """A neighbour's sample for each row; its own where that is bad."""
        assert self.neighbours is not None
        found = []
        for i, own in zip(rows, samples, strict=True):
            other = self.neighbours.draw(i, generator)
            try:
                found.append(self.sample(other))
            except _Bad as error:
                bad.append(BadRow(other, self.manifest.where(other), error.column, error.reason))
                found.append(own)
        return found

    def _collate(
        self,
        rows: list[int],
        of_view: list[list["_Decoded"]],
        generator: torch.Generator | None,
        bad: list[BadRow],
    ) -> Batch:
        """`of_view`: the samples that each view is made of."""
        samples = of_view[0]
        inputs: dict[str, Input] = {}
        present: dict[str, Tensor] = {}
        for name, modality in self.modalities.items():
            names = view_names(name, modality) if generator else [name]
            values: dict[int, list[Any]] = {}  # by list of samples: views of the same ones share them
            for view, made_of in zip(names, of_view, strict=False):
                present[view] = torch.tensor([name in s[0] for s in made_of], dtype=torch.bool)
                values.setdefault(id(made_of), [s[0][name] for s in made_of if name in s[0]])
            views = [values[id(made_of)] for made_of in of_view[: len(names)]]
            if name in self.features:
                inputs |= {
                    view: {"features": torch.stack(each)} for view, each in zip(names, views, strict=True) if each
                }
                continue
            views = vary(modality, views, generator) if generator else views
            inputs |= {view: collate(modality, each) for view, each in zip(names, views, strict=True) if each}
        return Batch(
            inputs,
            present,
            labels=torch.tensor([s[1] for s in samples], dtype=torch.long),
            targets=torch.tensor([s[2] for s in samples], dtype=torch.float32),
            sample_id=torch.tensor([int(self.manifest.rows[i]) for i in rows], dtype=torch.long),
            weights=None if self.weights is None else torch.from_numpy(self.weights[rows]).float(),
            bad=bad,
        )


_Decoded = tuple[dict[str, Any], int, list[float]]


class _Bad(Exception):
    def __init__(self, row: int, column: str, reason: str) -> None:
        super().__init__(reason)
        self.row, self.column, self.reason = row, column, reason


def _mix(*numbers: int) -> int:
    """One seed from several, well spread."""
    return int(np.random.SeedSequence([n % 2**32 for n in numbers]).generate_state(1, np.uint64)[0] >> 1)


def view_names(name: str, modality: Modality) -> list[str]:
    """Names of a modality's views: itself, or `name/0`, `name/1` and so on."""
    return [name] if modality.views == 1 else [f"{name}/{v}" for v in range(modality.views)]


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

    @property
    def per_epoch(self) -> int:
        return self.rows // self.batch_size

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[Key]:
        epoch = -1
        for done in range(self.start, self.stop):
            if done // self.per_epoch != epoch:
                epoch = done // self.per_epoch
                draw = np.random.default_rng([self.seed, 2, epoch])
                if self.weights is None:
                    shuffled = draw.permutation(self.rows)
                else:
                    shuffled = draw.choice(self.rows, self.rows, p=self.weights / self.weights.sum())
            at = done % self.per_epoch
            yield Key(epoch, at, shuffled[at * self.batch_size : (at + 1) * self.batch_size])


def once(rows: int, batch_size: int, seed: int | None = None) -> list[Key]:
    """Keys that pass over every row once, the last batch as short as it must be.

    In order, or mixed by `seed`: losses that compare the rows of a batch need batches that are alike, and
    manifests are often sorted by class.
    """
    order = np.arange(rows) if seed is None else np.random.default_rng([seed, 3]).permutation(rows)
    return [Key(0, k, order[start : start + batch_size]) for k, start in enumerate(range(0, rows, batch_size))]


def batches(
    data: Rows,
    keys: Sampler[Key] | Sequence[Key],
    workers: int = 0,
    pin: bool = False,
    report: Callable[[list[BadRow]], None] = lambda bad: None,
) -> Iterator[Batch]:
    """Batches in the order of `keys`, made by `workers` processes (0: by this one).

    Each batch's bad rows are told to `report`; where the policy allows none, or no usable row was found,
    `BadInput` names the first.
    """
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
        if len(batch):
            yield batch


def _received(made: "DataLoader[Batch]") -> Iterator[Batch]:
    """What the workers make. Raises `Lost`, here and nowhere else, when one of them is gone.

    Torch's handler of SIGCHLD would raise wherever the program is, in the middle of a step too, which could then
    neither be finished nor saved. Without it a loss is noticed when a batch is waited for.
    """
    before = signal.getsignal(signal.SIGCHLD)
    coming = iter(made)
    end = partial(_end, getattr(coming, "_workers", []), os.getpid())
    atexit.register(end)
    try:
        if made.num_workers and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)
        yield from coming
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
    """End the workers of this process. They heed no polite signal (`leave_to_parent`), so that Python would wait for
    them for ever when it ends while a traceback, say, still holds on to what they read for."""
    if os.getpid() == parent:
        for worker in workers:
            worker.kill()
