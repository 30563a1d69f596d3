"""`clx search`."""

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clx.cli import options
from clx.cli.inputs import given, names
from clx.cli.output import emit_json, emit_table, note

if TYPE_CHECKING:
    from clx.pipelines.use.search import Neighbours


def search(
    embeddings: Annotated[Path, typer.Argument(metavar="EMB", help="What clx embed wrote, or a plain .npy array.")],
    query: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUERY...", help="Files, JSON rows or sentences; - reads such lines from stdin."),
    ] = None,
    row: Annotated[
        list[int], typer.Option(min=1, help="Ask with the row of EMB that has this number, as hits name theirs.")
    ] = [],  # noqa: B006
    image: options.Image = None,
    audio: options.Audio = None,
    series: options.Series = None,
    table: options.Table = None,
    text: Annotated[str | None, typer.Option(help="A sentence about it.")] = None,
    also: Annotated[
        list[str], typer.Option("--and", metavar="QUERY", help="Near to this as well; may be repeated.")
    ] = [],  # noqa: B006
    minus: Annotated[list[str], typer.Option(metavar="QUERY", help="And far from this; may be repeated.")] = [],  # noqa: B006
    modality: options.As = None,
    among: Annotated[
        str | None, typer.Option("--in", help="Modality to search among [default: the first that is not text].")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many neighbours.")] = 10,
    run: Annotated[str | None, typer.Option(help="Run or OpenCLIP model [default: the one that EMB names].")] = None,
    pretrained: options.Pretrained = None,
    dim: options.Dim = None,
    index: Annotated[
        Literal["exact", "usearch"],
        typer.Option(help="Compare every row, or ask an index that is made once (pip install '.[search]')."),
    ] = "exact",
    approximate: Annotated[bool, typer.Option("--approximate", help="The same as --index usearch.")] = False,
    precision: Annotated[
        Literal["float32", "int8", "binary"], typer.Option(help="Of the rows that are compared, or in the index.")
    ] = "float32",
    rescore: Annotated[
        int | None,
        typer.Option(min=1, help="With int8 and binary: so many times --top are compared in full [default: 4]."),
    ] = None,
    each_row: Annotated[
        bool, typer.Option("--each-row", help="Every row is a hit of its own, also where several share a picture.")
    ] = False,
    device: options.Device = "auto",
    strict: options.Strict = False,
    json: options.Json = False,
) -> None:
    """Find what is nearest to a file, a sentence or a row.

    Exact by default, in bounded memory; --index and --precision are faster and tell their recall. Rows of one cell,
    a picture with several captions say, are one hit, which names its rows; --each-row shows each. --row leaves out
    the hit that the row belongs to. Several modalities of one thing are fused as in clx zeroshot. With --and B and
    --minus C the score of a row x for the query A is the sum cos(x, A) + cos(x, B) - cos(x, C): the order that
    these give to the rows of EMB. Examples:

    clx search photos.parquet 'a dog on a beach' --top 5

    clx search photos.parquet query.jpg other.jpg --json

    clx search reviews.parquet 'battery life' --and cheap --minus refund

    clx search photos.parquet --row 17

    clx search parts/ 'a dog on a beach' --index usearch --precision int8
    """
    from clx.pipelines.system.errors import BadInput

    one = given(image=image, audio=audio, series=series, table=table, text=text)
    if bool(query) + bool(one) + bool(row) != 1:
        raise BadInput("give either QUERY..., or --image, --audio, ... of one thing, or --row")
    if row and (run or pretrained or modality or also or minus):
        raise BadInput("--row needs no model: --run, --pretrained, --as, --and and --minus go with a query")
    if rescore is not None and precision == "float32":
        raise BadInput("--rescore is about --precision int8 or binary: float32 is compared in full")
    from clx.pipelines.use.approximate import Way
    from clx.pipelines.use.search import Neighbours, Searcher

    way = Way("usearch" if approximate else index, precision, rescore or Way.rescore)
    searcher = Searcher(
        embeddings,
        among=among,
        run=run,
        pretrained=pretrained,
        way=way,
        device=device,
        dim=dim,
        each_row=each_row,
        say=note,
    )
    json = json or not sys.stdout.isatty()
    if row:
        for neighbours in searcher.near_rows(row, top=top):
            show(neighbours, json)
        return
    skipped = 0
    with closing(
        searcher.search(
            [one] if one else names(query or []), top=top, modality=modality, strict=strict, also=also, minus=minus
        )
    ) as answers:
        for answer in answers:
            if isinstance(answer, Neighbours):
                show(answer, json)
            else:
                note(f"skipped {answer.name}: {answer.reason}")
                skipped += 1
    if skipped:
        raise typer.Exit(1)


def show(answer: "Neighbours", json: bool) -> None:
    """One query's neighbours: a JSON line, or a table."""
    if json:
        emit_json(answer.as_json())
    else:
        sets = "".join(
            f" {word} {one}" for word, some in (("and", answer.also), ("minus", answer.minus)) for one in some
        )
        several = any(len(hit["rows"]) > 1 for hit in answer.hits)
        hits = [hit | {"rows": len(hit["rows"])} for hit in answer.hits]
        title = f"{answer.query}{sets} ({answer.by}) among {answer.among}"
        emit_table(hits, title, hidden=None if several else "rows")
