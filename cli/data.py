"""`clx data` and `clx init`: look at data before time is spent on it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clx.cli import options
from clx.cli.inputs import comma_separated
from clx.cli.output import emit_json, emit_table, figures, note, note_table

if TYPE_CHECKING:
    from clx.pipelines.data.inferred import Asked

app = typer.Typer(no_args_is_help=True, help="Check, make and list data.")
SHOWN = 50  # findings in a table; --json has them all
LEFT_OUT = 12  # sorts of what was left out; --json has them all


@app.command()
def check(
    source: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="Manifest, folder or name of built-in data.")
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", help="Recipe or config file that says what the columns are.")
    ] = None,
    label: options.LabelColumn = None,
    target: options.TargetColumns = [],  # noqa: B006 (Typer wants the literal)
    pair: options.PairColumns = None,
    group: options.GroupColumn = None,
    ignore: options.IgnoredColumns = [],  # noqa: B006
    settings: options.Settings = [],  # noqa: B006
    json: options.Json = False,
) -> None:
    """Open every cell; name each bad one, and leaks between splits.

    Counts rows, classes and lengths, too, and says what it takes each column for. Ends with exit code 3 if anything
    is wrong. Without --config the columns are guessed, as by clx init, but for those that the flags name. Without
    SOURCE the data of the config is checked, its val and test files too. Examples:

    clx data check pairs.csv

    clx data check --config my.yaml
    """
    from clx.pipelines.batches.check import check_source
    from clx.pipelines.batches.check_summary import summary, target_summary
    from clx.pipelines.system.errors import Refused

    step = show_progress if sys.stderr.isatty() else lambda done, total: None
    report = check_source(source, config, step, asked(label, target, pair, group, ignore), settings)
    if json:
        emit_json(report)
    else:
        for title, rows in tables_of(report).items():
            emit_table(rows, title=title)
        emit_table(summary(report), title=report["data"])
        say_left_out(report)
        if "batches" in report:
            emit_table(figures(report["batches"]), title="batches")
        if report["targets"]:
            emit_table(target_summary(report), title="targets (many, median, few: rows like them in training)")
        if report["findings"]:
            emit_table(report["findings"][:SHOWN], title="findings")
        hidden = sum(report["counts"].values()) - len(report["findings"][:SHOWN])
        if hidden > 0:
            note(f"{hidden} more findings not shown (--json)")
    if not report["ok"]:
        raise Refused(
            f"{report['data']}: " + ", ".join(f"{n} {what}{'s' * (n > 1)}" for what, n in report["errors"].items())
        )
    odd = sum(report["counts"].values())
    note(f"{report['data']}: " + (f"no errors, {odd} warning{'s' * (odd > 1)}" if odd else "nothing wrong"))


def show_progress(done: int, total: int) -> None:
    """A line on stderr that is rewritten now and then, and wiped at the end."""
    if done == total:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    elif done % 256 == 0:
        print(f"\rchecked {done} of {total} rows", end="", file=sys.stderr, flush=True)


@app.command()
def make(
    name: Annotated[str, typer.Argument(help="Built-in data; clx data list names it.")],
    out: Annotated[Path, typer.Argument(help="Folder to write into; it must be new or empty.")],
    json: options.Json = False,
) -> None:
    """Write built-in data as files (PNG, WAV, NPY) and manifest.csv.

    Example: clx data make digits mydigits
    """
    from clx.pipelines.data.builtin import write

    manifest = write(name, out)
    if json:
        emit_json({"name": name, "manifest": str(manifest)})
    else:
        print(manifest)


@app.command()
def thin(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Manifest with a numeric target, or with classes.")],
    out: Annotated[Path, typer.Argument(help="New .csv, .tsv or .parquet file.")],
    target: Annotated[str | None, typer.Option(help="Column of numbers to thin by.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of classes to thin by: each is a bin.")] = None,
    ratio: Annotated[float, typer.Option(min=1, help="Training rows in the densest bin for one in the rarest.")] = 50,
    bins: Annotated[
        int | None,
        typer.Option(min=2, max=1_000_000, help="Bins of equal width over the target's range [default: 20]."),
    ] = None,
    most: Annotated[
        int | None, typer.Option(min=1, help="Training rows of the densest bin, at most [default: all].")
    ] = None,
    held_out: Annotated[
        float, typer.Option(min=0.01, max=0.5, help="Share of a bin's rows that val and test each get at most.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json: options.Json = False,
) -> None:
    """Make imbalanced training data from one manifest.

    Val and test get equally many rows of every bin that has enough; what is left is thinned so that the counts of
    bins, ordered from the densest to the rarest, fall geometrically. Keep OUT beside SOURCE if cells are paths.
    Example:

    clx data thin airfoil.csv airfoil-tail.csv --target target --ratio 50

    clx data thin photos.parquet tail.parquet --label class --most 1000
    """
    from clx.pipelines.data.long_tail import thin as make_thin

    counts = make_thin(source, out, target, label, ratio=ratio, bins=bins, most=most, held_out=held_out, seed=seed)
    if json:
        emit_json({"out": str(out), "rows": counts})
    else:
        note(f"wrote {out}: " + ", ".join(f"{count} {split}" for split, count in counts.items()))


@app.command("list")
def list_data(json: options.Json = False) -> None:
    """List the built-in data: name, modalities, rows per split."""
    from clx.pipelines.data.builtin import describe

    sets = describe()
    if json:
        emit_json({"data": sets})
        return
    emit_table(
        [
            {
                "name": entry["name"],
                "modalities": " ".join(entry["modalities"]),
                "rows": " ".join(f"{split} {count}" for split, count in entry["rows"].items()),
                "about": entry["about"],
            }
            for entry in sets
        ],
        title="built-in data",
    )


def asked(label: str | None, target: list[str], pair: str | None, group: str | None, ignore: list[str]) -> "Asked":
    """What the flags say that columns are."""
    from clx.pipelines.data.inferred import Asked

    return Asked(label, tuple(target), tuple(comma_separated(pair)), group, tuple(ignore))


def tables_of(found: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """What was understood as rows of tables by title: the columns, and where the rows of each split are from."""
    splits = [{"split": name, "rows": at["rows"], "from": at["from"]} for name, at in found["splits"].items()]
    return {"columns": found["columns"], "splits": splits}


def say_left_out(found: Mapping[str, Any]) -> None:
    """What a source holds and is not used, and how its files were read, on stderr."""
    from clx.pipelines.data.understood import left_out_lines

    for said in left_out_lines(found["left_out"], LEFT_OUT):
        note(f"left out: {said}")
    for text in found["notes"]:
        note(text)


def init(
    source: Annotated[str, typer.Argument(metavar="DATA", help="Manifest, folder or name of built-in data.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="New file for the recipe [default: print it].")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the file of --out.")] = False,
    label: options.LabelColumn = None,
    target: options.TargetColumns = [],  # noqa: B006 (Typer wants the literal)
    pair: options.PairColumns = None,
    group: options.GroupColumn = None,
    ignore: options.IgnoredColumns = [],  # noqa: B006
    settings: options.Settings = [],  # noqa: B006
    json: options.Json = False,
) -> None:
    """Look at data and write a recipe for it, a reason to every line.

    It says what the columns were taken for. Where a column is probably the answer and nobody said so, the flag to
    give is asked for. Examples:

    clx init photos/ -o photos.yaml

    clx init titanic.csv --label Survived -o titanic.yaml
    """
    from clx.pipelines.data.understood import classes_line
    from clx.pipelines.data.write_recipe import described, infer_config, recipe_of, write_recipe
    from clx.pipelines.system.errors import BadInput

    if overwrite and out is None:
        raise BadInput("--overwrite is about the file of --out, which is not given")
    written = infer_config(source, asked(label, target, pair, group, ignore), settings)
    text, found = recipe_of(source, written), described(written)
    if out is not None:
        write_recipe(text, out, overwrite=overwrite)
    if json:
        emit_json({"data": source, "out": None if out is None else str(out), "recipe": text, **found})
        return
    for rows in tables_of(found).values():
        note_table(rows)
    for line in classes_line(found):
        note(line)
    say_left_out(found)
    if out is None:
        print(text, end="")
    else:
        unsaid = label is None and written.found.learns_from_all
        hint = ", which predicts no column (--target or --label makes one the answer)" if unsaid else ""
        note(f"wrote {out}{hint}; next: clx train {out}")
