"""`clx export`."""

from pathlib import Path
from typing import Annotated

import typer

from clx.cli import options
from clx.cli.output import emit_json, emit_table, note


def export(
    run: options.RunFolder,
    form: Annotated[str, typer.Option("--format", help="onnx or safetensors")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder [default: RUN/FORMAT].")] = None,
    checkpoint: options.Checkpoint = "best",
    data: options.Data = None,
    split: options.EvaluatedSplit = None,
    json: options.Json = False,
) -> None:
    """Write each encoder with its head to a file, and compare its outputs with the run's on real rows.

    onnx: a graph per modality with any batch size, and any length where the encoder takes that; its output is
    `embedding`, rows of length 1, and `prediction` where the run has such a head. safetensors: weights per
    modality in a folder that every clx command takes as a run. clx.json beside them says what happens before
    the graph. Encoders that cannot be exported are named (exit 1). Examples:

    clx export runs/digits --format onnx

    clx export runs/digits --format safetensors -o digits-weights
    """
    from clx.pipelines.system.errors import BadInput, nearest

    if form not in ("onnx", "safetensors"):
        raise BadInput(f"--format {form}{nearest(form, ('onnx', 'safetensors'))}")
    from clx.pipelines.use.export import export as pipeline

    folder = out or run / form
    rows = []
    for row in pipeline(
        run, "onnx" if form == "onnx" else "safetensors", folder, checkpoint=checkpoint, data=data, split=split
    ):
        rows.append(row)
        if "error" in row:
            note(f"{row['modality']} ({row['encoder']}) cannot be exported: {row['error']}")
        else:
            note(f"{row['file']}: largest difference {row['difference']:.2g} on {row['compared']}")
    if json:
        emit_json(rows)
    else:
        emit_table(rows, title=str(folder), hidden="compared")
    if any("error" in row for row in rows):
        raise typer.Exit(1)
