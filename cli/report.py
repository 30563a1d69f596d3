"""`clx report`."""

from pathlib import Path
from typing import Annotated

import typer

from clx.cli import options
from clx.cli.output import emit_json, note


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")] = [],  # noqa: B006
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML file to write.")] = Path("report.html"),
    data: options.Data = None,
    split: options.EvaluatedSplit = None,
    checkpoint: options.Checkpoint = "best",
    device: options.Device = "auto",
    rows: Annotated[
        int, typer.Option(min=0, help="Rows to look at with each model; 0: only curves and saved figures.")
    ] = 1000,
    points: Annotated[int, typer.Option(min=10, max=5000, help="Points of each map, over all modalities.")] = 800,
    leaderboard: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Objectives side by side on each set of data of the runs in a folder."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a page of other runs.")] = False,
    json: options.Json = False,
) -> None:
    """Write one HTML page about runs: curves, figures and mistakes.

    It shows confusions, similarities, a map and neighbours, too. The file needs no network and no other file. What
    cannot be shown, because data have moved or a checkpoint is gone, is left out with a note. Examples:

    clx report runs/digits

    clx report runs/a runs/b -o compare.html --rows 500

    clx report --leaderboard runs/sweep-leaderboard -o leaderboard.html
    """
    from clx.pipelines.system.errors import BadInput

    if bool(runs) == (leaderboard is not None):
        raise BadInput("name run folders, or a folder of runs with --leaderboard")
    if leaderboard is not None:
        of_runs = {"--data": data, "--split": split, "--checkpoint": checkpoint != "best", "--device": device != "auto"}
        of_runs |= {"--rows": rows != 1000, "--points": points != 800}
        if given := [flag for flag, value in of_runs.items() if value]:
            raise BadInput(f"{', '.join(given)} with --leaderboard, which shows saved figures alone: leave it out")
        write_leaderboard(leaderboard, out, overwrite, json)
        return
    from clx.pipelines.report import report as pipeline

    summary = pipeline.report(
        runs,
        out,
        data=data,
        split=split,
        checkpoint=checkpoint,
        device=device,
        rows=rows,
        points=points,
        overwrite=overwrite,
        say=note,
    )
    if json:
        emit_json(summary)
    else:
        print(summary["report"])
        note(f"{summary['bytes'] / 1e6:.1f} MB in {summary['seconds']} s")


def write_leaderboard(folder: Path, out: Path, overwrite: bool, json: bool) -> None:
    """Write the page, and its table in Markdown on stdout."""
    from clx.pipelines.report.leaderboard import leaderboard as pipeline

    summary = pipeline(folder, out, note, overwrite)
    if json:
        emit_json(summary)
    else:
        print(summary["markdown"], end="")
        note(f"{summary['report']}: {summary['hits']} of {summary['judged']} recommendations are among the best")
