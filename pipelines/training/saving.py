"""When a run in progress saves a checkpoint, and what it has saved."""

import time
from pathlib import Path
from typing import Any

from clx.pipelines.config.schema import Train
from clx.pipelines.runs import checkpoint
from clx.pipelines.system.signals import Signals
from clx.pipelines.training.step import Learner


class Saving:
    """Checkpoints of a run: after each validation, every `train.save_every` steps or `train.save_minutes` minutes, at a
    signal, and at the end. Of several processes that train together one `writes` them."""

    def __init__(self, out: Path, settings: Train, writes: bool = True) -> None:
        self.out, self.settings, self.writes = out, settings, writes
        self.step = -1
        """Step of the newest checkpoint; -1 before there is one."""
        self.source: checkpoint.Checkpoint | None = None
        """The checkpoint that a resumed run began at."""
        self.time, self.asked = time.monotonic(), False

    def due(self, step: int, signals: Signals, heard: Signals | None = None) -> bool:
        """Whether this step is to be saved whatever else happens at it.

        With `heard`, what this process is asked for while `signals` are what all ranks know, the minutes of one ask all
        for it: they save at the same step.
        """
        every = self.settings.save_every
        late = (time.monotonic() - self.time) / 60 > self.settings.save_minutes
        if late and heard is not None:
            heard.save, late = heard.save or not self.asked, False
            self.asked = True
        return bool(every and step % every == 0) or late or signals.save

    def save(self, learner: Learner, state: dict[str, Any], score: float | None) -> None:
        """Checkpoint the present step; `state` is what only resuming needs. Raises `Failed`."""
        used = checkpoint.weights(*learner.used) if self.writes or learner.sharded is not None else {}
        if self.writes:
            checkpoint.save(self.out, learner.step, used, state, score, self.settings.keep)
        self.step, self.time, self.asked = learner.step, time.monotonic(), False

    def resumed(self, source: checkpoint.Checkpoint) -> None:
        """Go on after `source`; later checkpoints, of a run that is now done otherwise, are set aside."""
        self.source, self.step = source, source.step
        if self.writes:
            checkpoint.set_aside(self.out, source.step)

    def rescore(self, score: float | None) -> None:
        """Give the checkpoint that the run was resumed at the validation loss that it was saved without."""
        assert self.source is not None
        if self.writes:
            checkpoint.rescore(self.source, score)
