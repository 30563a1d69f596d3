"""The loop: any number of modalities and views, any sum of objectives, one step after another until done."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clx.losses.base import Steps
from clx.pipelines.batches.batch import Batch
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import Order, batches, once
from clx.pipelines.config.schema import Config
from clx.pipelines.data.imbalance import row_weights
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.model.build import Run
from clx.pipelines.model.frozen_features import know
from clx.pipelines.model.towers import Embedder
from clx.pipelines.runs import checkpoint
from clx.pipelines.system.devices import pick_device, pick_precision
from clx.pipelines.system.errors import BadInput, Refused, Stopped
from clx.pipelines.system.progress import Progress
from clx.pipelines.system.signals import Signals
from clx.pipelines.training import health
from clx.pipelines.training.averaging import averaged
from clx.pipelines.training.logs import BadRows, Metrics
from clx.pipelines.training.schedule import plan, rate_at

LOG_EVERY = 10
AUGMENTER_EVERY, AUGMENTER_RATE = 2, 5.0
"""Of so many steps one teaches the networks that make views, at so many times the learning rate."""
MOST_OVERFLOWS = 30


def parameter_groups(model: Embedder, objective: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices; none for vectors, scalars, what the objective learns and what makes views."""
    augmenters = model.augmenters()
    others = {id(p) for p in augmenters}
    learned = [p for p in model.parameters() if p.requires_grad and id(p) not in others]
    bare = [p for p in learned if p.ndim < 2] + [p for p in objective.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if p.ndim >= 2], "weight_decay": decay},
        {"params": bare, "weight_decay": 0.0},
        {"params": augmenters, "weight_decay": 0.0, "faster": AUGMENTER_RATE},
    ]
    return [group for group in groups if group["params"]]


