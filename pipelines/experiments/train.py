"""`clx train` from config to evaluated run folder, and what it would do without doing it."""

import json
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from warnings import warn

from clx.pipelines.batches.columns import said_of_readings
from clx.pipelines.batches.cuts import cut_lines, guessed_lines
from clx.pipelines.batches.telling_columns import say_understood
from clx.pipelines.config.load import dump
from clx.pipelines.config.packages import check_packages
from clx.pipelines.config.schema import Config
from clx.pipelines.config.secrets import secrets_of
from clx.pipelines.data.leaks import warn_of_leaks
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.shared_content import inputs_of
from clx.pipelines.data.splits import load_splits
from clx.pipelines.evaluation.evaluate import evaluate
from clx.pipelines.evaluation.evaluated_rows import source_in
from clx.pipelines.evaluation.results import SCHEMA, save
from clx.pipelines.experiments.first_line import describe
from clx.pipelines.experiments.rooted import rooted
from clx.pipelines.experiments.run_folder import Claim, claimed, held, writes
from clx.pipelines.experiments.steps_left import steps_left
from clx.pipelines.model.build import prepare
from clx.pipelines.model.idle_parts import unseen_lines
from clx.pipelines.runs import checkpoint, state
from clx.pipelines.runs.card import write_card
from clx.pipelines.runs.folder import CONFIG, DRAWN, LAST, PROFILE, refuse_existing
from clx.pipelines.runs.stages import folder_before, stage_config, stage_folder
from clx.pipelines.system.devices import pick_device
from clx.pipelines.system.durable_files import locked, write_text
from clx.pipelines.system.errors import BadInput, ClxWarning, Stopped, explain_out_of_memory
from clx.pipelines.system.phases import Phases, measured
from clx.pipelines.system.process_group import Group
from clx.pipelines.system.progress import Progress
from clx.pipelines.system.text import finite
from clx.pipelines.training.rechunked import check_rechunked
from clx.pipelines.training.remembered import REMEMBERED, write_remembered
from clx.pipelines.training.resume import relengthened
from clx.pipelines.training.schedule import Plan, length_of, plan
from clx.pipelines.training.stages import check_stages, told
from clx.pipelines.training.trainer import Trainer
from clx.pipelines.training.transfer import take_over


def train(
    config: Config,
    out: Path,
    progress: Progress,
    *,
    resume: bool = False,
    overwrite: bool = False,
    group: Group | None = None,
    profile: bool = False,
    until: int | None = None,
) -> dict[str, Any]:
    """Train a config into the folder `out`, evaluate the result and return that with the speed.

    With `resume`, `config` is the run's own, but for its `CHANGEABLE` keys (see `relengthened`), and training
    continues after its last whole checkpoint. With `group`, this process is one of several that train together, all
    called alike, and rank 0 alone writes and has figures. With `profile`, where the time of the first steps went is in
    the result and in the file `profile.json` of the folder; of several stages, of the steps of the last. With `until`,
    the run pauses after that step, of the last stage: it is saved, not evaluated, and can be resumed.

    Raises `BadInput` before anything is written when the config does not fit the data or another process trains there,
    `Refused` when too many steps were non-finite, `Failed` when the disk is full, `Stopped` after a signal, `Paused`
    at `until`.
    """
    if profile:
        with measured(Phases()) as phases:
            summary = train(config, out, progress, resume=resume, overwrite=overwrite, group=group, until=until)
        summary["profile"] = phases.figures()
        if writes(group):
            write_text(out / PROFILE, json.dumps(finite(summary["profile"])))
        return summary
    if not resume and writes(group):
        refuse_existing(out, overwrite)
    if config.train.shard:
        from clx.pipelines.training.sharding import refuse_shard

        refuse_shard(config.train, group)
    check_packages(config)
    pick_device(config.train.device if group is None else group.device(config.train.device))
    config = rooted(config)
    splits = load_splits(config.data, config.train.seed, inputs=inputs_of(config))
    if not resume:
        warn_of_leaks(splits, config)
        for secret in secrets_of(config):
            said = "what gives access in this URL is kept in the run's config.yaml, for eval and --resume"
            warn(f"{secret}: {said}", ClxWarning, stacklevel=2)
    if resume and (not config.stages or checkpoint.checkpoints(out)):  # else the last of its stages is not begun
        return go_on(config, splits, out, progress, group, until)
    begin = in_stages if any(stage.run is None for stage in config.stages[:-1]) else begin_anew
    return begin(config, splits, out, progress, None if resume else partial(claimed, out, overwrite), group, until)


