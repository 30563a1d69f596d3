"""`clx embed`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from clx.cli import options
from clx.cli.inputs import pairs
from clx.cli.output import Rate, emit_json, note
from clx.cli.ranks import ON, apart_or_together, is_first, quiet, unheard


def embed(
    model: options.Model,
    out: Annotated[
        Path,
        typer.Option("-o", "--out", help="FILE.parquet, FILE.npy (and FILE.ids.parquet), or a folder."),
    ],
    data: options.Data = None,
    split: options.Split = None,
    modality: Annotated[
        list[str], typer.Option(help="Only this one; repeatable [default: all that the data have].")
    ] = [],  # noqa: B006
    column: options.Column = [],  # noqa: B006
    id: Annotated[str | None, typer.Option(help="Column with ids [default: the path, else the row].")] = None,
    keep: Annotated[list[str], typer.Option(help="Further columns to copy, as text.")] = [],  # noqa: B006
    dtype: Annotated[Literal["float32", "float16"], typer.Option(help="Of the vectors.")] = "float32",
    normalize: Annotated[bool, typer.Option(help="Write unit vectors.")] = False,
    dim: options.Dim = None,
    allow_outside: options.AllowOutside = False,
    pretrained: options.Pretrained = None,
    checkpoint: options.Checkpoint = "best",
    batch_size: options.BatchSize = 128,
    workers: options.Workers = None,
    device: options.Device = "auto",
    processes: options.Processes = None,
    strict: options.Strict = False,
    shard: options.Shard = None,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there, unfinished parts too.")] = False,
    json: options.Json = False,
) -> None:
    """Embed every row of a manifest: ids, labels, a vector a modality.

    Killed, it goes on where it was when started again the same way, and the file is equal to an unbroken one's.
    A row that cannot be read is named and left out (exit code 1). Examples:

    clx embed runs/digits --data more.csv --out more.parquet

    clx embed runs/digits --data more.csv --out more.parquet --processes 4

    clx embed runs/digits --data more.csv --out more --shard 3/16

    clx embed ViT-B-32 --pretrained laion2b_s34b_b79k --data photos/ --out photos.npy --modality image --dtype float16
    """
    columns = pairs("--column", column)
    with apart_or_together(shard, processes, "embeds", ON) as (share, group):
        from clx.pipelines.system.devices import own_device
        from clx.pipelines.use import embed as pipeline
        from clx.pipelines.use.embedding_tables import EmbeddingOptions

        rate = Rate("rows embedded" if group is None else f"rows embedded by rank {group.rank}")
        with quiet(group):
            summary = pipeline.embed(
                model, out, data, EmbeddingOptions(split, modality, id, keep, dtype, normalize, batch_size, dim),
                shard=share, group=group, columns=columns, allow_outside=allow_outside, pretrained=pretrained,
                checkpoint=checkpoint, device=own_device(device) if share else device, workers=workers, strict=strict,
                overwrite=overwrite, step=rate.count, say=note if is_first(group) else unheard,
            )  # fmt: skip
        if rate.number:
            rate.end()
    if not is_first(group):
        return
    left_out = f", {summary['skipped']} left out" if summary["skipped"] else ""
    note(f"{summary['rows']} rows in {', '.join(summary['files'])}{left_out}")
    if json:
        emit_json(summary)
    if summary["skipped"]:
        raise typer.Exit(1)
