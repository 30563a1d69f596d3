"""`clx mine`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from clx.cli import options
from clx.cli.inputs import comma_separated
from clx.cli.output import Rate, emit_json, note


def mine(
    source: Annotated[str, typer.Argument(metavar="PAIRS", help="Manifest or folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A .csv, .tsv, .jsonl or .parquet file.")],
    run: Annotated[str | None, typer.Option(help="Run, or OpenCLIP model, that embeds the rows.")] = None,
    embeddings: Annotated[
        Path | None, typer.Option(help="Instead: their embeddings, as clx embed wrote them, or a plain .npy array.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="MODALITY[=COLUMN]", help="What asks [default: the first that the rows have]."),
    ] = None,
    among: Annotated[
        str | None,
        typer.Option(
            "--in", metavar="MODALITY[=COLUMN]", help="What it is asked of [default: the second, or the same]."
        ),
    ] = None,
    split: options.Split = None,
    negatives: Annotated[int, typer.Option(min=0, help="Hard negatives of a row: columns negative_1 ...")] = 0,
    ranks: Annotated[
        str | None, typer.Option(metavar="FROM,TO", help="By their rank, 1 the nearest [default: 1,100].")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(min=0, help="With a cosine of so much less than the row's own partner.")
    ] = None,
    relative: Annotated[
        float | None, typer.Option(min=0, max=1, help="With a cosine less by this share of its partner's.")
    ] = None,
    draw: Annotated[Literal["top", "random"], typer.Option(help="The nearest of what remains, or any.")] = "top",
    guide: Annotated[
        str | None,
        typer.Option(
            help="Run, or file of embeddings: no negative is what it finds nearer than the row's own partner,"
        ),
    ] = None,
    quantile: Annotated[
        float | None, typer.Option(min=0, max=1, help="or above this quantile of its cosines of unrelated rows.")
    ] = None,
    same: Annotated[
        list[str],
        typer.Option(metavar="COLUMN", help="Rows that share its value are no negatives, as of the run's label."),
    ] = [],  # noqa: B006
    consistent: Annotated[
        int | None, typer.Option(min=1, help="Leave out rows whose partner is not among so many nearest.")
    ] = None,
    least: Annotated[
        float | None, typer.Option(min=-1, max=1, help="Leave out rows whose partner has a lower cosine.")
    ] = None,
    nearest: Annotated[int, typer.Option(min=0, help="Nearest cells of other rows: columns nearest_1 ...")] = 0,
    clusters: Annotated[int, typer.Option(min=0, help="So many clusters: column cluster.")] = 0,
    within: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Crossed with its cells: cluster is then 3/7, say.")
    ] = None,
    centres: Annotated[int, typer.Option(min=1, help="So many nearest ones as a set of labels: column clusters.")] = 1,
    communities: Annotated[
        int, typer.Option(min=0, help="Communities of so many rows that are hard for each other: column community.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    dim: options.Dim = None,
    allow_outside: options.AllowOutside = False,
    pretrained: options.Pretrained = None,
    checkpoint: options.Checkpoint = "best",
    batch_size: options.BatchSize = 128,
    workers: options.Workers = None,
    device: options.Device = "auto",
    overwrite: Annotated[bool, typer.Option(help="Replace the file of --out.")] = False,
    json: options.Json = False,
) -> None:
    """Add columns to rows: hard negatives, clusters, communities.

    The rows of PAIRS are written with what embeddings tell of them. Every row is compared with every other of its
    split, exactly. Cells equal to a partner of the row, or of an equal one, are never its negatives. Rows that are
    not consistent are left out. Examples:

    clx mine pairs.csv --run runs/x --negatives 5 --ranks 10,100 --relative 0.05 -o mined.csv

    clx mine pairs.csv --embeddings emb.parquet --consistent 2 --least 0.7 -o clean.csv

    clx mine photos.csv --run runs/x --in image --clusters 1000 --centres 8 -o labelled.csv

    clx mine pairs.csv --run runs/x --communities 8 --ranks 30,130 -o communities.parquet
    """
    from clx.pipelines.system.errors import BadInput

    found = comma_separated(ranks)
    if ranks is not None and (len(found) != 2 or not all(one.isdecimal() for one in found)):
        raise BadInput(f"--ranks {ranks}: expected two ranks, as 10,100")
    from clx.pipelines.use import mine as pipeline
    from clx.pipelines.use.mine_wanted import Wanted
    from clx.pipelines.use.mined_sides import Model

    way = {"device": device, "batch_size": batch_size, "workers": workers}
    model = Model(run, pretrained, checkpoint, embeddings, dim=dim, **way)  # type: ignore[arg-type]
    other = None
    if guide is not None:
        is_file = Path(guide).suffix in (".parquet", ".npy")
        other = Model(None if is_file else guide, embeddings=Path(guide) if is_file else None, **way)  # type: ignore[arg-type]
    between = (int(found[0]), int(found[1])) if found else None
    wanted = Wanted(
        negatives, between, margin, relative, draw, quantile, tuple(same), consistent, least, nearest, clusters,
        within, centres, communities, seed,
    )  # fmt: skip
    rates: dict[str, Rate] = {}  # each begins with its work

    def counted(done: str) -> Callable[[int], None]:
        return lambda rows: rates.setdefault(done, Rate(done)).count(rows)

    told = pipeline.mine(
        source, out, model, wanted, other,
        by=by, among=among, split=split, allow_outside=allow_outside, overwrite=overwrite,
        step=counted("cells embedded"), compared=counted("rows compared"), say=note,
    )  # fmt: skip
    if "cells embedded" in rates:
        rates["cells embedded"].end()
    left_out = f", {told['left_out']} left out" if "left_out" in told else ""
    fewer = told.get("negatives", {}).get("rows_with_fewer")
    note(
        f"{told['written']} rows in {out}{left_out}"
        + (f", {fewer} with fewer negatives than {negatives}" if fewer else "")
    )
    if json:
        emit_json(told)
