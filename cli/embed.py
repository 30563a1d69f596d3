"""`clx embed`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from clx.cli.output import Rate, emit_json, note


def embed(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="Run folder, or OpenCLIP model name.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="FILE.parquet or FILE.npy (with FILE.ids.parquet).")],
    data: Annotated[
        str | None, typer.Option(help="Manifest, class folder or built-in data [default: the run's own].")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only the train, val or test rows.")] = None,
    modality: Annotated[
        list[str], typer.Option(help="Only this one; repeatable [default: all that the data have].")
    ] = [],  # noqa: B006
    column: Annotated[
        list[str], typer.Option(help="MODALITY=COLUMN: another column of the data than the model's own.")
    ] = [],  # noqa: B006
    id: Annotated[str | None, typer.Option(help="Column with ids [default: the path, else the row].")] = None,
    keep: Annotated[list[str], typer.Option(help="Further columns to copy, as text.")] = [],  # noqa: B006
    dtype: Annotated[Literal["float32", "float16"], typer.Option(help="Of the vectors.")] = "float32",
    normalize: Annotated[bool, typer.Option(help="Write unit vectors.")] = False,
    allow_outside: Annotated[bool, typer.Option(help="Accept paths that lead out of the data's folder.")] = False,
    pretrained: Annotated[str | None, typer.Option(help="Tag or checkpoint file of an OpenCLIP model.")] = None,
    checkpoint: Annotated[str, typer.Option(help="Of a run: best, last, or a step.")] = "best",
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that read and embed [default: one per core, at most 8].")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")] = "auto",
    strict: Annotated[bool, typer.Option(help="Stop at the first row that cannot be read.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there, unfinished parts too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Embed every row of a manifest: ids, labels and a vector column per modality.

    Killed, it goes on where it was when started again the same way, and the file is equal to an unbroken one's.
    A row that cannot be read is named and left out (exit code 1). Examples:

    clx embed runs/digits --data more.csv --out more.parquet

    clx embed ViT-B-32 --pretrained laion2b_s34b_b79k --data photos/ --out photos.npy --modality image --dtype float16
    """
    from clx.pipelines.runs.open import open_model
    from clx.pipelines.system.errors import BadInput
    from clx.pipelines.use import embed as pipeline
    from clx.pipelines.use.inputs import set_columns

    if pretrained and data is None:
        raise BadInput("an OpenCLIP model has no data of its own: say which with --data")
    if not out.parent.is_dir():
        raise BadInput(f"--out {out}: no folder {out.parent}")
    wanted = pipeline.Wanted(split, modality, id, keep, dtype, normalize, batch_size)
    run = open_model(model, pretrained, checkpoint, device)
    set_columns(run, column)
    rate = Rate("rows embedded")
    summary = pipeline.embed_rows(
        run,
        pipeline.identity(run, model, pretrained),
        pipeline.sources(run, data, wanted, allow_outside),
        out,
        wanted,
        workers=workers,
        strict=strict,
        overwrite=overwrite,
        done=rate.count,
        say=note,
    )
    if rate.number:
        rate.end()
    note(
        f"{summary['rows']} rows in {', '.join(summary['files'])}"
        + (f", {summary['skipped']} left out" if summary["skipped"] else "")
    )
    if json:
        emit_json(summary)
    if summary["skipped"]:
        raise typer.Exit(1)
