"""`clx sweep`."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from clx.cli import options
from clx.cli.inputs import refuse_two_lengths
from clx.cli.output import cell, emit_json, emit_table, note, progress

if TYPE_CHECKING:
    from clx.pipelines.experiments.sweep import Outcome
    from clx.pipelines.experiments.sweep_grid import Point


def sweep(
    given: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE|FILE [KEY=V1,V2]...", help="What to start from; more axes of --grid."),
    ],
    grid: Annotated[
        list[str], typer.Option(metavar="KEY=V1,V2", help="Values of a config key, in YAML; axes are crossed.")
    ] = [],  # noqa: B006
    seeds: Annotated[str | None, typer.Option(help="Values of train.seed: 0-4, or 0,3,7")] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Only so many combinations, drawn at random (random search).")
    ] = None,
    search: Annotated[
        Literal["grid", "random", "halving"] | None,
        typer.Option(help="Every combination, --trials of them, or only the best for long [default: grid, or random]."),
    ] = None,
    factor: Annotated[
        int | None,
        typer.Option(min=2, help="Of --search halving: each rung keeps one in so many settings [default: 3]."),
    ] = None,
    draw: Annotated[int | None, typer.Option(min=0, help="Which combinations --trials draws [default: 0].")] = None,
    settings: options.Settings = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder [default: runs/sweep-NAME].")] = None,
    metric: options.Metric = [],  # noqa: B006
    shard: options.Shard = None,
    jobs: Annotated[int, typer.Option("-j", "--jobs", min=1, help="Runs at a time, each in its own process.")] = 1,
    retry_failed: Annotated[bool, typer.Option(help="Try runs again that failed before.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Start runs anew whose settings have changed.")] = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Train every combination of settings; print one table of figures.

    Call it again after a stop, a kill or with more values: what is finished is kept, what was begun goes on. A
    failed run does not stop the others (exit 1 at the end). A config file may describe the sweep itself, in a
    section `sweep:` with `grid:` (keys with values, or named variants of several settings), `seeds:`, `set:`,
    `metric:`, `trials:` and `base:`. --trials N is a random search: more trials of the same --draw keep those of
    fewer. --search halving trains all for a few steps, and for --factor times as many only the best by the first
    --metric on val rows, and so on; what goes on is trained as if alone. Examples:

    clx sweep digits --grid train.lr=1e-3,4e-3 objective.temperature=0.05,0.1 --seeds 0-2

    clx sweep digits --grid 'objective={name: clip},{name: siglip}' -s train.epochs=2 --dry-run

    clx sweep digits --grid train.lr=3e-4,1e-3,3e-3 objective.temperature=0.05,0.1,0.2 --trials 4

    clx sweep digits --grid train.lr=3e-4,1e-3,3e-3 train.warmup=0,0.1,0.3 --search halving --metric zeroshot.image.top1

    clx sweep methods.yaml --shard 3/16 -o /shared/methods

    clx sweep methods.yaml --jobs 4 --metric retrieval.*.R@1 --json | jq -c '.table[]'
    """
    from clx.pipelines.experiments import sweep as pipeline
    from clx.pipelines.experiments.sweep_file import SweepFile
    from clx.pipelines.experiments.sweep_grid import points, read_plan
    from clx.pipelines.experiments.sweep_shards import share
    from clx.pipelines.system.errors import BadInput
    from clx.pipelines.system.shard import shard_of

    sources = [text for text in given if "=" not in text]
    if len(sources) != 1:
        raise BadInput(f"name one recipe or file to start from, and axes as key=value,value; got {' '.join(given)}")
    axes = [*grid, *(text for text in given if "=" in text)]
    refuse_two_lengths([*axes, *settings])
    given_search = {"trials": trials, "draw": draw, "search": search, "factor": factor}
    plan, base = read_plan(sources[0], axes, seeds, {k: v for k, v in given_search.items() if v is not None})
    if draw is not None and plan.trials is None:
        raise BadInput("--draw says which combinations --trials draws: give that too")
    if factor is not None and plan.search != "halving":
        raise BadInput("--factor is how --search halving goes on: give that too")
    grid_points = points(plan, base, settings)
    folder = out or Path("runs") / f"sweep-{Path(sources[0]).stem}"
    metrics = metric or plan.metric
    part, told = shard_of(shard, "trains a share of the runs in each")
    if part is not None and plan.search == "halving":
        raise BadInput("--search halving compares all runs, which shards do not see: leave out --shard, or give --jobs")
    halving = pipeline.halved(grid_points, plan.factor, metrics) if plan.search == "halving" else None
    if told or shard == "env":
        note(told or f"shard {part}")
    if dry_run:
        pipeline.due(
            grid_points, folder, metrics, part, retry_failed=retry_failed, overwrite=overwrite, halving=halving
        )
        for line in halving.told() if halving else ():
            note(line)
        mine = pipeline.rows(share(grid_points, part), folder)
        show_rows([{"run": row["run"], "state": row["state"]} for row in mine], json)
        return

    failed = pipeline.sweep(
        grid_points, folder, partial(execute, jobs=jobs), note, metrics, part,
        retry_failed=retry_failed, overwrite=overwrite, halving=halving,
    )  # fmt: skip
    rows = pipeline.rows(grid_points, folder, metrics, note)
    table = pipeline.table(rows, list(grid_points[0].shown))
    told_rungs = {"halving": SweepFile.open(folder).halving} if halving else {}
    if json:
        emit_json({"schema": pipeline.SCHEMA, "folder": str(folder), "runs": rows, "table": table} | told_rungs)
    else:
        show_rows(table, False)
    if failed:
        count = len(share(grid_points, part))
        note(f"{len(failed)} of {count} runs failed: {', '.join(failed)}; --retry-failed tries them again")
        raise typer.Exit(1)


def execute(todo: Sequence[tuple["Point", bool]], folder: Path, *, jobs: int) -> Iterator["Outcome"]:
    """Train what is still to do: in this process under a bar, or in several processes at a time."""
    if not todo:
        return
    from clx.pipelines.experiments import sweep_jobs

    work = sweep_jobs.jobs_of(todo, folder)
    if jobs > 1:
        yield from sweep_jobs.side_by_side(work, jobs)
    else:
        with progress() as bar:
            yield from sweep_jobs.one_by_one(work, bar)


def show_rows(rows: list[dict[str, Any]], json: bool) -> None:
    if json:
        emit_json(rows)
    else:
        emit_table(_joined(rows) if sys.stdout.isatty() else rows)


def _joined(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and deviation in one cell, and no column of states when all runs are finished."""
    joined = []
    for row in rows:
        line: dict[str, Any] = {}
        for key, value in row.items():
            if key.endswith("_std") and key.removesuffix("_std") in row:
                if value is not None:
                    mean = key.removesuffix("_std")
                    line[mean] = f"{cell(line[mean])} ± {cell(value)}"
            else:
                line[key] = value
        joined.append(line)
    if all(line.get("state") == "finished" for line in joined):
        for line in joined:
            del line["state"]
    return joined
