"""`clx merge`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from clx.cli import options
from clx.cli.inputs import comma_separated
from clx.cli.output import emit_json, note


def merge(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A new run folder.")],
    by: Annotated[
        Literal["average", "delta", "slerp"],
        typer.Option(help="The mean; by how far each number moved from --base; or on the arc between two."),
    ] = "average",
    base: Annotated[Path | None, typer.Option(help="With delta: the run that the others began with.")] = None,
    weights: Annotated[str | None, typer.Option(metavar="W,W", help="Of the runs [default: the same].")] = None,
    checkpoint: options.Checkpoint = "best",
    overwrite: Annotated[bool, typer.Option(help="Replace the run in --out.")] = False,
    json: options.Json = False,
) -> None:
    """Merge the weights of runs that were fine-tuned from one.

    The result is a run that every command takes. Config and data are those of the first RUN. Runs of other
    architectures, other vocabularies or no common start are refused. merge.json tells what was merged. Examples:

    clx merge runs/a runs/b -o runs/both

    clx merge runs/a runs/b --base runs/init --by delta -o runs/both

    clx merge runs/a runs/b --by slerp --weights 0.3,0.7 -o runs/both
    """
    from clx.pipelines.system.errors import BadInput

    try:
        shares = None if weights is None else [float(part) for part in comma_separated(weights)]
    except ValueError:
        raise BadInput(f"--weights {weights}: expected numbers, as 0.3,0.7") from None
    from clx.pipelines.use.merge import merge as pipeline

    told = pipeline(runs, out, by, base=base, shares=shares, checkpoint=checkpoint, overwrite=overwrite, say=note)
    note(f"{told['tensors']} tensors of {len(runs)} runs in {out}")
    if json:
        emit_json(told)
