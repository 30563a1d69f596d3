"""Runs side by side: what each is, their curves, saved figures and configs, as a page shows them."""

from typing import Any

from clx.pipelines.config.task_names import TASKS
from clx.pipelines.report.run_facts import ReportedRun, file_name

CLASSES = 100
"""Most classes of a matrix."""


def answers(one: ReportedRun, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Confusions of the saved evaluations, the newest of each task, input and data, and of the rows in `found`.

    The rows that were looked at now are a part of those that an evaluation of the same checkpoint, data, split and
    words counted: they add their mistakes to its confusion.
    """
    fresh = {given["input"]: given for given in found.get("answers", [])}
    pictured = ("zeroshot", found.get("step"), found.get("data"), found.get("split"))
    saved = {}
    for result in one.evaluations:
        for task in TASKS:
            for name, line in result.get(task, {}).items():
                if "confusion" not in line:
                    continue
                counts = line["confusion"]["counts"]
                cells = [[i, j, n] for i, row in enumerate(counts) for j, n in enumerate(row) if n]
                source = f"{result['split']} rows of {file_name(result['data'])}"
                made = answer(
                    f"{task}: {name} ({source})",
                    f"Saved evaluation of {sum(n for _, _, n in cells):,} {source}, step {result['step']}.",
                    line["confusion"]["classes"],
                    cells,
                )
                words = [result.get("settings", {}).get(key) for key in ("templates", "phrasings")]
                if (
                    (task, result["step"], result["data"], result["split"]) == pictured
                    and not any(words)
                    and name in fresh
                ):
                    made["mistakes"] = fresh[name]["mistakes"]
                saved[task, name, source] = made
    joined = {name for (_, name, _), made in saved.items() if "mistakes" in made}
    return [
        *saved.values(),
        *(
            answer(
                f"{name}, {given['how']}",
                f"{given['rows']:,} rows, {given['wrong']:,} wrong, {given['how']}.",
                found["classes"],
                given["cells"],
            )
            | {"mistakes": given["mistakes"]}
            for name, given in fresh.items()
            if name not in joined
        ),
    ]


def answer(title: str, note: str, classes: list[str], cells: list[list[int]]) -> dict[str, Any]:
    """A confusion as the page draws it: past `CLASSES` classes those with the most mistakes.

    `cells` are [true class, answer, rows]; `totals` all rows of each true class.
    """
    totals, wrong = [0] * len(classes), [0] * len(classes)
    for i, j, n in cells:
        totals[i] += n
        wrong[i] += n * (i != j)
    if len(classes) > CLASSES:
        kept = sorted(sorted(range(len(classes)), key=lambda k: -wrong[k])[:CLASSES])
        place = {k: at for at, k in enumerate(kept)}
        cells = [[place[i], place[j], n] for i, j, n in cells if i in place and j in place]
        note += f" Shown are the {CLASSES} of {len(classes)} classes with the most mistakes."
        classes, totals = [classes[k] for k in kept], [totals[k] for k in kept]
    return {"title": title, "note": note, "classes": classes, "cells": cells, "totals": totals}