def begin_anew(
    config: Config,
    splits: dict[str, Manifest],
    out: Path,
    progress: Progress,
    claim: Claim,
    group: Group | None,
    until: int | None,
) -> dict[str, Any]:
    """A run from its first step, on new towers or on those of an earlier run."""
    planned = plan(config, len(splits["train"]))
    if not config.stages:
        run = prepare(config, splits)
        for column, reading in said_of_readings(run.modalities, splits["train"]).items():
            progress.say(f"column {column}: {reading}")
    else:
        run = take_over(config, splits, begun_with(config, out), progress.say)
    say_understood(run.config, run.modalities, splits, progress.say)
    trainer = Trainer(run, splits, planned, out, group)
    with held(out, run, planned.steps, claim, group):
        return finish(trainer, splits, progress, until)


def in_stages(
    config: Config,
    splits: dict[str, Manifest],
    out: Path,
    progress: Progress,
    claim: Claim,
    group: Group | None,
    until: int | None,
) -> dict[str, Any]:
    """The stages before the last in their folders, or what an earlier try left of them, and then the run itself.

    All are checked before the first begins.
    """
    planned = plan(config, len(splits["train"]))
    checked = check_stages(config, splits)
    say_understood(checked.last.config, checked.last.modalities, splits, progress.say)
    with held(out, checked.last, planned.steps, claim, group):
        for k, (one, length) in checked.before.items():
            progress.say(told(config, k, one, length))
            do_stage(stage_config(config, k, one, out), length, k, out, progress, group)
        progress.say(told(config, len(config.stages) - 1, config, planned))
        run = take_over(config, splits, begun_with(config, out), progress.say)
        if writes(group):
            checkpoint.create(out, run)
        return finish(Trainer(run, splits, planned, out, group), splits, progress, until)


def go_on(
    config: Config,
    splits: dict[str, Manifest],
    out: Path,
    progress: Progress,
    group: Group | None,
    until: int | None,
) -> dict[str, Any]:
    """A run after its last whole checkpoint, perhaps of another length than it was."""
    config, longer = relengthened(config, out, len(splits["train"]))
    planned = plan(config, len(splits["train"]))
    run = checkpoint.rebuild(out, config, checkpoint.read_facts(out))
    run.before = folder_before(config, out)
    trainer = Trainer(run, splits, planned, out, group)
    with locked(out) if writes(group) else nullcontext():
        source, before = checkpoint.last(out), checkpoint.read_config(out)
        checkpoint.warn_of_change(out, source)
        check_rechunked(trainer.learner.model, trainer.rows, before.train, config.train)
        trainer.restore(source)
        if longer:
            trainer.course.stale = 0  # what `train.patience` has counted was of the shorter run
        if (trainer.over or trainer.stale) and state.recorded_state(out) == "finished":
            done = (
                f"train.patience ended it at step {trainer.step}"
                if trainer.stale
                else f"all its {length_of(config.train, planned.steps)} are done and evaluated"
            )
            key = "steps" if planned.steps else "minutes"
            raise BadInput(f"{out} is finished: {done}; -s train.{key}=N makes it longer")
        now, then = ((c.data, c.train.chunk, c.train.shard) for c in (config, before))
        changed = bool(longer) or now != then
        if group is not None:
            group.wait()  # until all have read what is written anew below
        if not writes(group):
            return finish(trainer, splits, progress, until)
        if longer:
            progress.say(longer)
            for name in (LAST, DRAWN):
                (out / name).unlink(missing_ok=True)  # figures of the shorter run
        if changed:
            write_text(out / CONFIG, dump(config))
        with state.recorded(out, planned.steps, resume=True):
            return finish(trainer, splits, progress, until)


