"""`clx predict`."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from clx.cli.output import emit_json, emit_table, note


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    source: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="Manifest, folder or built-in data [default: the run's own test rows]."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="A .csv, .tsv, .jsonl or .parquet file [default: stdout].")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only the train, val or test rows of FILE.")] = None,
    keep: Annotated[
        list[str], typer.Option(help="Column to repeat beside the prediction; repeatable [default: all but inputs].")
    ] = [],  # noqa: B006 (Typer wants the literal)
    probabilities: Annotated[bool, typer.Option(help="A column for each class.")] = False,
    checkpoint: Annotated[str, typer.Option(help="best, last, or a step")] = "best",
    batch_size: Annotated[int, typer.Option(min=1)] = 256,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")] = "auto",
    strict: Annotated[bool, typer.Option(help="Stop at the first row that cannot be read.")] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON lines, also on a terminal.")] = False,
) -> None:
    """Predict targets, in their units, or classes with the head that a run was trained with.

    Rows stay in order; one that cannot be read is named, has no prediction, and makes the exit code 1. Examples:

    clx predict runs/airfoil more.csv --out predictions.csv

    clx predict runs/airfoil more.csv --keep id | jq .predicted_target
    """
    from clx.pipelines import predict as pipeline
    from clx.pipelines.config import BadInput

    if out is not None and json:
        raise BadInput("--json prints lines, --out writes them: give one of the two")
    opened = pipeline.open_predictor(run, checkpoint, device)
    manifest = pipeline.rows_to_predict(opened, source, split)
    kept = pipeline.kept_columns(opened, manifest, keep)
    parts = pipeline.predict(opened, manifest, kept, probabilities, batch_size)
    start, done, bad = time.monotonic(), 0, 0

    def told(lines: list[dict[str, Any]], unread: list[Any]) -> None:
        nonlocal done, bad
        for one in unread:
            if strict:
                raise BadInput(f"{one.where}, column {one.column}: {one.reason}")
            note(f"no prediction for {one.where}, column {one.column}: {one.reason}")
        done, bad = done + len(lines), bad + len(unread)

    if out is not None:
        with pipeline.writer(out, pipeline.schema_of(opened, manifest, kept, probabilities), manifest) as write:
            for lines, unread in parts:
                told(lines, unread)
                write(lines)
    else:
        shown: list[dict[str, Any]] = []
        for lines, unread in parts:
            told(lines, unread)
            if json or not sys.stdout.isatty():
                for line in lines:
                    emit_json(line, digits=17)  # columns are repeated as they are
            else:
                shown += lines
        if shown:
            emit_table(shown)
    saved = f" in {out}" if out else ""
    note(f"{done} rows{saved}, {time.monotonic() - start:.1f} s" + (f", {bad} without a prediction" if bad else ""))
    if bad:
        raise typer.Exit(1)
