"""`clx predict`."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from clx.cli import options
from clx.cli.inputs import pairs
from clx.cli.output import emit_json, emit_table, note
from clx.cli.ranks import ANEW, apart_or_together, is_first, unheard


def predict(
    run: options.RunFolder,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="Manifest, folder, built-in data, or one picture or recording [default: the run's own test rows].",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="A .csv, .tsv, .jsonl or .parquet file, or a folder [default: stdout]."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the file of --out.")] = False,
    split: options.Split = None,
    column: options.Column = [],  # noqa: B006 (Typer wants the literal)
    keep: Annotated[
        list[str], typer.Option(help="Column to repeat beside the prediction; repeatable [default: all but inputs].")
    ] = [],  # noqa: B006
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
    checkpoint: options.Checkpoint = "best",
    batch_size: options.BatchSize = 256,
    device: options.Device = "auto",
    processes: options.Processes = None,
    strict: options.Strict = False,
    shard: options.Shard = None,
    json: options.Json = False,
) -> None:
    """Predict targets, in their units, or classes by a trained head.

    Rows stay in order; one that cannot be read is named, has no prediction, and makes the exit code 1.

    A run trained to forecast (data.windows.horizon) tells the steps that follow each recording. With --anomaly any
    run on windows of a series tells for each step whether it is odd: by the difference that hiding it makes to the
    embedding there, against those just before (TS2Vec). Examples:

    clx predict runs/airfoil more.csv --out predictions.csv

    clx predict runs/airfoil more.csv --keep id | jq .predicted_target

    clx predict runs/airfoil many.parquet --out predictions.parquet --processes 4

    clx predict runs/airfoil many.parquet --out predictions --shard 3/16

    clx predict runs/pump today.csv --anomaly | jq 'select(.anomaly)'
    """
    from clx.pipelines.data.writers import check_name
    from clx.pipelines.system.errors import BadInput

    if out is not None and json:
        raise BadInput("--json prints lines, --out writes them: give one of the two")
    if not anomaly and (average is not None or beta is not None):
        raise BadInput("--average and --beta are about --anomaly, which is not given")
    if shard is not None and out is None:
        raise BadInput("--shard writes a part of a folder: name it with --out")
    if anomaly and (keep or probabilities or shard or processes):
        raise BadInput(
            "--keep, --probabilities, --shard and --processes are for rows of a table, not for the steps of recordings"
        )
    if anomaly and column:
        raise BadInput("--column is for rows of a table; of recordings data.windows says the column")
    if out is not None and shard is None:
        check_name(out, overwrite)
    elif out is None and overwrite:
        raise BadInput("--overwrite is about the file of --out, which is not given")
    columns = pairs("--column", column)
    with apart_or_together(shard, processes, "predicts", ANEW) as (part, group):
        from clx.pipelines.system.devices import own_device
        from clx.pipelines.use.predict import BETA, USUAL, Predictor, check_beta

        beta = BETA if beta is None else beta
        check_beta(beta)
        device = own_device(device) if part else device if group is None else group.device(device)
        say = note if is_first(group) else unheard
        predictor = Predictor(run, checkpoint=checkpoint, device=device, batch_size=batch_size, strict=strict, say=say)
        start = time.monotonic()
        if anomaly:
            predictions = predictor.anomalies(source, split, average=average or USUAL, beta=beta)
        else:
            predictions = predictor.predict(
                source, split, columns=columns, keep=keep, probabilities=probabilities, shard=part, group=group
            )
        if not is_first(group):
            for _ in predictions:
                pass
        elif out is not None and part is not None:
            out, made = predictions.save_part(out, overwrite=overwrite)
            if not made:
                note(f"{out} is whole already")
                return
        elif out is not None:
            predictions.save(out, overwrite=overwrite)
        elif json or not sys.stdout.isatty():
            for line in predictions:
                emit_json(line, digits=17)  # columns are repeated as they are
        elif shown := list(predictions):
            emit_table(shown)
    if not is_first(group):
        return
    saved, bad = f" in {out}" if out else "", predictions.bad
    seconds = time.monotonic() - start
    note(f"{predictions.count} rows{saved}, {seconds:.1f} s" + (f", {bad} without a prediction" if bad else ""))
    if bad:
        raise typer.Exit(1)
