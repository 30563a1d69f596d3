"""The loop: any number of modalities and views, any sum of objectives, one step after another until done."""

import json
import math
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from clx.pipelines import checkpoint
from clx.pipelines.batch import BadRow, Batch, Order, Rows, batches, in_order
from clx.pipelines.build import Run, build, prepare
from clx.pipelines.config import BadInput, Config, Refused, Stopped, Train
from clx.pipelines.device import pick_device, pick_precision
from clx.pipelines.evaluate import SCHEMA, evaluate
from clx.pipelines.manifest import Manifest, load_splits
from clx.pipelines.model import averaged

LOG_EVERY = 10


class Progress(Protocol):
    """Who is told how far the run is."""

    def step(self, done: int, total: int, **shown: float) -> None: ...
    def say(self, text: str) -> None: ...


def rate_at(step: int, total: int, settings: Train) -> float:
    """Learning rate of a step counted from 0: linear warm-up, then half a cosine down to zero, or constant."""
    warm = math.ceil(settings.warmup * total)
    if step < warm:
        return settings.lr * (step + 1) / warm
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def parameter_groups(model: nn.Module, objective: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices; none for vectors, scalars and what the objective learns."""
    learned = [p for p in model.parameters() if p.requires_grad]
    bare = [p for p in learned if p.ndim < 2] + [p for p in objective.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if p.ndim >= 2], "weight_decay": decay},
        {"params": bare, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class Signals:
    """SIGINT and SIGTERM ask for a stop after the step, SIGUSR1 for a checkpoint; a second stop ends at once."""

    def __init__(self) -> None:
        self.stop: int | None = None
        self.save = False

    @contextmanager
    def watched(self) -> Iterator["Signals"]:
        def on_stop(number: int, frame: object) -> None:
            if self.stop is not None:
                raise KeyboardInterrupt
            self.stop = number

        def on_save(number: int, frame: object) -> None:
            self.save = True

        wanted: dict[int, Any] = {signal.SIGINT: on_stop, signal.SIGTERM: on_stop}
        if hasattr(signal, "SIGUSR1"):
            wanted[signal.SIGUSR1] = on_save
        before: dict[int, Any] = {}
        with suppress(ValueError):  # signals can only be watched from the main thread
            before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass
class Plan:
    """How long a run is, known before its first step."""

    rows: int
    per_epoch: int
    """Batches in an epoch."""
    steps: int
    """Optimiser steps of the run."""


def plan(config: Config, rows: int) -> Plan:
    """Steps of a run over `rows` training rows. Raises `BadInput` when not one step is possible."""
    settings = config.train
    if rows < settings.batch_size:
        raise BadInput(
            f"train.batch_size is {settings.batch_size} but there are only {rows} training rows: "
            f"set train.batch_size to {rows} or less"
        )
    per_epoch = rows // settings.batch_size
    steps = settings.steps or settings.epochs * per_epoch // settings.accumulate
    if steps == 0:
        raise BadInput(
            f"nothing would be trained: {settings.epochs} epochs of {per_epoch} batches are fewer than "
            f"train.accumulate = {settings.accumulate}"
        )
    return Plan(rows, per_epoch, steps)


@dataclass
class BadRows:
    """Bad rows met so far: written down once each, counted against the budget."""

    path: Path
    rows: int
    budget: float
    seen: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                self.seen.add(json.loads(line)["index"])

    def report(self, bad: list[BadRow]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            for one in bad:
                if one.row not in self.seen:
                    self.seen.add(one.row)
                    line = {"row": one.where, "column": one.column, "reason": one.reason, "index": one.row}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if len(self.seen) > self.budget * self.rows:
            raise BadInput(
                f"{len(self.seen)} of {self.rows} training rows are bad, more than data.bad_row_budget = "
                f"{self.budget}: see {self.path}"
            )


class Trainer:
    """A run in progress. Its methods are the parts of the loop; `train` below puts them together."""

    def __init__(self, config: Config, run: Run, splits: dict[str, Manifest], out: Path) -> None:
        settings = self.settings = config.train
        self.run, self.out = run, out
        self.device = pick_device(settings.device)
        self.dtype = pick_precision(settings.precision, self.device)
        self.plan = plan(config, len(splits["train"]))
        self.model = run.model.to(self.device)
        self.objective = run.objective.to(self.device)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, self.objective, settings.weight_decay), lr=settings.lr
        )
        self.scaler = torch.amp.grad_scaler.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.ema = averaged(self.model, self.objective, settings.ema) if settings.ema else None
        self.step = 0
        self.bad_steps = 0
        self.score: float | None = None
        skip = config.data.on_bad_row == "skip"
        budget = config.data.bad_row_budget if skip else 1.0
        self.bad_rows = BadRows(out / "bad_rows.jsonl", self.plan.rows, budget)
        missing = config.data.missing
        self.rows = self._rows(splits["train"], config, on_bad="replace" if skip else "fail", missing=missing)
        self.val: Rows | None = None
        if "val" in splits:
            self.val = self._rows(splits["val"], config, on_bad="skip" if skip else "fail")
        self.validate_every = settings.validate_every or max(1, self.plan.per_epoch // settings.accumulate)
        self.board = _tensorboard(out) if settings.tensorboard else None

    def _rows(self, manifest: Manifest, config: Config, **policy: Any) -> Rows:
        return Rows(
            manifest,
            self.run.modalities,
            label=config.data.label,
            classes=self.run.class_index,
            target=config.data.target,
            augment=True,
            seed=config.train.seed,
            cache=config.data.cache,
            **policy,
        )

    def autocast(self) -> AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def loss(self, batch: Batch, model: nn.Module, objective: nn.Module) -> tuple[Tensor, dict[str, float]]:
        """The objective of one batch, and its counts."""
        with self.autocast():
            z = model(batch.inputs, batch.present)
            extras: dict[str, object] = {
                "present": batch.present,
                "labels": batch.labels,
                "targets": batch.targets,
                "sample_id": batch.sample_id,
            }
            if self.run.model.predictor is not None:
                extras["predictions"] = model.predict(z, batch.present)  # type: ignore[operator]
            total, counts = objective(z, extras)
        return total, counts

    def update(self, group: list[Batch]) -> dict[str, float]:
        """One optimiser step over the batches of `group`. A non-finite loss or gradient changes nothing."""
        rate = rate_at(self.step, self.plan.steps, self.settings)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        value = 0.0
        shown: dict[str, float] = {}
        for batch in group:
            total, shown = self.loss(batch, self.model, self.objective)
            self.scaler.scale(total / len(group)).backward()
            value += total.item() / len(group)
        self.scaler.unscale_(self.optimizer)
        learned = [p for parameters in self.optimizer.param_groups for p in parameters["params"]]
        norm = nn.utils.clip_grad_norm_(learned, self.settings.clip or math.inf).item()
        finite = math.isfinite(value) and math.isfinite(norm)
        if finite:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        # A half-precision scaler looks for its scale by overflowing; that alone is no bad step.
        if not finite and not (self.scaler.is_enabled() and math.isfinite(value)):
            self.bad_steps += 1
            self.log({"step": self.step, "skipped": "non-finite", "rows": _rows_of(group)})
            if self.bad_steps > self.settings.bad_steps:
                raise Refused(
                    f"{self.bad_steps} steps had a non-finite loss or gradient (train.bad_steps is "
                    f"{self.settings.bad_steps}); the last good checkpoint is kept in {self.out}/checkpoints"
                )
        elif finite and self.ema is not None:
            self.ema.update_parameters(nn.ModuleDict({"model": self.model, "objective": self.objective}))
        return {"loss": value, "lr": rate, "grad_norm": norm, **shown, **self.temperatures()}

    def temperatures(self) -> dict[str, float]:
        """Learned temperatures by loss."""
        found = {}
        for term, loss in zip(self.objective.terms, self.objective.losses, strict=True):
            tau = getattr(loss, "tau", None)
            if isinstance(tau, Tensor):
                found[f"{term.name}.temperature"] = tau.item()
        return found

    @torch.no_grad()
    def validate(self) -> None:
        """Mean loss over the validation split, on the weights that would be used."""
        if self.val is None:
            return
        model, objective = self.used()
        kept = checkpoint.random_state()  # validation must not disturb the training's random streams
        model.eval(), objective.eval()
        total = rows = 0.0
        keys = in_order(len(self.val), self.settings.batch_size)
        for batch in batches(self.val, keys, self.settings.workers):
            total += self.loss(batch.to(self.device), model, objective)[0].item() * len(batch)
            rows += len(batch)
        self.model.train(), self.objective.train()
        checkpoint.restore_random(kept)
        self.score = total / rows if rows else None
        self.log({"step": self.step, "val_loss": self.score})

    def used(self) -> tuple[nn.Module, nn.Module]:
        """Model and objective to evaluate with: the averaged ones when there are any."""
        if self.ema is None:
            return self.model, self.objective
        both = self.ema.module
        return both["model"], both["objective"]  # type: ignore[index]

    def log(self, line: dict[str, Any]) -> None:
        """Append to metrics.jsonl (no clock in it: a resumed run writes the same lines) and TensorBoard."""
        with open(self.out / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({k: _finite(v) for k, v in line.items()}) + "\n")
        if self.board is not None:
            for name, value in line.items():
                if name != "step" and isinstance(value, float):
                    self.board.add_scalar(name, value, line["step"])

    def save(self) -> None:
        """Checkpoint the present step."""
        used = self.used()
        trainer = {
            "step": self.step,
            "bad_steps": self.bad_steps,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": checkpoint.random_state(),
        }
        if self.ema is not None:  # then the evaluated weights are not the trained ones
            trainer["trained"] = checkpoint.weights(self.model, self.objective)
            trainer["ema_updates"] = int(self.ema.n_averaged)
        checkpoint.save(self.out, self.step, checkpoint.weights(*used), trainer, self.score, self.settings.keep)

    def restore(self, source: checkpoint.Checkpoint) -> None:
        """Continue as if the run had never stopped after `source`."""
        state = checkpoint.load_trainer(source)
        used = self.used()
        checkpoint.restore(source, *used)
        if self.ema is not None:
            both = nn.ModuleDict({"model": self.model, "objective": self.objective})
            both.load_state_dict(state["trained"])
            self.ema.n_averaged.fill_(state["ema_updates"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.bad_steps, self.score = state["step"], state["bad_steps"], source.score
        checkpoint.restore_random(state["random"])
        _truncate(self.out / "metrics.jsonl", self.step)

    def groups(self) -> Iterator[list[Batch]]:
        """The batches of each remaining step."""
        accumulate = self.settings.accumulate
        order = Order(
            self.plan.rows,
            self.settings.batch_size,
            self.settings.seed,
            start=self.step * accumulate,
            stop=self.plan.steps * accumulate,
        )
        pin = self.device.type == "cuda"
        group = []
        for batch in batches(self.rows, order, self.settings.workers, pin, self.bad_rows.report):
            group.append(batch.to(self.device))
            if len(group) == accumulate:
                yield group
                group = []

    def loop(self, progress: Progress, signals: Signals) -> float:
        """All remaining steps; returns rows per second."""
        self.model.train(), self.objective.train()
        start, first, saved = time.monotonic(), self.step, time.monotonic()
        for group in self.groups():
            shown = self.update(group)
            done, now = self.step == self.plan.steps, time.monotonic()
            if done or self.step % LOG_EVERY == 0 or self.step == 1:
                self.log({"step": self.step, **shown})
            rate = (self.step - first) * self.settings.batch_size * self.settings.accumulate / (now - start)
            progress.step(self.step, self.plan.steps, loss=shown["loss"], rows_per_s=round(rate))
            validated = self.step % self.validate_every == 0 or done
            if validated:
                self.validate()
            timely = now - saved > self.settings.save_minutes * 60 or signals.save
            wanted = self.settings.save_every and self.step % self.settings.save_every == 0
            if done or wanted or timely or signals.stop or (validated and self.val is not None):
                self.save()
                saved, signals.save = time.monotonic(), False
            if signals.stop and not done:
                raise Stopped(
                    f"stopped at step {self.step} of {self.plan.steps}; continue with clx train --resume {self.out}",
                    128 + signals.stop,
                )
        return (
            (self.step - first)
            * self.settings.batch_size
            * self.settings.accumulate
            / (time.monotonic() - start + 1e-9)
        )


def _rows_of(group: list[Batch]) -> list[int]:
    return [int(i) for batch in group for i in batch.sample_id]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _truncate(path: Path, step: int) -> None:
    """Drop the lines after `step`: a resumed run writes them anew."""
    if path.exists():
        kept = []
        for line in path.read_text().splitlines():
            with suppress(ValueError, KeyError):  # a crash may have left half a line
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
        checkpoint.write_text(path, "".join(kept))


def _tensorboard(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise BadInput("train.tensorboard needs the extra: pip install 'clx[tensorboard]'") from None
    return SummaryWriter(out / "tensorboard")


def train(
    config: Config, out: Path, progress: Progress, *, resume: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Train a config into the folder `out`, evaluate the result and return that with the speed.

    With `resume`, `config` is the run's own and training continues after its last checkpoint. Raises
    `BadInput` before anything is written when the config does not fit the data, `Refused` when too many
    steps were non-finite, `Stopped` after a signal.
    """
    if not resume:
        refuse_existing(out, overwrite)
    pick_device(config.train.device)
    splits = load_splits(config.data, config.train.seed)
    plan(config, len(splits["train"]))
    if resume:
        run = build(config, checkpoint.read_facts(out), load=False)
        trainer = Trainer(config, run, splits, out)
        trainer.restore(checkpoint.last(out))
    else:
        run = prepare(config, splits)
        clear(out)
        checkpoint.create(out, run)
        trainer = Trainer(config, run, splits, out)
    progress.say(describe(trainer))
    start = time.monotonic()
    begun = trainer.step
    try:
        with Signals().watched() as signals:
            speed = trainer.loop(progress, signals)
    except BadInput as error:  # a bad row ends the run, not what it has learned
        if trainer.step == begun:
            raise
        trainer.save()
        raise BadInput(f"{error}; saved at step {trainer.step}: mend it and clx train --resume {out}") from None
    used = checkpoint.load(out, "best", trainer.device)
    name = "test" if "test" in splits else "val" if "val" in splits else "train"
    summary: dict[str, Any] = {"schema": SCHEMA, "run": str(out), "steps": trainer.step}
    summary |= {"seconds": round(time.monotonic() - start, 1), "rows_per_s": round(speed), "split": name}
    if config.eval:
        skip = config.data.on_bad_row
        summary["evaluation"] = evaluate(used, splits[name], config.eval, on_bad=skip, strict=False)
        checkpoint.write_text(out / "results.json", json.dumps(summary["evaluation"], indent=1))
    return summary


def refuse_existing(out: Path, overwrite: bool) -> None:
    """A folder with something in it is only written to when it is a run and `overwrite` is said."""
    if not out.exists():
        return
    if not out.is_dir():
        raise BadInput(f"{out} is a file, not a folder for a run")
    if any(out.iterdir()):
        ours = (out / "config.yaml").exists()
        if ours and not checkpoint.checkpoints(out):
            return  # an earlier try that ended before its first checkpoint
        if not overwrite:
            raise BadInput(
                f"{out} already exists: choose another name with --out, continue it with --resume, or replace it "
                "with --overwrite"
            )
        if not ours:
            raise BadInput(f"{out} is not a run folder, so --overwrite leaves it alone; choose another --out")


def clear(out: Path) -> None:
    """Remove what an earlier run left in its folder."""
    for name in ("config.yaml", "facts.json", "metrics.jsonl", "bad_rows.jsonl", "results.json"):
        (out / name).unlink(missing_ok=True)
    for name in ("checkpoints", "tensorboard"):
        shutil.rmtree(out / name, ignore_errors=True)


def dry_run(config: Config) -> dict[str, Any]:
    """What training would do: resolved config, rows, steps, parameters and an estimate of memory in bytes."""
    device = pick_device(config.train.device)
    splits = load_splits(config.data, config.train.seed)
    planned = plan(config, len(splits["train"]))
    run = prepare(config, splits)
    learned = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in run.model.parameters() if not p.requires_grad)
    objective = sum(p.numel() for p in run.objective.parameters())
    return {
        "config": run.config.model_dump(mode="json"),
        "rows": {name: len(manifest) for name, manifest in splits.items()},
        "batches_per_epoch": planned.per_epoch,
        "steps": planned.steps,
        "device": str(device),
        "precision": str(pick_precision(config.train.precision, device)).removeprefix("torch."),
        "parameters": {"learned": learned, "frozen": frozen, "objective": objective},
        "memory": estimate_memory(config, run, splits["train"], learned, frozen),
    }


