"""`clx doctor`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from clx.cli import options
from clx.cli.output import emit_json, emit_table, note, progress


def doctor(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="A run that does not learn [default: this machine].")
    ] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Run its first step that was not finite again: which tensor began it.")
    ] = False,
    lr_range: Annotated[
        bool,
        typer.Option("--lr-range", help="Train 100 steps anew at a rising learning rate: which rates it bears."),
    ] = False,
    device: Annotated[str | None, typer.Option(help="Of a run: auto, cpu, cuda, cuda:1, mps.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder that runs are written to.")] = Path("runs"),
    imports: Annotated[bool, typer.Option(help="Import the large libraries too, which takes half a minute.")] = False,
    json: options.Json = False,
) -> None:
    """Tell what this machine lacks, or why a run does not learn.

    Each line says what to do about it. Exit code 3 when something is broken that clx needs, and when a run has a
    problem. A run stays as it is. Examples:

    clx doctor

    clx doctor runs/x

    clx doctor runs/x --replay

    clx doctor --json | jq -r '.[] | select(.level == "broken") | .advice'
    """
    from clx.pipelines.system.errors import BadInput

    if run is None:
        if replay or lr_range or device:
            raise BadInput("--replay, --lr-range and --device are about a run: clx doctor RUN --replay")
        machine(runs, imports, json)
    elif imports:
        raise BadInput("--imports is about this machine: leave it out, or the run")
    elif replay and lr_range:
        raise BadInput("--replay and --lr-range are two examinations: ask for one at a time")
    elif replay:
        show_replay(run, device, json)
    elif lr_range:
        show_lr_range(run, device, json)
    else:
        show_findings(run, device, json)


def machine(runs: Path, imports: bool, json: bool) -> None:
    """Rows of the machine; refused where something is broken."""
    from clx.pipelines.system.doctor import examine
    from clx.pipelines.system.errors import Refused

    rows = list(examine(runs, imports))
    show(rows, json)
    broken = [row["check"] for row in rows if row["level"] == "broken"]
    if broken:
        raise Refused(f"broken: {', '.join(broken)}")


def show(rows: list[dict[str, Any]], json: bool) -> None:
    """Rows as data, and what to do as lines for the person at the terminal."""
    if json:
        emit_json(rows)
    elif sys.stdout.isatty():
        emit_table([{key: value for key, value in row.items() if key != "advice"} for row in rows])
    else:
        emit_table(rows)
    if not json:
        for row in rows:
            if row["advice"]:
                note(f"{row['level']}: {row['check']}: {row['value']}. What to do: {row['advice']}")


def show_findings(run: Path, device: str | None, json: bool) -> None:
    """What is wrong with a run; refused where something is."""
    from clx.pipelines.experiments.doctor.examine import examine_run
    from clx.pipelines.system.errors import Refused

    rows = list(examine_run(run, device))
    show(rows, json)
    found = list(dict.fromkeys(row["check"] for row in rows if row["level"] == "problem"))
    if found:
        raise Refused(f"{run} has problems: {', '.join(found)}")
    note(f"{run}: no problem found in {len(rows)} findings")


def show_replay(run: Path, device: str | None, json: bool) -> None:
    """Where a step that was not finite began; refused where it did again."""
    from clx.pipelines.experiments.doctor.replay import replay
    from clx.pipelines.system.errors import Refused

    found = replay(run, device, note)
    if json:
        emit_json(found)
    else:
        emit_table([{key: value for key, value in found.items() if key != "notes"}])
    first = found["first"]
    if first is None:
        note(f"step {found['step']} of {run} is finite now: loss {found['loss']:.4g}")
        return
    some = f"; {first['rows_blamed']} rows: {'; '.join(first['rows'])}" if first["rows"] else ""
    what = f"{first['nan']} NaN and {first['inf']} infinite of shape {first['shape']}"
    note(f"step {found['step']}: the first tensor that is not finite is the {first['tensor']}: {what}{some}")
    note(f"What to do: {found['try']}")
    raise Refused(f"{run}: step {found['step']} is not finite")


def show_lr_range(run: Path, device: str | None, json: bool) -> None:
    """Which rates a run bears."""
    from clx.pipelines.experiments.doctor.lr_range import lr_range

    with progress() as bar:
        found = lr_range(run, device, step=bar.step)
    if json:
        emit_json(found)
    else:
        emit_table([{"rate": rate, "loss": loss} for rate, loss in found["curve"]])
    if found["suggested"] is None:
        note(f"the loss never fell, at any rate from 1e-06 to 1: it is not the rate; clx doctor {run}")
        return
    rise = "" if found["highest"] is None else f", rises from {found['highest']:.2g} on"
    note(
        f"train.lr = {found['rate']:g}: {found['verdict']}. The loss falls best below "
        f"{found['suggested'] * 3:.2g}{rise}; -s train.lr={found['suggested']:g}"
    )
