"""What tests need of trainings: who listens to them, who stops them, and what they leave."""

import itertools
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import load_splits
from clx.pipelines.model.build import prepare
from clx.pipelines.runs import checkpoint
from clx.pipelines.system.durable_files import locked
from clx.pipelines.system.progress import Silent
from clx.pipelines.training.schedule import plan
from clx.pipelines.training.trainer import Trainer
from command import child, ended


class Heard(Silent):
    """Progress that keeps what was said, and the steps that it was told of."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[int] = []

    def step(self, done: int, total: int, **shown: float) -> None:
        self.steps.append(done)

    def say(self, text: str) -> None:
        self.said.append(text)


class StopAt(Heard):
    """Sends this process a signal after a step; of two stages, in the one of `of` steps."""

    def __init__(self, step: int, number: int = signal.SIGTERM, of: int | None = None) -> None:
        super().__init__()
        self.at, self.number, self.of = step, number, of

    def step(self, done: int, total: int, **shown: float) -> None:
        super().step(done, total)
        if done == self.at and self.of in (None, total):
            os.kill(os.getpid(), self.number)


def trainer_of(config: Config, out: Path) -> Trainer:
    """A run in its beginning: before the first step of a training in `out`."""
    splits = load_splits(config.data, config.train.seed)
    return Trainer(prepare(config, splits), splits, plan(config, len(splits["train"])), out)


def ticking(seconds: float) -> Any:
    """In the place of the module `time`: a clock that goes on by so much each time it is read."""
    read = itertools.count()
    return SimpleNamespace(monotonic=lambda: 1000.0 + seconds * next(read))


@contextmanager
def held(run: Path) -> Iterator[int]:
    """Another process, of this number, trains in this folder, as far as anyone can see."""
    reader, writer = os.pipe()

    def train() -> None:
        with locked(run):
            os.write(writer, b"!")
            signal.pause()

    process = child(train)
    assert os.read(reader, 1) == b"!"
    try:
        yield process
    finally:
        os.kill(process, signal.SIGKILL)
        ended(process)


def weights(out: Path) -> dict[str, Tensor]:
    """Those of the newest checkpoint."""
    found: dict[str, Tensor] = load_file(checkpoint.last(out).path / "model.safetensors")
    return found


def metrics(out: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