def estimate_memory(config: Config, run: Run, manifest: Manifest, learned: int, frozen: int) -> dict[str, int]:
    """Bytes for weights with gradients and optimiser state, and for one batch's inputs and activations.

    Activations are measured: the tensors that autograd keeps for a few rows, scaled to the batch size.
    """
    copies = 4 + (1 if config.train.ema else 0)  # weights, gradients, two moments, the average
    few = min(8, len(manifest))
    data = Rows(manifest, run.modalities, label=config.data.label, classes=run.class_index, augment=True)
    batch = next(batches(data, [in_order(few, few)[0]]))
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    parameters = {p.untyped_storage().data_ptr() for p in run.model.parameters()}
    run.model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        z = run.model(batch.inputs, batch.present)
    del z
    held = sum(size for pointer, size in kept.items() if pointer not in parameters)
    inputs = sum(t.untyped_storage().nbytes() for value in batch.inputs.values() for t in value.values())
    scale = config.train.batch_size / few
    parts = {
        "weights": 4 * (learned * copies + frozen),
        "inputs": int(inputs * scale),
        "activations": int(held * scale),
    }
    return parts | {"total": sum(parts.values())}


def describe(trainer: Trainer) -> str:
    """One line on what is about to happen."""
    precision = str(trainer.dtype).removeprefix("torch.")
    learned = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    at = f", from step {trainer.step}" if trainer.step else ""
    return (
        f"{trainer.plan.rows} rows, {trainer.plan.steps} steps{at}, {learned / 1e6:.2f} M parameters to learn, "
        f"on {trainer.device} in {precision}, seed {trainer.settings.seed}"
    )
