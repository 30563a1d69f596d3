"""An evaluation as the terminal shows it: a table for each task."""

import sys
from typing import Any

from clx.cli.output import cell, emit_table, note

FULL = "all figures with --json, or where the output is no terminal"
MANY = 13
"""Directions of retrieval from which on they are said in short, and a terminal has R@10 alone of them."""


def show_evaluation(result: dict[str, Any]) -> None:
    """A table per task; a terminal has of retrieval in many directions one from input to input."""
    from clx.pipelines.evaluation.results import tables

    data, split = result["data"], result["split"]
    source = data if data.endswith(split) or split == "all" else f"{data}, {split} rows"
    drawn = sys.stdout.isatty()
    for task, rows in tables(result).items():
        title = f"{task} on {source}"
        if drawn and task == "retrieval" and (square := crossed(rows)):
            emit_table(square, title=f"{title}: R@10, rows ask and columns answer", heads=("asked with",))
            continue
        if drawn:
            rows, shared = compact(rows)
            title += "".join(f", {name} {cell(value)}" for name, value in shared.items())
        emit_table(rows, title=title, hidden="task", heads=("input", "dim", "corrupt", "group"))
    if said := retrieval_in_short(result):
        note(said)


def retrieval_in_short(result: dict[str, Any]) -> str | None:
    """Of retrieval in many directions, the mean over those from one input to one, with the worst and the best; None
    where they are few enough to be read."""
    found = {
        name: figures["R@10"]
        for name, figures in result.get("retrieval", {}).items()
        if "+" not in name and isinstance(figures.get("R@10"), float)
    }
    if len(found) < MANY:
        return None
    all_figures = ("; " + FULL) if sys.stdout.isatty() else ""
    low, high = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
    return (
        f"retrieval: R@10 {cell(sum(found.values()) / len(found))} on average over {len(found)} directions, from "
        f"{cell(found[low])} ({low}) to {cell(found[high])} ({high}){all_figures}"
    )


def crossed(rows: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """R@10 of retrieval in many directions, a row for what asks and a column for what answers, all others together as
    the last row; None where there are few, or several lines of one direction."""
    found = {tuple(row["input"].split("->")): row.get("R@10") for row in rows}
    single = [way for way in found if "+" not in way[0]]
    if len(single) < MANY or len(found) < len(rows):
        return None
    names = [*dict.fromkeys(name for way in single for name in way)]
    square = [{"asked with": a, **{b: found.get((a, b)) for b in names}} for a in names]
    together = {way[1]: value for way, value in found.items() if "+" in way[0]}
    return [*square, {"asked with": "all others", **together}] if together else square


def tell_skipped(result: dict[str, Any]) -> None:
    """On stderr, why tasks were left out, and how many rows of those that were not."""
    for name, reason in result.get("skipped", {}).items():
        note(f"{name} left out: {reason}")
    for name, line in result.get("classification", {}).items():
        if unknown := line.get("unknown_class"):
            note(f"classification of {name}: {unknown} rows left out, since training had no row of their class")


def compact(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The same with each interval in its figure's cell, and apart what all rows have in common that is no figure."""
    figures = {key.removesuffix("_ci") for row in rows for key in row if key.endswith("_ci")}
    shared = {
        key: value
        for key, value in rows[0].items()
        if key not in figures | {"task", "input"}
        and not key.endswith("_ci")
        and all(row.get(key) == value for row in rows)
        and (len(rows) > 1 or not isinstance(value, float))  # the one row's own figures stay in it
    }
    lines = []
    for row in rows:
        line = {key: value for key, value in row.items() if not key.endswith("_ci") and key not in shared}
        for key in figures & row.keys():
            if limits := row.get(f"{key}_ci"):
                line[key] = f"{cell(row[key])} ({cell(limits[0])}-{cell(limits[1])})"
        lines.append(line)
    return lines, shared
