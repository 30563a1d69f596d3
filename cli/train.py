"""`clx train`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from clx.cli.evaluate import show_evaluation
from clx.cli.output import cell, emit_json, emit_table, note, progress

Settings = Annotated[
    list[str],
    typer.Option("-s", "--set", metavar="KEY=VALUE", help="Override a config key, e.g. train.lr=1e-3."),
]


def train(
    source: Annotated[str | None, typer.Argument(metavar="RECIPE|FILE", help="Recipe name, or YAML/TOML file.")] = None,
    settings: Settings = [],  # noqa: B006 (Typer wants the literal)
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Run folder [default: runs/NAME].")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the run in this folder; --steps or --epochs change its length.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the run in the folder.")] = False,
    epochs: Annotated[int | None, typer.Option(help="train.epochs")] = None,
    steps: Annotated[int | None, typer.Option(help="train.steps")] = None,
    batch_size: Annotated[int | None, typer.Option(help="train.batch_size")] = None,
    device: Annotated[str | None, typer.Option(help="train.device: auto, cpu, cuda, cuda:1, mps")] = None,
    seed: Annotated[int | None, typer.Option(help="train.seed")] = None,
    dry_run: Annotated[bool, typer.Option(help="Print what would be done, and stop.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Train encoders into one space; ends with an evaluation.

    Flags win over -s, -s over the file. Examples:

    clx train digits

    clx train my.yaml -s objective.temperature=0.1 --device cuda

    clx train --resume runs/digits

    clx train --resume runs/digits --steps 300
    """
    from clx.pipelines.config.load import load_config
    from clx.pipelines.system.errors import BadInput

    flags = {
        "train.epochs": epochs,
        "train.steps": steps,
        "train.batch_size": batch_size,
        "train.device": device,
        "train.seed": seed,
    }
    if resume is not None:
        if source or out or overwrite:
            raise BadInput("--resume goes on with the run in its own folder: no recipe, --out or --overwrite")
        from clx.pipelines.runs.folder import read_config

        given = [f"{key}={value}" for key, value in flags.items() if value is not None]
        config = read_config(resume, [*settings, *given])
    elif source is None:
        raise BadInput("say what to train: a recipe (clx recipes lists them) or a config file")
    else:
        config = load_config(source, settings, flags)
    from clx.pipelines.experiments import train as pipeline
    from clx.pipelines.runs.folder import run_name
    from clx.pipelines.training.dry_run import dry_run as planned

    if dry_run:
        show_plan(planned(config), json)
        return
    folder = resume or out or Path("runs") / run_name(Path(source or "").stem)
    with progress() as shown:
        summary = pipeline.train(config, folder, shown, resume=resume is not None, overwrite=overwrite)
    if json:
        emit_json(summary)
        return
    if "evaluation" in summary:
        show_evaluation(summary["evaluation"])
    done = f"{summary['steps_now']} of {summary['steps']} steps"
    note(f"{done} in {summary['seconds']} s, {summary['rows_per_s']} rows/s; saved in {folder}")
    best = summary["evaluation"]["step"] if "evaluation" in summary else summary["steps"]
    if best != summary["steps"]:
        note(f"the figures are of step {best}, the best on val rows (of the last: clx eval {folder} --checkpoint last)")


def show_plan(plan: dict[str, object], json: bool) -> None:
    if json or not sys.stdout.isatty():
        emit_json(plan)
        return
    import yaml

    print(yaml.safe_dump(plan.pop("config"), sort_keys=False, allow_unicode=True))
    memory = plan.pop("memory")
    assert isinstance(memory, dict)
    lines = [
        {"what": key, "value": ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value}
        for key, value in plan.items()
    ]
    lines += [{"what": f"memory: {key}", "value": f"{cell(value / 2**20)} MiB"} for key, value in memory.items()]
    emit_table(lines)
