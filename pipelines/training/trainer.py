"""A run in progress: any number of modalities and views, any sum of objectives, one step after another until done."""

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from clx.pipelines.batches.batch import Batch, ahead
from clx.pipelines.batches.loader import Order, Rule
from clx.pipelines.batches.meetings import meetings_of
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.row_groups import training_blocks
from clx.pipelines.model.build import Run
from clx.pipelines.model.idle_parts import warn_of_idle_parts
from clx.pipelines.runs.checkpoint import Checkpoint
from clx.pipelines.runs.folder import BAD_ROWS
from clx.pipelines.system.devices import fetched
from clx.pipelines.system.errors import Paused, Refused, Stopped
from clx.pipelines.system.phases import loop_begins, loop_ends, phase, turn_ends
from clx.pipelines.system.process_group import Group
from clx.pipelines.system.progress import Progress
from clx.pipelines.system.signals import Signals
from clx.pipelines.training import nonfinite, resume
from clx.pipelines.training.health import Health
from clx.pipelines.training.logs import BadRows, Metrics
from clx.pipelines.training.places import most_places
from clx.pipelines.training.renewing import renewing
from clx.pipelines.training.rows import keep_frozen_features, mixture_of, training_rows, validation_rows
from clx.pipelines.training.saving import Saving
from clx.pipelines.training.schedule import Plan, check_patience
from clx.pipelines.training.step import Learner, Update
from clx.pipelines.training.trackers import Trackers
from clx.pipelines.training.validation import validate

LOG_EVERY = 10


