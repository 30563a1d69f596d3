"""`clx train`."""

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clx.cli import options
from clx.cli.evaluation_tables import show_evaluation, tell_skipped
from clx.cli.inputs import refuse_two_lengths
from clx.cli.output import cell, emit_json, emit_table, figures, note, note_table, progress
from clx.cli.ranks import RESUME, is_first, quiet, together
from clx.pipelines.system.progress import Silent
from clx.pipelines.system.remote import shown

if TYPE_CHECKING:
    from clx.pipelines.config.schema import Config


def train(
    source: Annotated[str | None, typer.Argument(metavar="RECIPE|FILE", help="Recipe name, or YAML/TOML file.")] = None,
    settings: options.Settings = [],  # noqa: B006 (Typer wants the literal)
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Run folder [default: runs/NAME].")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Continue the run in this folder; --steps, --epochs or --minutes change its length."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the run in the folder.")] = False,
    epochs: Annotated[int | None, typer.Option(help="train.epochs")] = None,
    steps: Annotated[int | None, typer.Option(help="train.steps")] = None,
    minutes: Annotated[float | None, typer.Option(help="train.minutes: wall time instead of steps")] = None,
    batch_size: Annotated[int | None, typer.Option(help="train.batch_size")] = None,
    device: Annotated[str | None, typer.Option(help="train.device: auto, cpu, cuda, cuda:1, mps")] = None,
    seed: Annotated[int | None, typer.Option(help="train.seed")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Train on so many processes of this machine, one for each GPU.")
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Tell where the time of the first steps goes.")] = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Train encoders into one space; ends with an evaluation.

    Flags win over -s, -s over the file. Examples:

    clx train digits

    clx train my.yaml -s objective.temperature=0.1 --device cuda

    clx train --resume runs/digits

    clx train --resume runs/digits --steps 300

    clx train my.yaml --processes 4, torchrun --nproc-per-node 4 --no-python clx train my.yaml, srun clx train my.yaml
    """
    flags = {
        "train.epochs": epochs,
        "train.steps": steps,
        "train.minutes": minutes,
        "train.batch_size": batch_size,
        "train.device": device,
        "train.seed": seed,
    }
    refuse_two_lengths(settings, flags)
    if dry_run and (profile or processes):
        from clx.pipelines.system.errors import BadInput

        raise BadInput("--dry-run trains nothing, and plans for one process: leave out --profile and --processes")
    placed = out is not None or overwrite
    configured = partial(config_of, source, resume, settings, flags, placed)
    # before processes are started, what is wrong is said once, and at once
    with together(processes, RESUME, configured) as group:
        config = configured()
        from clx.pipelines.runs.folder import refuse_existing, run_name

        folder = resume or out or Path("runs") / run_name(Path(source or "").stem)
        if is_first(group):
            if resume is None and not dry_run:
                refuse_existing(folder, overwrite)
            note(f"reading {', '.join(map(shown, config.data.sources))}")  # to import torch takes seconds
        from clx.pipelines.experiments import train as pipeline
        from clx.pipelines.training.dry_run import dry_run as planned

        if dry_run:
            if is_first(group):
                show_plan(planned(config, note), json)
            return
        with quiet(group), progress() if is_first(group) else nullcontext(Silent()) as drawn:
            summary = pipeline.train(
                config, folder, drawn, resume=resume is not None, overwrite=overwrite, group=group, profile=profile
            )
        if not is_first(group):
            return
        tell_skipped(summary.get("evaluation", {}))
        if json:
            emit_json(summary)
        else:
            show_summary(summary, folder)


def config_of(
    source: str | None, resume: Path | None, settings: list[str], flags: dict[str, Any], placed: bool
) -> "Config":
    """The config of a new run, or of the one that goes on. Raises `BadInput`, also where it is told another place."""
    from clx.pipelines.config.load import load_config
    from clx.pipelines.runs.folder import read_config
    from clx.pipelines.system.errors import BadInput

    if resume is not None:
        if source or placed:
            raise BadInput("--resume goes on with the run in its own folder: no recipe, --out or --overwrite")
        return read_config(resume, settings, flags)
    if source is None:
        raise BadInput("say what to train: a recipe (clx recipes lists them) or a config file")
    return load_config(source, settings, flags)


def show_summary(summary: dict[str, Any], folder: Path) -> None:
    """The figures of a trained run, and on stderr how it went."""
    if "evaluation" in summary:
        show_evaluation(summary["evaluation"])
    done = f"{summary['steps_now']} of {summary['steps']} steps"
    note(f"{done} in {summary['seconds']} s, {summary['rows_per_s']} rows/s; saved in {folder}")
    best = summary["evaluation"]["step"] if "evaluation" in summary else summary["steps"]
    if "profile" in summary:
        show_profile(summary["profile"])
    if best != summary["steps"]:
        note(f"the figures are of step {best}, the best on val rows (of the last: clx eval {folder} --checkpoint last)")


def show_profile(profile: dict[str, Any]) -> None:
    """Where the time of a step goes, on stderr."""
    names = [name for name in ("phase", "ms", "host_ms", "share", "times") if any(name in r for r in profile["phases"])]
    note(f"of a step, over {profile['turns']} steps (a phase with `times`: over all):")
    note_table([{name: row.get(name) for name in names} for row in profile["phases"]])


def show_plan(plan: dict[str, object], json: bool) -> None:
    """What a run would do: its config, and figures such as its steps and the memory that it takes."""
    if json or not sys.stdout.isatty():
        emit_json(plan)
        return
    import yaml

    print(yaml.safe_dump(plan.pop("config"), sort_keys=False, allow_unicode=True))
    memory = plan.pop("memory")
    assert isinstance(memory, dict)
    batches = plan.pop("batches", {})
    assert isinstance(batches, dict)
    lines = figures(plan) + figures(batches)
    lines += [{"what": f"memory: {key}", "value": f"{cell(value / 2**20)} MiB"} for key, value in memory.items()]
    emit_table(lines)
