"""`clx train` from config to evaluated run folder, and what it would do without doing it."""

import re
import time
from functools import partial
from pathlib import Path
from typing import Any

from clx.pipelines.batches.loader import Lost
from clx.pipelines.config.load import dump, first_stage
from clx.pipelines.config.objects import make_losses, make_modalities
from clx.pipelines.config.schema import Config
from clx.pipelines.data.builtin import is_builtin
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.splits import load_splits
from clx.pipelines.evaluation.evaluate import evaluate
from clx.pipelines.evaluation.evaluated_rows import source_in
from clx.pipelines.evaluation.results import SCHEMA, save
from clx.pipelines.model.build import prepare
from clx.pipelines.model.checks import check_needs
from clx.pipelines.runs import checkpoint, state
from clx.pipelines.runs.folder import LAST, clear, refuse_existing
from clx.pipelines.system.devices import pick_device
from clx.pipelines.system.durable_files import locked, write_text
from clx.pipelines.system.errors import BadInput, Stopped, in_memory
from clx.pipelines.system.progress import Progress
from clx.pipelines.system.signals import Signals
from clx.pipelines.training.schedule import plan, rate_at, warm_up
from clx.pipelines.training.trainer import Trainer
from clx.pipelines.training.transfer import take_over


def train(
    config: Config, out: Path, progress: Progress, *, resume: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Train a config into the folder `out`, evaluate the result and return that with the speed.

    With `resume`, `config` is the run's own, but for its `CHANGEABLE` keys (see `relengthened`), and training
    continues after its last whole checkpoint. Raises `BadInput` before anything is written when the config does not
    fit the data or another process trains there, `Refused` when too many steps were non-finite, `Failed` when the
    disk is full, `Stopped` after a signal.
    """
    if not resume:
        refuse_existing(out, overwrite)
    pick_device(config.train.device)
    config = rooted(config)
    splits = load_splits(config.data, config.train.seed)
    first = first_folder(config, out)
    begun = resume and (first is None or bool(checkpoint.checkpoints(out)))  # else only its first stage is
    staged = not begun and config.pretrain is not None and config.pretrain.run is None
    said = None
    if begun:
        config, said = relengthened(config, out, len(splits["train"]))
    steps = plan(config, len(splits["train"])).steps
    if begun:
        run = checkpoint.rebuild(out, config, checkpoint.read_facts(out))
    elif first is not None and not staged:
        run = take_over(config, splits, first, progress.say)
    else:
        run = prepare(config, splits)
    if staged:
        check_first(config, splits)
    trainer = None if staged else Trainer(run.config, run, splits, out)
    with locked(out):
        if trainer is not None and begun:
            source = checkpoint.last(out)
            checkpoint.warn_of_change(out, source)
            trainer.restore(source)
            if trainer.step == steps and state.recorded_state(out) == "finished":
                raise BadInput(
                    f"{out} is finished: all its {steps} steps are done and evaluated; -s train.steps=N makes it longer"
                )
            if said:
                progress.say(said)
                (out / LAST).unlink(missing_ok=True)  # figures of the shorter run
            if said or config.data != checkpoint.read_config(out).data:  # which may say now what to do with bad rows
                write_text(out / "config.yaml", dump(config))
        elif not resume:
            refuse_existing(out, overwrite)  # again: another run may have been there first
            clear(out)
            checkpoint.create(out, run)
        with state.recorded(out, steps, resume):
            if trainer is None:
                assert first is not None
                pretrain(config, splits, first, progress)
                run = take_over(config, splits, first, progress.say)
                checkpoint.create(out, run)
                trainer = Trainer(run.config, run, splits, out)
            return _train(trainer, splits, progress)


def _train(trainer: Trainer, splits: dict[str, Manifest], progress: Progress) -> dict[str, Any]:
    """The steps that are left, and the evaluation."""
    config, out = trainer.run.config, trainer.out
    progress.say(describe(trainer))
    start = time.monotonic()
    begun = trainer.step
    try:
        with Signals().watched() as signals, in_memory(partial(short_of_memory, trainer)):
            speed = trainer.loop(progress, signals)
    except (BadInput, Lost) as error:  # the data end the run, not what it has learned
        skipping = isinstance(error, Lost) or config.data.on_bad_row == "skip"
        hint = "" if skipping else " (-s data.on_bad_row=skip trains without such rows)"
        if trainer.step == begun and trainer.saved < 0:
            raise type(error)(f"{error}{hint}") from None
        if trainer.saved != trainer.step:
            trainer.save()
        then = f"saved at step {trainer.step}: mend it and clx train --resume {out}"
        raise type(error)(f"{error}{hint}; {then}") from None
    finally:
        trainer.metrics.close()
    name = "test" if "test" in splits else "val" if "val" in splits else "train"
    summary: dict[str, Any] = {
        "schema": SCHEMA,
        "run": str(out),
        "steps": trainer.step,
        "steps_now": trainer.step - begun,
    }
    summary |= {"seconds": round(time.monotonic() - start, 1), "rows_per_s": round(speed), "split": name}
    if config.eval:
        if name == "train":
            progress.say("there are no val or test rows: these figures are of the training rows")
        elif name == "val":
            progress.say("there are no test rows: these figures are of the val rows, which chose the checkpoint")
        summary["evaluation"] = _evaluate(trainer, splits, name)
    return summary


def short_of_memory(trainer: Trainer) -> str:
    """Where memory ran out, and what to do. Nothing is saved then: the step may be half done."""
    size, half = trainer.settings.batch_size, max(2, trainer.settings.batch_size // 2)
    said = f"after step {trainer.step} of {trainer.plan.steps} with train.batch_size = {size}: "
    said += f"train anew with fewer rows at a time (--batch-size {half})"
    if trainer.saved < 0:
        return said
    return f"{said}, or, with more memory, clx train --resume {trainer.out} goes on from step {trainer.saved}"


def _evaluate(trainer: Trainer, splits: dict[str, Manifest], name: str) -> dict[str, Any]:
    """Figures of the best checkpoint on a split, also in results.json."""
    config, out = trainer.run.config, trainer.out
    cpu = "" if trainer.device.type == "cpu" else " --device cpu"
    try:
        with in_memory(lambda: f"in the evaluation; the run is trained and saved: clx eval {out}{cpu}"):
            result = evaluate(
                checkpoint.load(out, "best", trainer.device),
                source_in(splits, name),
                config.eval,
                model=str(out),
                strict=False,
                on_bad=config.data.on_bad_row,
                report=partial(trainer.bad_rows.report, split=name),
            )
    except BadInput as error:
        raise BadInput(f"trained and saved in {out}, but its evaluation failed: {error}") from None
    except Stopped as error:
        raise Stopped(
            f"trained and saved in {out}; {error} before it was evaluated: clx eval {out}", error.exit_code
        ) from None
    save(out, result, ended=True)
    return result


def relengthened(config: Config, out: Path, rows: int) -> tuple[Config, str | None]:
    """The config to go on with, and a line on what changes when its length is not that of the run in `out`.

    The schedule becomes that of the new length, except that the warm-up stays as many steps as it was: a constant
    rate goes on as it is; a cosine stands where the longer cosine stands at this step, above the zero it had come
    to. Raises `BadInput` when fewer steps are asked for than are done.
    """
    before = checkpoint.read_config(out)
    if config.train.epochs != before.train.epochs and before.train.steps:
        raise BadInput(f"train.epochs: the length of {out} is train.steps = {before.train.steps}; set that")
    old, new = plan(before, rows).steps, plan(config, rows).steps
    if new == old:
        return config, None
    done = checkpoint.last(out).step
    if new < done:
        raise BadInput(f"train.steps: {done} steps are done already, so {out} cannot end after {new}")
    warm = warm_up(old, before.train)
    share = min(1.0, max(0.0, warm - 0.5) / new)  # rounded up, this is `warm` steps again
    config = config.model_copy(update={"train": config.train.model_copy(update={"warmup": share})})
    was, now = rate_at(min(done, old - 1), old, before.train), rate_at(min(done, new - 1), new, config.train)
    rate = f"at step {done} its learning rate ({config.train.schedule}) was {was:.2g} and goes on from {now:.2g}"
    return config, f"{out} now ends after {new} steps instead of {old}: {rate}"


def run_name(text: str) -> str:
    """A folder name from any text: no separators, no control characters, nothing hidden.

    >>> run_name("lr=1e-3, ../x")
    'lr-1e-3-..-x'
    """
    return re.sub(r"[^\w.]+", "-", text).strip("-.")[:100] or "run"


def first_folder(config: Config, out: Path) -> Path | None:
    """The run folder that pre-training is in, or will be."""
    if config.pretrain is None:
        return None
    return out / "pretrain" if config.pretrain.run is None else Path(config.pretrain.run)


def check_first(config: Config, splits: dict[str, Manifest]) -> None:
    """Raise `BadInput` when the first stage could not run, before anything is written."""
    first = first_stage(config)
    check_needs(first, make_losses(first), splits["train"], make_modalities(first))
    plan(first, len(splits["train"]))


def pretrain(config: Config, splits: dict[str, Manifest], folder: Path, progress: Progress) -> None:
    """Do the first stage of a run, or what an earlier try left of it."""
    assert config.pretrain is not None
    if config.pretrain.run is not None:
        return
    first = first_stage(config)
    begun = checkpoint.checkpoints(folder)
    if begun and begun[-1].step == plan(first, len(splits["train"])).steps:
        return
    progress.say("pre-training" + (" goes on" if begun else ""))
    try:
        train(first, folder, progress, resume=bool(begun))
    except Stopped as stopped:
        hint = f"in pre-training; clx train --resume {folder.parent} continues it"
        raise Stopped(f"{str(stopped).partition(';')[0]} {hint}", stopped.exit_code) from None


def rooted(config: Config) -> Config:
    """The same with absolute paths, so that a run finds its data, and what it began from, from any folder."""
    data = config.data

    def place(source: str) -> str:
        return str(Path(source).absolute()) if not is_builtin(source) and Path(source).exists() else source

    found = {"train": place(data.train)}
    found |= {key: place(value) for key in ("val", "test") if isinstance(value := getattr(data, key), str)}
    changes: dict[str, Any] = {"data": data.model_copy(update=found)}
    if config.pretrain is not None and config.pretrain.run is not None:
        begun = str(Path(config.pretrain.run).absolute())
        changes["pretrain"] = config.pretrain.model_copy(update={"run": begun})
    return config.model_copy(update=changes)


def describe(trainer: Trainer) -> str:
    """One line on what is about to happen."""
    precision = str(trainer.dtype).removeprefix("torch.")
    learned = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    at = f", from step {trainer.step}" if trainer.step else ""
    return (
        f"{trainer.plan.rows} rows, {trainer.plan.steps} steps{at}, {learned / 1e6:.2f} M parameters to learn, "
        f"on {trainer.device} in {precision}, seed {trainer.settings.seed}"
    )
