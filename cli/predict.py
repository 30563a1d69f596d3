"""`clx predict`."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clx.cli.output import emit_json, emit_table, note

if TYPE_CHECKING:
    from clx.pipelines.model.build import Run


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
    anomaly: Annotated[
        bool, typer.Option("--anomaly", help="Score each step of recordings by how it changes its own embedding.")
    ] = False,
    average: Annotated[
        int | None, typer.Option(min=1, help="With --anomaly: steps before that a score is set against [default: 21].")
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(help="With --anomaly: an anomaly is so many deviations above the training scores [default: 4]."),
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="best, last, or a step")] = "best",
    batch_size: Annotated[int, typer.Option(min=1)] = 256,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")] = "auto",
    strict: Annotated[bool, typer.Option(help="Stop at the first row that cannot be read.")] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON lines, also on a terminal.")] = False,
) -> None:
    """Predict targets, in their units, or classes with the head that a run was trained with.

    Rows stay in order; one that cannot be read is named, has no prediction, and makes the exit code 1.

    A run trained to forecast (data.windows.horizon) tells the steps that follow each recording. With --anomaly any
    run on windows of a series tells for each step whether it is odd: by the difference that hiding it makes to the
    embedding there, against those just before (TS2Vec). Examples:

    clx predict runs/airfoil more.csv --out predictions.csv

    clx predict runs/airfoil more.csv --keep id | jq .predicted_target

    clx predict runs/pump today.csv --anomaly | jq 'select(.anomaly)'
    """
    from clx.pipelines.data import writers
    from clx.pipelines.system.errors import BadInput
    from clx.pipelines.use import predict as pipeline

    if out is not None and json:
        raise BadInput("--json prints lines, --out writes them: give one of the two")
    if not anomaly and (average is not None or beta is not None):
        raise BadInput("--average and --beta are about --anomaly, which is not given")
    if beta is not None and not 0 <= beta < float("inf"):
        raise BadInput(f"--beta {beta:g}: so many deviations are a number from 0 on")
    odd = (average or 21, 4.0 if beta is None else beta) if anomaly else None
    if out is not None:
        writers.check_name(out)
    opened = pipeline.open_run(run, checkpoint, device, head=odd is None)
    parts, schema = lines_of(opened, source, split, keep, probabilities, odd, batch_size)
    start, done, bad = time.monotonic(), 0, 0

    def told(lines: list[dict[str, Any]], unread: list[Any]) -> None:
        nonlocal done, bad
        for one in unread:
            if strict:
                raise BadInput(f"{one.where}, column {one.column}: {one.reason}")
            note(f"no prediction for {one.where}, column {one.column}: {one.reason}")
        done, bad = done + len(lines), bad + len(unread)

    if out is not None:
        with writers.writer(out, schema, read_from(opened, source)) as write:
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


def lines_of(
    run: "Run",
    source: str | None,
    split: str | None,
    keep: list[str],
    probabilities: bool,
    anomaly: tuple[int, float] | None,
    batch_size: int,
) -> tuple[Any, Any]:
    """Lines with the rows among them that could not be used, batch by batch, and their columns."""
    from clx.pipelines.system.errors import BadInput
    from clx.pipelines.use import predict as pipeline
    from clx.pipelines.use import predict_recordings

    if (anomaly or run.forecasts) and (keep or probabilities):
        raise BadInput("--keep and --probabilities are for rows of a table, not for the steps of recordings")
    if anomaly:
        scorer = predict_recordings.open_scorer(run, anomaly[0], batch_size)
        found = predict_recordings.recordings(run, source, split)
        threshold = scorer.threshold(beta=anomaly[1])
        note(f"a score above {threshold:.3g} is an anomaly: mean and {anomaly[1]:g} deviations of training scores")
        return predict_recordings.anomalies(scorer, found, threshold), predict_recordings.anomaly_schema(scorer)
    if run.forecasts:
        scorer = predict_recordings.open_scorer(run, block=batch_size)
        found = predict_recordings.recordings(run, source, split)
        return predict_recordings.forecasts(scorer, found), predict_recordings.forecast_schema(scorer)
    if probabilities and run.config.data.target:
        raise BadInput("--probabilities is for runs that predict classes; this one predicts numbers")
    manifest = pipeline.rows_to_predict(run, source, split)
    kept = pipeline.kept_columns(run, manifest, keep)
    schema = pipeline.schema_of(run, manifest, kept, probabilities)
    return pipeline.predict(run, manifest, kept, probabilities, batch_size), schema


def read_from(run: "Run", source: str | None) -> list[str]:
    """The manifests that a prediction reads: the one given, or the run's own."""
    data = run.config.data
    return [source] if source else [name for name in (data.train, data.val, data.test) if isinstance(name, str)]