def begun_with(config: Config, out: Path) -> Path:
    """The run folder whose towers are taken over."""
    folder = folder_before(config, out)
    assert folder is not None
    return folder


def do_stage(config: Config, length: Plan, k: int, out: Path, progress: Progress, group: Group | None) -> None:
    """Do stage `k` of the run in `out`, or what an earlier try left of it."""
    folder = stage_folder(out, k)
    begun = checkpoint.checkpoints(folder)
    if group is not None:
        group.wait()  # until all have looked
    if begun and (begun[-1].step == length.steps or state.recorded_state(folder) == "finished"):
        return
    try:
        train(config, folder, progress, resume=bool(begun), group=group)
        if group is not None:
            group.wait()  # until it is saved
    except Stopped as stopped:
        hint = f"in stage {k + 1}; clx train --resume {out} continues it"
        raise Stopped(f"{str(stopped).partition(';')[0]} {hint}", stopped.exit_code) from None


def finish(trainer: Trainer, splits: dict[str, Manifest], progress: Progress, until: int | None) -> dict[str, Any]:
    """The steps that are left, and the evaluation. Raises `Paused` after step `until`."""
    config, out = trainer.run.config, trainer.out
    progress.say(describe(trainer))
    if trainer.settings.compile:
        progress.say("train.compile: the first step takes minutes, in which encoders are compiled and nothing is said")
    unseen = unseen_lines(trainer.run.config, trainer.run.model)
    for line in [*unseen, *guessed_lines(trainer.run.modalities), *cut_lines(splits["train"], trainer.run.modalities)]:
        progress.say(line)
    start, begun = time.monotonic(), trainer.step
    speed = steps_left(trainer, progress, until)
    if trainer.writes and trainer.step > begun:
        state.note(out, rows_per_s=float(speed), **({} if trainer.plan.steps else {"steps": trainer.step}))
    if trainer.writes and write_remembered(out, trainer.learner.objective, splits["train"], config.data.label_column):
        progress.say(f"what was learned of each training row: {out / REMEMBERED}")
    name = "test" if "test" in splits else "val" if "val" in splits else "train"
    summary: dict[str, Any] = {
        "schema": SCHEMA,
        "run": str(out),
        "steps": trainer.step,
        "steps_now": trainer.step - begun,
        "seconds": round(time.monotonic() - start, 1),
        "rows_per_s": round(speed),
        "split": name,
    }
    if trainer.group is not None:
        trainer.group.wait()  # until all is saved
    if config.eval and not trainer.writes:
        _evaluate(trainer, splits, name)
    elif config.eval:
        if name == "train":
            progress.say("there are no val or test rows: these figures are of the training rows")
        elif name == "val":
            progress.say("there are no test rows: these figures are of the val rows, which chose the checkpoint")
        summary["evaluation"] = _evaluate(trainer, splits, name)
    if trainer.writes:
        state.note(out, **{f"{split}_rows": len(rows) for split, rows in splits.items()})
        write_card(out)
    return summary


def _evaluate(trainer: Trainer, splits: dict[str, Manifest], name: str) -> dict[str, Any]:
    """Figures of the best checkpoint on a split, also in results.json."""
    config, out = trainer.run.config, trainer.out
    draws: dict[str, Any] = {}
    cpu = "" if trainer.learner.device.type == "cpu" else " --device cpu"
    try:
        with explain_out_of_memory(lambda: f"in the evaluation; the run is trained and saved: clx eval {out}{cpu}"):
            result = evaluate(
                checkpoint.load(out, "best", trainer.learner.device),
                source_in(splits, name),
                config.eval,
                model=str(out),
                strict=False,
                on_bad=config.data.on_bad_row,
                report=partial(trainer.bad_rows.report, split=name),
                group=trainer.group,
                draws=draws,
            )
    except BadInput as error:
        raise BadInput(f"trained and saved in {out}, but its evaluation failed: {error}") from None
    except Stopped as error:
        raise Stopped(
            f"trained and saved in {out}; {error} before it was evaluated: clx eval {out}", error.exit_code
        ) from None
    if trainer.writes:
        save(out, result, draws, ended=True)
    return result
