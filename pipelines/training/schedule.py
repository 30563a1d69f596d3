"""How long a run is, how much of it is done, and its learning rate: by its steps, or by the clock."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from clx.pipelines.config.schema import Config, Train
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.system.errors import BadInput


def warm_up(total: int, settings: Train) -> int:
    """Steps over which the learning rate rises, of a run of `total`."""
    return math.ceil(settings.warmup * total)


def rate_at(step: int, total: int, settings: Train) -> float:
    """Learning rate of a step counted from 0: linear warm-up, then half a cosine down to zero, or constant."""
    warm = warm_up(total, settings)
    if step < warm:
        return settings.lr * (step + 1) / warm
    return _after_warm_up(step - warm, max(1, total - warm), settings)


def rate_when(done: float, settings: Train) -> float:
    """As `rate_at`, when a share `done` (0 to 1) of `train.minutes` is over; the first step has a rate of 0."""
    if done < settings.warmup:
        return settings.lr * done / settings.warmup
    return _after_warm_up(done - settings.warmup, max(1e-9, 1 - settings.warmup), settings)


def _after_warm_up(part: float, whole: float, settings: Train) -> float:
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * 0.5 * (1 + math.cos(math.pi * part / whole))


class Length:
    """How much of a run is done: by its steps, or, where `steps` is None, by the clock, of `train.minutes`.

    The clock is read once after each step, so everything in a step goes by the same time. It runs from `start` on, and
    what was spent before that, by a run that was resumed, is added: `seconds` is saved with the run.
    """

    def __init__(self, settings: Train, steps: int | None) -> None:
        self.settings, self.steps = settings, steps
        self.seconds = 0.0
        """Spent when the clock was read last."""
        self._zero = 0.0

    def start(self) -> None:
        self._zero = time.monotonic() - self.seconds

    def read(self, agree: Callable[[float], float] | None = None) -> None:
        """Read the clock; `agree` makes of this process's seconds those that all ranks go by."""
        seconds = time.monotonic() - self._zero
        self.seconds = seconds if agree is None else agree(seconds)

    def done(self, step: int) -> float:
        """Share of the run that is over when `step` steps are done, at most 1."""
        if self.steps is not None:
            return step / self.steps
        assert self.settings.minutes is not None
        return min(1.0, self.seconds / (60 * self.settings.minutes))

    def reach(self, done: float) -> int:
        """As if a share of the run were over: the step of it, where that is counted in steps."""
        if self.steps is not None:
            return int(done * self.steps)
        assert self.settings.minutes is not None
        self.seconds = done * 60 * self.settings.minutes
        return 0

    def over(self, step: int) -> bool:
        """Whether a run that has done so many steps has done all."""
        return step == self.steps if self.steps is not None else self.done(step) >= 1

    def rate(self, step: int) -> float:
        """The learning rate of a step counted from 0."""
        if self.steps is not None:
            return rate_at(step, self.steps, self.settings)
        return rate_when(self.done(step), self.settings)

    def expected(self, step: int) -> int:
        """Steps of the whole run; by the clock what they come to at the pace so far."""
        return self.steps if self.steps is not None else max(step, round(step / max(self.done(step), 1e-9)))

    def place(self, step: int) -> str:
        """In words where a run is that has done so many steps."""
        if self.steps is not None:
            return f"step {step} of {self.steps}"
        return f"step {step}, {self.seconds / 60:.2g} of {self.settings.minutes:g} minutes"


@dataclass
class Plan:
    """How long a run is, known before its first step."""

    rows: int
    per_epoch: int
    """Batches in an epoch."""
    steps: int | None
    """Optimiser steps of the run; None where `train.minutes` says how long it is."""


def length_of(settings: Train, steps: int | None) -> str:
    """In words, as `100 steps` or `5 minutes`."""
    return f"{steps} steps" if steps is not None else f"{settings.minutes:g} minutes"


def plan(config: Config, rows: int) -> Plan:
    """Steps of a run over `rows` training rows. Raises `BadInput` when not one step is possible."""
    settings = config.train
    if rows < settings.batch_size:
        raise BadInput(
            f"train.batch_size is {settings.batch_size} but there are only {rows} training rows: "
            f"set train.batch_size to {rows} or less"
        )
    per_epoch = rows // settings.batch_size
    steps = settings.steps or (settings.epochs * per_epoch if settings.epochs else None)
    return Plan(rows, per_epoch, None if settings.minutes else steps)


def check_patience(config: Config, splits: Mapping[str, Manifest]) -> None:
    """Raise `BadInput` where `train.patience` has no val rows to wait on."""
    if config.train.patience is not None and "val" not in splits:
        raise BadInput("train.patience needs val rows to wait on: set data.val, or leave it out")