class Trainer:
    """A run in progress. Its methods are the parts of the loop; `loop` puts them together."""

    def __init__(self, config: Config, run: Run, splits: dict[str, Manifest], out: Path) -> None:
        settings = self.settings = config.train
        self.run, self.out = run, out
        self.device = pick_device(settings.device)
        self.dtype = pick_precision(settings.precision, self.device)
        self.plan = plan(config, len(splits["train"]))
        self.model = run.model.to(self.device)
        self.objective = run.objective.to(self.device)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, self.objective, settings.weight_decay),
            lr=settings.lr,
            fused=self.device.type == "cpu" or None,  # one by one, small parameters cost a fifth of a step there
        )
        self.augmenters = self.model.augmenters()
        self.statistics = [b for b in self.model.buffers() if b.is_floating_point()]
        """Those of batch norms, and others that a spoiled step may have changed."""
        self.scaler = torch.amp.grad_scaler.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.ema = averaged(self.model, self.objective, settings.ema) if settings.ema else None
        self.step = 0
        self.bad_steps = 0
        self.overflows = 0
        """Steps in a row that only the half-precision scaler spoiled."""
        self.score: float | None = None
        self.validated = -1
        """Step that the score belongs to."""
        self.saved = -1
        """Step of the newest checkpoint."""
        self.health = health.Health(config.train.warmup * self.plan.steps)
        self.seen: dict[str, Tensor] = {}
        """Embeddings of the batch that `loss` was last given, by view name, of the rows that have the view."""
        self.say: Callable[[str], None] = lambda text: None
        skip = config.data.on_bad_row == "skip"
        budget = config.data.bad_row_budget if skip else 1.0
        self.bad_rows = BadRows(out / "bad_rows.jsonl", self.plan.rows, budget)
        missing = config.data.missing
        self.rows = self._rows(splits["train"], config, True, on_bad="replace" if skip else "fail", missing=missing)
        weights = row_weights(config.data, splits["train"])
        by_sampling = config.data.balance is not None and config.data.balance.by == "sampling"
        self.rows.weights = None if by_sampling else weights
        self.drawn = weights if by_sampling else None
        self.val: BatchDataset | None = None
        if "val" in splits:
            # Several views must differ to mean anything; a single one is validated as it is.
            varied = any(modality.views > 1 for modality in run.modalities.values())
            self.val = self._rows(splits["val"], config, varied, on_bad="skip" if skip else "fail")
        self.cache = config.data.cache
        self.validate_every = settings.validate_every or max(1, self.plan.per_epoch // settings.accumulate)
        self.metrics = Metrics(out, settings.tensorboard)

    def _rows(self, manifest: Manifest, config: Config, augment: bool, **policy: Any) -> BatchDataset:
        return BatchDataset(
            manifest,
            self.run.modalities,
            label=config.data.label,
            classes=self.run.class_index,
            bin_width=config.data.bin_width if config.data.label in config.data.target else None,
            target=config.data.target,
            forecasts=self.run.forecasts,
            near=config.data.neighbours,
            augment=augment,
            seed=config.train.seed,
            cache=config.data.cache,
            **policy,
        )

    def know_features(self) -> None:
        """Encode once, and keep, what a frozen encoder sees without variation: it would say the same every epoch."""
        if "steps" in self.run.objective.needs():
            return
        self.model.eval()
        for rows in (self.rows, self.val):
            if rows is not None:
                know(self.run, rows, self.autocast)
        self.model.train()

    def autocast(self) -> AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def loss(self, batch: Batch, model: nn.Module, objective: nn.Module) -> tuple[Tensor, dict[str, float]]:
        """The objective of one batch, and its counts."""
        with self.autocast():
            steps: Steps | None = {} if "steps" in self.objective.needs() else None
            z = model(batch.inputs, batch.present, steps)
            extras: dict[str, object] = {
                "steps": steps,
                "present": batch.present,
                "labels": batch.labels,
                "targets": batch.targets,
                "sample_id": batch.sample_id,
                "weights": batch.weights,
            }
            if self.run.model.predictor is not None:
                extras["predictions"] = model.predict(z, batch.present)  # type: ignore[operator]
            total, counts = objective(z, extras)
        self.seen = {name: rows.detach()[batch.present[name]] for name, rows in z.items()}
        return total, counts

    def update(self, group: list[Batch]) -> dict[str, float]:
        """One optimiser step over the batches of `group`. A non-finite loss or gradient changes nothing."""
        rate = rate_at(self.step, self.plan.steps, self.settings)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate * parameters.get("faster", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        before = [buffer.clone() for buffer in self.statistics]
        value = 0.0
        shown: dict[str, float] = {}
        for batch in group:
            batch = batch.to(self.device)
            total, shown = self.loss(batch, self.model, self.objective)
            self.scaler.scale(total / len(group)).backward()
            value += total.item() / len(group)
            if self.augmenters and (self.step + 1) % AUGMENTER_EVERY == 0:
                shown |= self.train_augmenters(batch, 1 / len(group))
        self.scaler.unscale_(self.optimizer)
        views, clip = set(self.augmenters), self.settings.clip or math.inf
        learned = [p for parameters in self.optimizer.param_groups for p in parameters["params"] if p not in views]
        norm = nn.utils.clip_grad_norm_(learned, clip).item()
        theirs = nn.utils.clip_grad_norm_(
            self.augmenters, clip
        ).item()  # of another criterion: no measure for the others
        if math.isfinite(value) and math.isfinite(norm) and math.isfinite(theirs):
            self.scaler.step(self.optimizer)
            self.overflows = 0
            if spike := self.health.hear_loss(self.step + 1, value):
                self.warn(spike, [int(i) for batch in group for i in batch.sample_id])
            if self.ema is not None:
                self.ema.update_parameters(nn.ModuleDict({"model": self.model, "objective": self.objective}))
        else:
            for buffer, kept in zip(self.statistics, before, strict=True):
                buffer.copy_(kept)
            self.skip(group, overflow=self.scaler.is_enabled() and math.isfinite(value))
        self.scaler.update()
        self.step += 1
        return {"loss": value, "lr": rate, "grad_norm": norm, **shown, **self.temperatures()}

    def train_augmenters(self, batch: Batch, share: float) -> dict[str, float]:
        """Gradients of the networks that make views, and of nothing else; what they are to lower, by view."""
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        with self.autocast():
            terms = self.model.relevance(batch.inputs)
        for term in terms.values():
            self.scaler.scale(term * share).backward(inputs=self.augmenters)
        for buffer, kept in buffers:  # the encoder ran once more: its batch norms are not to count that
            buffer.copy_(kept)
        return {f"{name}.relevance": term.item() for name, term in terms.items()}

    def skip(self, group: list[Batch], overflow: bool) -> None:
        """Count a step that was not taken. Raises `Refused` when there are too many.

        A half-precision scaler looks for its scale by overflowing: that is bad only when it does not end.
        """
        self.overflows += 1
        if overflow and self.overflows <= MOST_OVERFLOWS:
            return
        self.bad_steps += 1
        rows = [int(i) for batch in group for i in batch.sample_id]
        self.metrics.add({"step": self.step + 1, "skipped": "non-finite", "rows": rows})
        if self.bad_steps > self.settings.bad_steps:
            raise Refused(
                f"{self.bad_steps} steps had a non-finite loss or gradient (train.bad_steps is "
                f"{self.settings.bad_steps}); the last good checkpoint is kept in {self.out}/checkpoints"
            )

    def temperatures(self) -> dict[str, float]:
        """Learned temperatures by loss."""
        found = {}
        for term, loss in zip(self.objective.terms, self.objective.losses, strict=True):
            tau = getattr(loss, "tau", None)
            if isinstance(tau, Tensor):
                found[f"{term.name}.temperature"] = tau.item()
        return found

    def warn(self, text: str, rows: list[int] | None = None) -> None:
        """Log a warning; the first of its sort is said, too."""
        self.metrics.add({"step": self.step + (rows is not None), "warning": text} | ({"rows": rows} if rows else {}))
        sort = text.partition(":")[0]
        if sort not in self.health.said:
            self.health.said.append(sort)
            self.say(f"warning: {text}")

    def look(self, seen: dict[str, Tensor]) -> dict[str, float]:
        """How spread out embeddings are, for the log; warns of a collapse."""
        figures, warnings = self.health.look(self.step, seen)
        for text in warnings:
            self.warn(text)
        return figures

    @torch.no_grad()
    def validate(self, signals: Signals | None = None) -> bool:
        """Mean loss over the validation split, on the weights that would be used; False when a signal cut it short."""
        if self.val is None:
            self.metrics.add({"step": self.step, **self.look(self.seen)})
            return True
        model, objective = self.used()
        kept = checkpoint.random_state()  # validation must not disturb the training's random streams
        model.eval(), objective.eval()
        total = rows = 0.0
        keys = once(len(self.val), self.settings.batch_size, self.settings.seed)
        looked: list[dict[str, Tensor]] = []
        for batch in batches(self.val, keys, self.settings.workers, report=partial(self.bad_rows.report, split="val")):
            total += self.loss(batch.to(self.device), model, objective)[0].item() * len(batch)
            if rows < health.ROWS:
                looked.append(self.seen)
            rows += len(batch)
            if signals is not None and signals.stop:
                break
        self.model.train(), self.objective.train()
        checkpoint.restore_random(kept)
        if signals is not None and signals.stop:
            return False
        self.score = total / rows if rows else None
        self.validated = self.step
        seen = {name: torch.cat([part[name] for part in looked]) for name in self.seen}
        self.metrics.add({"step": self.step, "val_loss": self.score, **self.look(seen)})
        return True

    def used(self) -> tuple[nn.Module, nn.Module]:
        """Model and objective to evaluate with: the averaged ones when there are any."""
        if self.ema is None:
            return self.model, self.objective
        both = self.ema.module
        return both["model"], both["objective"]  # type: ignore[index]

    def save(self) -> None:
        """Checkpoint the present step."""
        used = self.used()
        trainer = {
            "step": self.step,
            "bad_steps": self.bad_steps,
            "overflows": self.overflows,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": checkpoint.random_state(),
            "validated": self.validated,
            "health": json.dumps(self.health.state()),
        }
        if self.ema is not None:  # then the evaluated weights are not the trained ones
            trainer["trained"] = checkpoint.weights(self.model, self.objective)
            trainer["ema_updates"] = int(self.ema.n_averaged)
        score = self.score if self.validated == self.step else None
        checkpoint.save(self.out, self.step, checkpoint.weights(*used), trainer, score, self.settings.keep)
        self.saved = self.step

    def restore(self, source: checkpoint.Checkpoint) -> None:
        """Continue as if the run had never stopped after `source`. Raises `BadInput` where that is not this run's."""
        state = checkpoint.load_trainer(source)
        self.source = source
        checkpoint.restore(source, *self.used())
        try:
            self._take(state)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
            said = " ".join(str(error).split())[:100]
            raise BadInput(
                f"{source.path}/trainer.pt does not fit this run ({type(error).__name__}: {said})"
            ) from error
        if self.step != source.step:
            raise BadInput(f"{source.path}/trainer.pt is of step {self.step}")
        self.saved = self.step
        self.bad_rows.recall()
        self.metrics.recall(self.step, self.validated)
        checkpoint.set_aside(self.out, self.step)

    def _take(self, state: dict[str, Any]) -> None:
        """What only resuming needs."""
        if self.ema is not None:
            both = nn.ModuleDict({"model": self.model, "objective": self.objective})
            both.load_state_dict(state["trained"])
            self.ema.n_averaged.fill_(state["ema_updates"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():
            if any(value.ndim and value.shape != parameter.shape for value in moments.values()):
                raise ValueError("moments of another shape")
        if state["scaler"] and self.scaler.is_enabled():  # a run may move between devices
            self.scaler.load_state_dict(state["scaler"])
        self.step, self.bad_steps = int(state["step"]), int(state["bad_steps"])
        self.overflows, self.validated = int(state["overflows"]), int(state["validated"])
        self.health = health.Health(**json.loads(state["health"]))
        checkpoint.restore_random(state["random"])

    def groups(self) -> Iterator[list[Batch]]:
        """The batches of each remaining step."""
        accumulate = self.settings.accumulate
        order = Order(
            self.plan.rows,
            self.settings.batch_size,
            self.settings.seed,
            start=self.step * accumulate,
            stop=self.plan.steps * accumulate,
            weights=self.drawn,
        )
        pin = self.device.type == "cuda"
        group = []
        for batch in batches(self.rows, order, self.settings.workers, pin, self.bad_rows.report):
            group.append(batch)
            if len(group) == accumulate:
                yield group
                group = []

    def due(self) -> bool:
        """Whether this step is one that is validated."""
        return self.step % self.validate_every == 0 or self.step == self.plan.steps

    def loop(self, progress: Progress, signals: Signals) -> float:
        """All remaining steps; returns rows per second."""
        self.say = progress.say
        if self.cache:
            self.know_features()
        if self.saved < 0:
            self.begin(signals)
        self.catch_up(signals)
        self.model.train(), self.objective.train()
        start, first, saved = time.monotonic(), self.step, time.monotonic()

        def speed() -> float:
            rows = (self.step - first) * self.settings.batch_size * self.settings.accumulate
            return rows / (time.monotonic() - start + 1e-9)

        for group in self.groups():
            shown = self.update(group)
            done, now = self.step == self.plan.steps, time.monotonic()
            if done or self.step % LOG_EVERY == 0 or self.step == 1:
                self.metrics.add({"step": self.step, **shown})
            progress.step(self.step, self.plan.steps, loss=shown["loss"], rows_per_s=round(speed()))
            validated = self.due() and self.validate(signals)
            wanted = self.settings.save_every and self.step % self.settings.save_every == 0
            timely = now - saved > self.settings.save_minutes * 60 or signals.save
            if done or wanted or timely or signals.stop or (validated and self.val is not None):
                self.save()
                saved, signals.save = time.monotonic(), False
            self.stop_if_asked(signals)
        return speed()

    def begin(self, signals: Signals) -> None:
        """Validate and save what was taken over from pre-training: perhaps no step improves it."""
        self.metrics.recall(-1, -1)  # of a start that was killed before it saved anything
        self.bad_rows.recall()
        if self.run.config.pretrain is not None and self.val is not None:
            self.validate(signals)
            self.save()
            self.stop_if_asked(signals)

    def catch_up(self, signals: Signals) -> None:
        """Validate the step that a resumed run was stopped at, where a signal came before that was done."""
        if self.val is not None and self.step == self.saved and self.due() and self.validated != self.step:
            if self.validate(signals):
                checkpoint.rescore(self.source, self.score)
            self.stop_if_asked(signals)

    def stop_if_asked(self, signals: Signals) -> None:
        """Raise `Stopped` after a signal; the present step is saved."""
        if signals.stop:
            raise Stopped(
                f"stopped at step {self.step} of {self.plan.steps}; continue with clx train --resume {self.out}",
                128 + signals.stop,
            )
