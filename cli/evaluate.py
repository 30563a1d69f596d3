"""`clx eval`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clx.cli.output import emit_json, emit_table, note


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    task: Annotated[
        list[str], typer.Option(help="zeroshot or retrieval; repeatable [default: all that the data allow]")
    ] = [],  # noqa: B006
    data: Annotated[str | None, typer.Option(help="A manifest with the run's columns [default: the run's own]")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test [default: test, else val]")] = None,
    checkpoint: Annotated[str, typer.Option(help="best, last, or a step")] = "best",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")] = "auto",
    skip_bad_rows: Annotated[bool, typer.Option(help="Leave bad rows out, naming them, and go on.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Evaluate a run on its test split or on another manifest.

    Examples:

    clx eval runs/digits

    clx eval runs/digits --task zeroshot --data more.csv --json
    """
    from clx.pipelines.config import TASKS, BadInput, nearest

    for name in task:
        if name not in TASKS:
            raise BadInput(f"unknown task {name!r}{nearest(name, TASKS)}")
    from clx.pipelines.evaluate import evaluate_run

    result = evaluate_run(
        run,
        task,
        data=data,
        split=split,
        checkpoint=checkpoint,
        device=device,
        skip_bad=skip_bad_rows,
        say=note,
    )
    if json:
        emit_json(result)
        return
    show_evaluation(result)


def show_evaluation(result: dict[str, Any]) -> None:
    """A table per task, and on stderr why tasks were left out."""
    from clx.pipelines.evaluate import tables

    for name, reason in result.get("skipped", {}).items():
        note(f"{name} skipped: {reason}")
    data, split = result["data"], result["split"]
    source = data if data.endswith(split) else f"{data}, {split} rows"
    for task, rows in tables(result).items():
        emit_table(rows, title=f"{task} on {source}", hidden="task")
