"""`clx runs`: what was trained."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from clx.cli import options
from clx.cli.evaluation_tables import show_evaluation
from clx.cli.output import cell, emit_json, emit_table, note

app = typer.Typer(no_args_is_help=True, help="List, show and compare what was trained.")


@app.command("list")
def list_runs(
    folder: Annotated[Path, typer.Argument(help="Folder with runs, at any depth.")] = Path("runs"),
    metric: options.Metric = [],  # noqa: B006
    state: Annotated[str | None, typer.Option(help="Only finished, interrupted, failed or running ones.")] = None,
    sort: Annotated[str, typer.Option(help="Column to sort by, e.g. started, val_loss, value")] = "run",
    reverse: Annotated[bool, typer.Option("-r", "--reverse", help="Largest or latest first.")] = False,
    json: options.Json = False,
) -> None:
    """List runs: data, objective, state, steps, loss, first figure.

    The loss is the lowest of validation, the figure the one to look at first; both are of the weights of `of_step`.
    Damaged folders are named on stderr. Examples:

    clx runs list

    clx runs list runs/sweep-digits --sort value --reverse --json | jq -r '.[0].run'
    """
    from clx.pipelines.runs import listing
    from clx.pipelines.system.errors import BadInput, nearest

    states = ("finished", "interrupted", "failed", "running")
    if state is not None and state not in states:
        raise BadInput(f"--state {state}{nearest(state, states)}")
    rows = []
    for row in listing.list_runs(folder, metric, sort, reverse):
        if isinstance(row, tuple):
            note(f"damaged: {row[1]}")
        elif state in (None, row["state"]):
            rows.append(row)
    if json:
        emit_json(rows)
        return
    if not rows:
        note(f"no {state or ''} runs in {folder}".replace("  ", " "))
        return
    emit_table(_narrow(rows) if sys.stdout.isatty() else rows, title=str(folder))


def _narrow(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that fit a terminal: fewer columns, and none that says nothing here."""
    metrics = {str(row["metric"]) for row in rows if row.get("metric")}
    lines = []
    for row in rows:
        line = {**row, "started": row["started"][:16].replace("T", " "), "step": f"{row['step']}/{row['steps'] or '?'}"}
        of = line.pop("of_step")
        line["step"] += f", figures of {of}" if of not in (None, row["step"]) else ""
        line["error"] = row["error"] and row["error"][:60]
        if len(metrics) == 1:  # one figure for all names its column
            line[next(iter(metrics))] = line.pop("value")
            del line["metric"]
        lines.append(line)
    empty = {key for key in lines[0] if all(line.get(key) is None for line in lines)} | {"steps"}
    return [{key: value for key, value in line.items() if key not in empty} for line in lines]


@app.command("show")
def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    json: options.Json = False,
) -> None:
    """Show one run: state, curves, checkpoints, figures, size, config.

    Example: clx runs show runs/digits
    """
    from clx.pipelines.runs.card import bare
    from clx.pipelines.runs.listing import details, read_results
    from clx.pipelines.system.text import bars

    facts = details(run)
    if json or not sys.stdout.isatty():
        emit_json(facts)
        return
    import yaml

    config, curves, checkpoints = facts.pop("config"), facts.pop("curves"), facts.pop("checkpoints")
    del facts["figures"]  # the tables below have them
    print(yaml.safe_dump(bare(config, folders=True), sort_keys=False, allow_unicode=True))
    facts["size"] = f"{facts.pop('bytes') / 2**20:.1f} MiB"
    for key, value in facts.items():
        if value is not None:
            print(f"{key:>10}  {cell(value)}")
    for name, points in curves.items():
        values = [value for _, value in points]
        print(f"{name:>10}  {cell(values[0])} {bars(values)} {cell(values[-1])}")
    print()
    emit_table(
        [{**one, "bytes": f"{one['bytes'] / 2**20:.1f} MiB", "best": "yes" * one["best"]} for one in checkpoints]
    )
    if results := read_results(run):
        show_evaluation(results)


@app.command("compare")
def compare(
    run: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders.")],
    json: options.Json = False,
) -> None:
    """Compare runs: config, figures, and which differences are any.

    Of the config it shows the keys in which they differ. Each run is set against the first. The interval of a
    difference is a paired bootstrap: both runs are resampled over the same test rows, so that a row that is hard
    for both counts for neither. Example:

    clx runs compare runs/a runs/b --json | jq '.differences[] | select(.differ)'
    """
    from clx.pipelines.runs.listing import compare as pipeline
    from clx.pipelines.runs.paired import differences

    compared: dict[str, Any] = pipeline(run)
    rows, reasons = differences([Path(name) for name in compared["runs"]])
    compared |= {"differences": rows, "not_paired": reasons}
    for reason in [*compared["notes"], *reasons]:
        note(reason)
    if json:
        emit_json(compared)
        return
    for side in ("config", "figures"):
        emit_table([{side: key, **values} for key, values in compared[side].items()])
    if rows:
        emit_table(rows)
        count = sum(row["differ"] for row in rows)
        note(f"{count} of {len(rows)} figures differ; of figures that are alike about one in twenty would by chance")