class Trainer:
    """Conducts the parts of training: rows, step, validation, health, logs, checkpoints."""

    def __init__(
        self, run: Run, splits: dict[str, Manifest], plan: Plan, out: Path, group: Group | None = None
    ) -> None:
        config = run.config
        self.group, self.writes = group, group is None or group.rank == 0
        """The processes that train together, and whether this is the one that writes."""
        self.run, self.plan, self.out = run, plan, out
        self.settings = config.train
        warn_of_idle_parts(config, run.model, run.objective)
        run.objective.replay_from = splits["train"].replay_from
        self.learner = Learner(run, config.train, plan.steps, group)
        if self.learner.second is not None:
            self.learner.second.check(run, splits["train"])
        meetings = meetings_of(config, splits["train"])
        self.rows, self.draw = training_rows(run, splits["train"])
        self.rows.alike = None if meetings is None else meetings.alike
        self.renewing = renewing(run, meetings, self.rows, self.learner)
        self.rule: Rule | None = mixture_of(run, splits["train"]) or meetings
        sampled = None if self.draw is None else "data.balance.by: sampling"
        anywhere = sampled if meetings is None else "train.batches"
        self.blocks = training_blocks(self.rows.manifest, anywhere)
        self.val = validation_rows(run, splits["val"]) if "val" in splits else None
        check_patience(config, splits)
        if self.learner.ranks is not None:
            self.learner.ranks.look(self.rows)
        self.validate_every = config.train.validate_every or plan.per_epoch
        self.saving = Saving(out, config.train, self.writes)
        self.metrics = Metrics(out, Trackers(config, out) if self.writes else None, self.writes)
        budget = config.data.bad_row_budget if config.data.on_bad_row == "skip" else 1.0
        self.bad_rows = BadRows(out / BAD_ROWS, plan.rows, budget, self.writes)
        self.embeddings: dict[str, Tensor] = {}
        """Those of the newest batch, by view name."""
        self.say: Callable[[str], None] = lambda text: None
        self.course = resume.Course(Health(config.train.warmup * (plan.steps or 0)))
        self.places = most_places(run, splits["train"])
        self.score: float | None = None
        """Validation loss of the step that was validated last."""

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self.learner.step

    def loop(self, progress: Progress, signals: Signals, until: int | None = None) -> float:
        """All remaining steps; returns rows per second. Raises `Paused` after step `until`, where that is not the last,
        which is saved and nothing else: resumed, the run is the one that it would have been."""
        self.say = progress.say
        self.learner.length.start()
        heard, signals = None if self.learner.ranks is None else signals, self.learner.hear(signals)
        if self.run.config.data.cache == "memory":
            datasets = [self.rows, *([self.val] if self.val else [])]
            keep_frozen_features(self.run, self.learner, *datasets, say=progress.say)
        if self.saving.step < 0:
            self.begin(signals)
        self.catch_up(signals)
        self.learner.model.train(), self.learner.objective.train()
        start, first, per_step = time.monotonic(), self.step, self.settings.batch_size
        self.saving.time = start
        loop_begins(self.learner.device)

        def speed() -> float:
            return (self.step - first) * per_step / (time.monotonic() - start + 1e-9)

        for batch in self.batches():
            figures = self.update(batch)
            total = self.learner.length.expected(self.step)
            progress.step(self.step, total, loss=figures["loss"], rows_per_s=round(speed()))
            validated = self.due() and self.validate(signals) and self.val is not None
            pause = self.step == until and not self.over
            if validated or self.over or pause or signals.stop or self.saving.due(self.step, signals, heard):
                self.save()
                signals.save = False
            turn_ends()
            self.stop_if_asked(signals)
            if pause:
                raise Paused(f"paused at {self.learner.length.place(self.step)}")
        loop_ends()
        if self.stale:
            self.say(
                f"train.patience = {self.settings.patience}: no validation since has had less than the loss of "
                f"{self.course.lowest:.4g}; training ends at step {self.step}"
            )
        return speed()

    def batches(self) -> Iterator[Batch]:
        """Those of the remaining steps; none after the end that `train.patience` makes, or the clock."""
        start, end, renewing = self.step, self.plan.steps or sys.maxsize, self.renewing
        while not self.ended and start < end:
            stop = end if renewing is None else renewing.until(start, end)
            yield from self.stretch(start, stop)
            start = stop

    def stretch(self, start: int, stop: int) -> Iterator[Batch]:
        """Those from a step to another."""
        settings = self.settings
        order = Order(
            self.plan.rows,
            settings.batch_size,
            settings.seed,
            start=start,
            stop=stop,
            weights=self.draw,
            rule=self.rule,
            blocks=self.blocks,
        )
        pin = self.learner.device.type == "cuda"
        made = self.learner.batches(self.rows, order, settings.workers, pin, self.bad_rows.report)
        coming = ahead(made, self.learner.device)
        while not self.ended:
            with phase("waiting for rows"):
                batch = next(coming, None)
            if batch is None:
                break
            yield batch

    @property
    def over(self) -> bool:
        """Whether no step of the run's length is left."""
        return self.learner.length.over(self.step)

    @property
    def ended(self) -> bool:
        """Whether no step comes any more, however many batches are left."""
        return self.stale or (self.plan.steps is None and self.over)

    @property
    def stale(self) -> bool:
        """Whether the validation loss has not improved for as long as `train.patience` bears."""
        return self.settings.patience is not None and self.course.stale >= self.settings.patience

    def update(self, batch: Batch) -> dict[str, Any]:
        """One step, its log lines, and a word on what is wrong with it. Raises `Refused` after too many bad ones."""
        chunk = self.learner.chunks.size
        update = self.learner.update(batch)
        if (size := self.learner.chunks.size) != chunk:
            self.metrics.add({"step": self.step, "chunk": size})
            self.say(f"train.chunk: {size} rows of a batch are encoded at a time from step {self.step} on")
        self.embeddings, figures = update.embeddings, update.figures
        if update.outcome == "spoiled":
            self.skipped(update, batch)
        elif update.outcome == "taken" and (spike := self.course.health.hear_loss(self.step, figures["loss"])):
            self.warn(spike, update.rows.tolist())
        self.read_clock()
        if self.over or self.step % LOG_EVERY == 0 or self.step == 1:
            self.metrics.add({"step": self.step, **fetched(figures)})
        return figures

    def read_clock(self) -> None:
        """How much of `train.minutes` is over, for all ranks, and how many steps the warm-up has had."""
        length, ranks = self.learner.length, self.learner.ranks
        if length.steps is None:
            length.read(None if ranks is None else ranks.first)
            if length.done(self.step) < self.settings.warmup:
                self.course.health.warm = self.step

    def skipped(self, update: Update, batch: Batch) -> None:
        """Count a step that changed nothing, and keep the first. Raises `Refused` when there are too many."""
        self.course.bad_steps += 1
        self.metrics.add({"step": self.step, "skipped": "non-finite", "rows": update.rows.tolist()})
        if self.course.bad_steps == 1:
            nonfinite.keep(self.out, self.learner, update, batch, self.group.size if self.group else 1, self.writes)
            self.say(f"step {self.step} was not finite and is kept: clx doctor {self.out} --replay says where it began")
        if self.course.bad_steps > self.settings.bad_steps:
            saved = "no checkpoint was saved before"
            if self.saving.step >= 0:
                saved = f"the last checkpoint, of step {self.saving.step}, is kept in {self.out}/checkpoints"
            raise Refused(
                f"{self.course.bad_steps} steps had a non-finite loss or gradient (train.bad_steps is "
                f"{self.settings.bad_steps}); {saved}, the first of "
                f"these steps in {self.out}/nonfinite: clx doctor {self.out} --replay says where it began"
            )

    def warn(self, text: str, rows: list[int] | None = None) -> None:
        """Log a warning; the first of its sort is said, too."""
        self.metrics.add({"step": self.step, "warning": text} | ({"rows": rows} if rows else {}))
        if self.course.health.is_news(text):
            self.say(f"warning: {text}")

    def due(self) -> bool:
        """Whether this step is one that is validated."""
        return self.step % self.validate_every == 0 or self.over

    def validate(self, signals: Signals) -> bool:
        """Validate, where there are rows to, and look at the embeddings; False when a signal cut it short."""
        embeddings, figures = self.embeddings, dict[str, Any]()
        if self.val is not None:
            with phase("validation", rare=True):
                found = validate(self.learner, self.val, signals, partial(self.bad_rows.report, split="val"))
            if found is None:
                return False
            self.score, self.course.validated = found.loss, self.step
            self.course.hear(found.loss)
            if self.learner.length.done(self.step) <= max(term.begin for term in self.run.config.objective):
                self.course.stale = 0  # it is of terms of which some have not trained yet
            embeddings, figures = found.embeddings, {"val_loss": found.loss, "scores": found.scores}
        spread, warnings = self.course.health.look(self.step, embeddings, self.places)
        for text in warnings:
            self.warn(text)
        self.metrics.add({"step": self.step, **figures, **spread})
        return True

    def save(self) -> None:
        """Checkpoint the present step."""
        score = self.score if self.course.validated == self.step else None
        self.course.drawn = {} if self.renewing is None else self.renewing.state()
        with phase("saving", rare=True):
            self.saving.save(self.learner, resume.state_of(self.learner, self.course), score)

    def restore(self, source: Checkpoint) -> None:
        """Continue as if the run had never stopped after `source`. Raises `BadInput` where that is not this run's."""
        self.course = resume.restore(self.learner, source)
        if self.renewing is not None:
            self.renewing.take(self.course.drawn, str(source.path))
        self.bad_rows.recall()
        self.metrics.recall(self.step, self.course.validated)
        self.saving.resumed(source)

    def begin(self, signals: Signals) -> None:
        """Validate and save what was taken over from the stage before: perhaps no step improves it."""
        self.metrics.recall(-1, -1)  # of a start that was killed before it saved anything
        self.bad_rows.recall()
        if self.run.config.stages and self.val is not None:
            self.validate(signals)
            self.save()
            self.stop_if_asked(signals)

    def catch_up(self, signals: Signals) -> None:
        """Validate the step that a resumed run was stopped at, where a signal came before that was done."""
        if self.val is not None and self.step == self.saving.step and self.due() and self.course.validated != self.step:
            if self.validate(signals):
                self.saving.rescore(self.score)
            self.stop_if_asked(signals)

    def stop_if_asked(self, signals: Signals) -> None:
        """Raise `Stopped` after a signal; the present step is saved."""
        if signals.stop:
            raise Stopped(
                f"stopped at {self.learner.length.place(self.step)}; continue with clx train --resume {self.out}",
                128 + signals.stop,
            )
