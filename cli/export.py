"""`clx export`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clx.cli import options
from clx.cli.output import emit_json, emit_table, note


def export(
    run: options.RunFolder,
    form: Annotated[str, typer.Option("--format", help="onnx, safetensors, sentence-transformers or open_clip")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder [default: RUN/FORMAT].")] = None,
    checkpoint: options.Checkpoint = "best",
    data: options.Data = None,
    split: options.EvaluatedSplit = None,
    int8: Annotated[bool, typer.Option("--int8", help="Of onnx: multiply in 8 bits, and say what that costs.")] = False,
    json: options.Json = False,
) -> None:
    """Write each encoder to a file; compare it with the run's on rows.

    Its head goes with it. onnx: a graph per modality with any batch size, and any length where the encoder takes
    that; its output is `embedding`, rows of length 1, and `prediction` where the run has such a head. safetensors:
    weights per modality in a folder that every clx command takes as a run. sentence-transformers (of hf: text
    towers) and open_clip (of both towers of such a model): a folder that this library opens, with equal vectors.
    clx.json beside them says what happens before the graph, card.md what the run is. Encoders that cannot be
    exported are named (exit 1). Examples:

    clx export runs/digits --format onnx

    clx export runs/digits --format onnx --int8

    clx export runs/digits --format safetensors -o digits-weights
    """
    from clx.pipelines.system.errors import BadInput, nearest
    from clx.pipelines.use.export import FORMATS
    from clx.pipelines.use.export import export as pipeline

    known: Any = form
    if form not in FORMATS:
        raise BadInput(f"--format {form}{nearest(form, FORMATS)}")

    folder = out or run / form
    rows = []
    for row in pipeline(run, known, folder, checkpoint=checkpoint, data=data, split=split, int8=int8):
        rows.append(row)
        if "error" in row:
            note(f"{row['modality']} ({row['encoder']}) cannot be exported: {row['error']}")
        else:
            cost = (
                f"; mean cosine {row['cosine']:.4f}, {row['same_nearest']:.1%} keep their nearest row" if int8 else ""
            )
            note(f"{row['file']}: largest difference {row['difference']:.2g} on {row['compared']}{cost}")
    if json:
        emit_json(rows)
    else:
        emit_table(rows, title=str(folder), hidden="compared")
    if any("error" in row for row in rows):
        raise typer.Exit(1)
