"""A run opened for examination: its trainer, its newest weights, and what it wrote. Nothing on disk changes."""

import json
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from clx.pipelines.config.schema import Config
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.shared_content import inputs_of
from clx.pipelines.data.splits import load_splits
from clx.pipelines.model.build import Run, build
from clx.pipelines.runs import checkpoint
from clx.pipelines.runs.folder import BAD_ROWS, METRICS
from clx.pipelines.runs.stages import folder_before
from clx.pipelines.system.errors import BadInput, ClxWarning
from clx.pipelines.training.schedule import plan
from clx.pipelines.training.step import Learner
from clx.pipelines.training.trainer import Trainer
from clx.pipelines.training.transfer import take_over


@dataclass
class Opened:
    """What there is of a run."""

    out: Path
    config: Config
    trainer: Trainer
    splits: dict[str, Manifest]
    step: int
    """Of the weights; 0 where none were saved, and they are those that the run began with."""
    lines: list[dict[str, Any]] = field(default_factory=list)
    """Of its log."""
    bad_rows: int = 0
    """Rows of training that could not be used."""

    @property
    def run(self) -> Run:
        return self.trainer.run

    @property
    def learner(self) -> Learner:
        return self.trainer.learner

    @property
    def train(self) -> Manifest:
        return self.splits["train"]

    @cached_property
    def held_out(self) -> Manifest | None:
        """Rows that were not trained on."""
        return self.splits.get("val", self.splits.get("test"))

    def series(self, key: str) -> list[tuple[int, float]]:
        """The values of a figure in the log, with their steps."""
        return [(line["step"], line[key]) for line in self.lines if isinstance(line.get(key), int | float)]


def config_of(out: Path, device: str | None) -> Config:
    """The config of a run, to run it in this process. Raises `BadInput` for what is no run folder."""
    config = checkpoint.read_config(out, flags={"train.device": device})
    here = {"workers": 0, "compile": False, "shard": False, "log_to": [], "patience": None}
    return config.model_copy(update={"train": config.train.model_copy(update=here)})


def trainer_of(
    out: Path, config: Config, load: bool = False, steps: int | None = None
) -> tuple[Trainer, dict[str, Manifest]]:
    """The trainer of a run before its first step, which writes nothing, and the run's rows.

    With `load` pretrained weights are read, which a checkpoint would replace. `steps`, where it is to do more or less.
    """
    if steps is not None:
        config = config.model_copy(update={"train": config.train.model_copy(update={"steps": steps, "minutes": None})})
    facts, before = checkpoint.read_facts(out), folder_before(config, out)
    splits = load_splits(config.data, config.train.seed, inputs=inputs_of(config))
    if load and before is not None:  # it begins with the weights of the stage before
        run = take_over(config, splits, before, lambda text: None)
    else:
        run = build(config, facts) if load else checkpoint.rebuild(out, config, facts)
    run.before = before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClxWarning)  # of parts that learn nothing, which is a finding
        trainer = Trainer(run, splits, plan(config, len(splits["train"])), out)
    trainer.bad_rows.writes = trainer.metrics.writes = False
    return trainer, splits


def open_run(out: Path, device: str | None = None) -> Opened:
    """A run with its newest weights. Raises `BadInput` where the folder is none, or its data are gone."""
    config = config_of(out, device)
    saved = checkpoint.checkpoints(out)
    trainer, splits = trainer_of(out, config, load=not saved)
    step = 0
    if saved:
        newest = checkpoint.last(out)
        learner = trainer.learner
        checkpoint.restore(newest, *learner.used)
        if learner.ema is not None:  # what is looked at beside these is the same
            checkpoint.restore(newest, learner.model, learner.objective)
        step = newest.step
    bad = [line for line in read_lines(out / BAD_ROWS) if line.get("split") == "train"]
    return Opened(out, config, trainer, splits, step, read_lines(out / METRICS), len(bad))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log, which stays as it is."""
    found = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
    for line in text.splitlines():
        with suppress(ValueError):
            content = json.loads(line)
            if isinstance(content, dict) and isinstance(content.get("step", 0), int):
                found.append(content)
    return found
