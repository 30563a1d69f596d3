"""`clx search`."""

import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clx.cli.output import emit_json, emit_table, note
from clx.cli.zeroshot import names

if TYPE_CHECKING:
    from clx.pipelines.use.embedding_files import EmbeddingFile
    from clx.pipelines.use.inputs import Item


def search(
    embeddings: Annotated[Path, typer.Argument(metavar="EMB", help="What clx embed wrote, or a plain .npy array.")],
    query: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUERY...", help="Files, JSON rows or sentences; - reads such lines from stdin."),
    ] = None,
    row: Annotated[list[int], typer.Option(min=1, help="Ask with this row of EMB itself, counted from 1.")] = [],  # noqa: B006
    image: Annotated[str | None, typer.Option(help="Image of the one thing to ask with.")] = None,
    audio: Annotated[str | None, typer.Option(help="Its sound.")] = None,
    series: Annotated[str | None, typer.Option(help="Its time series.")] = None,
    table: Annotated[str | None, typer.Option(help="Its table row, a JSON file with an object.")] = None,
    text: Annotated[str | None, typer.Option(help="A sentence about it.")] = None,
    modality: Annotated[
        str | None, typer.Option("--as", help="Modality of the queries, where the file name does not tell.")
    ] = None,
    among: Annotated[
        str | None, typer.Option("--in", help="Modality to search among [default: the first that is no text].")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many neighbours.")] = 10,
    run: Annotated[str | None, typer.Option(help="Run or OpenCLIP model [default: the one that EMB names].")] = None,
    pretrained: Annotated[str | None, typer.Option(help="Tag or checkpoint file of an OpenCLIP model.")] = None,
    approximate: Annotated[
        bool, typer.Option(help="Ask an index (made once, kept beside EMB; pip install 'clx[search]').")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")] = "auto",
    strict: Annotated[bool, typer.Option(help="Stop at the first query that cannot be read.")] = False,
    json: Annotated[bool, typer.Option("--json", help="A JSON line per query, also on a terminal.")] = False,
) -> None:
    """Find the nearest neighbours of a file, a sentence or a row among embeddings.

    Exact by default, in bounded memory. Several modalities of one thing are fused as in clx zeroshot. Examples:

    clx search photos.parquet 'a dog on a beach' --top 5

    clx search photos.parquet query.jpg other.jpg --json

    clx search photos.parquet --row 17
    """
    from clx.pipelines.system.errors import BadInput

    kinds = {"image": image, "audio": audio, "series": series, "table": table, "text": text}
    one = {kind: given for kind, given in kinds.items() if given is not None}
    if bool(query) + bool(one) + bool(row) != 1:
        raise BadInput("give either QUERY..., or --image, --audio, ... of one thing, or --row")
    if row and (run or pretrained or modality):
        raise BadInput("--row needs no model: --run, --pretrained and --as go with a query")
    import torch

    from clx.pipelines.use import embedding_files as files
    from clx.pipelines.use import search as pipeline

    stored = files.EmbeddingFile.open(embeddings)
    column = pipeline.pick_column(stored, among)
    total = stored.count()
    if total >= pipeline.MANY and not approximate:
        note(f"{total} rows, compared one by one; --approximate asks an index instead")
    find = pipeline.approximate if approximate else pipeline.neighbours
    json = json or not sys.stdout.isatty()
    if row:
        absent = [number for number in row if number > total]
        if absent:
            raise BadInput(f"--row {absent[0]}: {embeddings} has {total} rows")
        places = [number - 1 for number in row]
        asked = stored.vectors(column, places)
        for number, vector, hits in zip(row, asked, find(stored, column, asked, top + 1), strict=True):
            if vector.isnan().any():
                raise BadInput(f"--row {number}: it has no {column}")
            others = [hit for hit in hits if hit[0] != number - 1][:top]
            show(f"row {number}", column, column, answers(stored, others), json)
        return
    opened = pipeline.run_of(stored, run, pretrained, device)
    candidate = pipeline.candidate(opened, column, among)
    from clx.pipelines.system.read_ahead import default_workers, read_ahead
    from clx.pipelines.use.inputs import one_item, read_items

    given: Iterator[Item] = one_item(opened, one) if one else pipeline.items_of(opened, names(query or []), modality)
    bad = 0
    with closing(read_ahead(given, partial(read_items, opened), 64, default_workers())) as groups:
        for group in groups:  # one pass over the file answers a group
            for name, cells in group:
                if isinstance(cells, str):
                    if strict:
                        raise BadInput(f"{name}: {cells}")
                    note(f"skipped {name}: {cells}")
                    bad += 1
            good = [(name, cells) for name, cells in group if not isinstance(cells, str)]
            if good:
                asked = torch.cat([pipeline.ask(opened, cells, candidate) for _, cells in good])
                for (name, cells), hits in zip(good, find(stored, column, asked, top), strict=True):
                    show(name, "+".join(cells), candidate, answers(stored, hits), json)
    if bad:
        raise typer.Exit(1)


def answers(stored: "EmbeddingFile", hits: list[tuple[int, float]]) -> list[dict[str, Any]]:
    """Hits as lines: rank, score, and what stands beside the vectors."""
    about = stored.about([place for place, _ in hits])
    return [
        {"rank": k, "score": score, **line} for k, ((_, score), line) in enumerate(zip(hits, about, strict=True), 1)
    ]


def show(query: str, by: str, among: str, hits: list[dict[str, Any]], json: bool) -> None:
    """One query's neighbours: a JSON line, or a table."""
    if json:
        emit_json({"query": query, "by": by, "in": among, "hits": hits})
    else:
        emit_table(hits, title=f"{query} ({by}) among {among}")
