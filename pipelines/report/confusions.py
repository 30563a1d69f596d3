"""Runs side by side: what each is, their curves, saved figures and configs, as a page shows them."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from clx.pipelines.config.schema import TASKS, Config
from clx.pipelines.evaluation import results
from clx.pipelines.model.build import Run
from clx.pipelines.runs import state
from clx.pipelines.runs.folder import best, checkpoints, is_number
from clx.pipelines.runs.listing import lines, settings
from clx.pipelines.system.errors import BadInput

POINTS = 500
"""Most points of one curve."""
CLASSES = 100
"""Most classes of a matrix."""
OF_TASKS = {
    **dict.fromkeys(("k", "weights"), ("knn",)),
    **dict.fromkeys(("ways", "shots", "episodes"), ("fewshot",)),
    **dict.fromkeys(("regressor", "bin_width", "many", "few"), ("regression",)),
    **dict.fromkeys(("templates", "phrasings"), ("zeroshot",)),
    "horizons": ("forecast",),
    "features": ("probe", "knn", "svm", "fewshot", "regression", "forecast"),
}
"""Options of an evaluation that are not of every task."""
HIGH = {"top1", "top5", "mean_per_class", "mAP", "AUC", "r2", "pearson", "spearman"}
LOW = {"median_rank", "mae", "mse", "rmse", "gm"}


@dataclass
class Shown:
    """One run as the page shows it."""

    name: str
    folder: Path
    config: Config
    metrics: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    facts: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    panel: dict[str, Any] | None = None


@dataclass
class Cell:
    """One cell of a table on the page."""

    text: str
    interval: str = ""
    best: bool = False
    key: str = ""
    """The figure it names, whose meaning is told."""


@dataclass
class Table:
    """A table on the page; the first cell of a row names it."""

    heads: list[str]
    rows: list[list[Cell]]
    title: str = ""
    caption: str = ""
    words: bool = False
    """Cells are words, not figures."""


def short_names(folders: list[Path]) -> list[str]:
    """The last part of each path; as many parts as it takes for all to differ. Raises `BadInput` for doubles."""
    whole = [folder.absolute().parts for folder in folders]
    for k, parts in enumerate(whole):
        if parts in whole[:k]:
            raise BadInput(f"{folders[k]} is given twice")
    for count in range(1, max(map(len, whole)) + 1):
        names = ["/".join(parts[-count:]) for parts in whole]
        if len(set(names)) == len(names):
            break
    return names


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that have a step."""
    return [line for line in lines(folder / "metrics.jsonl") if isinstance(line.get("step"), int)]


def facts(one: Shown, run: Run | None) -> list[tuple[str, str]]:
    """What a run is, as words."""
    config = one.config
    found = [("folder", str(one.folder)), ("data", config.data.train)]
    if config.data.label:
        found.append(("label", config.data.label))
    if config.data.target:
        found.append(("target", ", ".join(config.data.target)))
    for name, options in config.modalities.items():
        kind = "" if options.get("kind", name) == name else f" ({options['kind']})"
        frozen = ", frozen" if options.get("freeze") else ""
        found.append((name + kind, f"{options.get('encoder', 'default encoder')}{frozen}"))
    for term in config.objective:
        weight = f"{term.weight:g} x " if term.weight not in (None, 1) else ""
        own = ", ".join(f"{key} {json.dumps(value)}" for key, value in term.options.items() if value is not None)
        found.append(("objective", f"{weight}{term.name}" + (f" ({own})" if own else "")))
    if run is not None:
        learned = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
        frozen_count = sum(p.numel() for p in run.model.parameters() if not p.requires_grad)
        also = f" and {frozen_count:,} frozen" if frozen_count else ""
        found.append(("parameters", f"{learned:,} learned{also}"))
    found.append(("embedding", f"{config.embed_dim} dimensions"))
    if one.metrics:
        found.append(("steps", f"{one.metrics[-1]['step']:,}, batches of {config.train.batch_size:,}"))
    found.append(("state", state.state_of(one.folder)))
    if took := duration(one.folder):
        found.append(("from start to end", took))
    if found_checkpoints := checkpoints(one.folder):
        chosen = best(found_checkpoints)
        score = "not validated" if chosen.score is None else f"validation loss {chosen.score:.4g}"
        found.append(("best checkpoint", f"step {chosen.step:,}, {score}"))
    else:
        found.append(("best checkpoint", "none"))
    if skipped := sum("skipped" in line for line in one.metrics):
        found.append(("skipped steps", f"{skipped} with a loss or gradient that was not finite"))
    return found


def duration(folder: Path) -> str | None:
    """From the first start to the end, in days, hours, minutes and seconds, where state.json tells.

    None where the clock was set back in between.
    """
    told = state.read(folder)
    try:
        took = datetime.fromisoformat(told["ended"]) - datetime.fromisoformat(told["started"])
        return str(took) if took >= timedelta() else None
    except (ValueError, KeyError, TypeError):
        return None


def curves(shown: list[Shown]) -> list[dict[str, Any]]:
    """Every logged number over steps, the runs overlaid; `val_loss` stands with `loss`."""
    names = dict.fromkeys(
        key for one in shown for line in one.metrics for key, value in line.items() if is_number(value)
    )
    names = {"loss": None} | names if "loss" in names else names  # a validation may come first
    names.pop("step", None)
    names.pop("rows", None)  # which rows a skipped step had
    found = []
    for name in names:
        if name == "val_loss" and "loss" in names:
            continue
        overlaid: list[dict[str, Any]] = []
        for k, one in enumerate(shown):
            for key in ("loss", "val_loss") if name == "loss" else (name,):
                drawn = [(line["step"], line[key]) for line in one.metrics if key in line]
                if drawn:
                    held = key == "val_loss"
                    label = " ".join(([one.name] if len(shown) > 1 else []) + (["validation"] if held else []))
                    x, y = thinned(drawn)
                    overlaid.append({"run": k, "name": label or "training", "held": held, "x": x, "y": y})
        values = sorted(v for line in overlaid for v in line["y"] if v is not None)
        wide = bool(values) and values[0] > 0 and values[-1] > 50 * values[len(values) // 2]
        title = "loss, training and validation" if name == "loss" and "val_loss" in names else name
        found.append({"name": title, "lines": overlaid, "log": wide})
    return found


def thinned(drawn: list[tuple[int, Any]]) -> tuple[list[int], list[float | None]]:
    """Steps and values, at most `POINTS`: of each stretch the lowest and the highest, so that no spike is lost.

    What is not finite is None.
    """
    steps = [step for step, _ in drawn]
    values = [float(f"{v:.6g}") if is_number(v) and math.isfinite(v) else None for _, v in drawn]
    if len(steps) <= POINTS:
        return steps, values
    kept = {0, len(steps) - 1}
    stretch = 2 * len(steps) / (POINTS - 2)
    for k in range(POINTS // 2 - 1):
        part = range(int(k * stretch), min(len(steps), int((k + 1) * stretch)))
        known = [(v, i) for i in part if (v := values[i]) is not None]
        kept |= {min(known)[1], max(known)[1]} if known else {part[0]}
    order = sorted(kept)
    return [steps[i] for i in order], [values[i] for i in order]


def evaluation_tables(shown: list[Shown]) -> list[Table]:
    """The figures of the newest evaluation of each task and data: of one run its inputs below each other, several runs
    side by side."""
    newest: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for k, one in enumerate(shown):
        for result in one.evaluations:  # oldest first
            data, split = result["data"], result["split"]
            source = file_name(data) if data.endswith(split) else f"{file_name(data)}, {split}"
            for task in results.tables(result):
                newest.setdefault((task, source), {})[k] = result
    found = []
    for task, source in sorted(newest, key=lambda each: TASKS.index(each[0])):
        by_input: dict[str, dict[int, dict[str, Any]]] = {}
        for k, result in newest[task, source].items():
            for row in results.tables(result)[task]:
                name = row["input"] + (f", {row['group']}-shot rows" if "group" in row else "")
                by_input.setdefault(name, {})[k] = row
        names = [one.name for one in shown]
        table = side_by_side(by_input, names) if len(shown) > 1 else below_each_other(by_input)
        table.title = f"{task} on {source}"
        said = {names[k]: how_evaluated(result, task) for k, result in newest[task, source].items()}
        alike = len(set(said.values())) == 1
        table.caption = next(iter(said.values())) if alike else "; ".join(f"{k}: {how}" for k, how in said.items())
        found.append(table)
    return found


def how_evaluated(result: dict[str, Any], task: str) -> str:
    """The checkpoint's step, and the options of the task that were not the usual ones."""
    said = [] if result["step"] is None else [f"checkpoint of step {result['step']}"]
    usual = json.loads(json.dumps(asdict(results.DEFAULT)))
    for key, value in result.get("settings", {}).items():
        if value != usual.get(key) and task in OF_TASKS.get(key, TASKS):
            said.append(f"{len(value)} {key}" if isinstance(value, list | dict) else f"{key} {value}")
    return ", ".join(said)


def figures(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Names of the numbers in some lines, in their order."""
    return list(dict.fromkeys(key for row in rows for key, value in row.items() if is_number(value)))


def figure(row: dict[str, Any], key: str) -> Cell:
    """One figure, and its interval where there is one."""
    limits = row.get(f"{key}_ci")
    interval = f"{number(limits[0])} to {number(limits[1])}" if limits and None not in limits else ""
    return Cell(number(row.get(key)), interval)


def number(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if abs(value) >= 10 or (value and abs(value) < 1e-3) else f"{value:.3f}"


def below_each_other(found: dict[str, dict[int, dict[str, Any]]]) -> Table:
    """Inputs as rows, figures as columns."""
    keys = figures(by_run[0] for by_run in found.values())
    return Table(
        ["input", *keys],
        [[Cell(name), *(figure(by_run[0], key) for key in keys)] for name, by_run in found.items()],
    )


def side_by_side(found: dict[str, dict[int, dict[str, Any]]], names: list[str]) -> Table:
    """Figures of inputs as rows, runs as columns."""
    rows = []
    for name, by_run in found.items():
        for key in figures(by_run.values()):
            lines = [by_run.get(k, {}) for k in range(len(names))]
            cells = [figure(line, key) for line in lines]
            known = [line[key] for line in lines if line.get(key) is not None]
            if len(known) == len(names) and len(set(known)) == 1 and isinstance(known[0], int):
                continue  # counts in which the runs agree
            high = key in HIGH or key.partition("@")[0] in ("R", "NDCG", "label") or key.endswith("-shot")
            if (high or key in LOW) and len(set(known)) > 1:
                top = max(known) if high else min(known)
                for cell, line in zip(cells, lines, strict=True):
                    cell.best = line.get(key) == top
            rows.append([Cell(f"{name}: {key}", key=key), *cells])
    return Table(["input", *names], rows)


def difference(shown: list[Shown]) -> Table | None:
    """The config keys in which some runs differ; None when there are none."""
    flat = [
        {key: json.dumps(value, ensure_ascii=False) for key, value in settings(one.config).items()} for one in shown
    ]
    for name in dict.fromkeys(name for one in shown for name in one.config.modalities):
        if not all(name in one.config.modalities for one in shown):  # its presence says all
            for each, one in zip(flat, shown, strict=True):
                own = {key: each.pop(key) for key in [*each] if key.startswith(f"modalities.{name}.")}
                if name in one.config.modalities:
                    each[f"modalities.{name}"] = own.get(f"modalities.{name}.encoder", "present")
    keys = dict.fromkeys(key for each in flat for key in each)
    rows = [
        [Cell(key), *(Cell(each.get(key, "absent")) for each in flat)]
        for key in keys
        if len({each.get(key) for each in flat}) > 1
    ]
    return Table(["key", *(one.name for one in shown)], rows, words=True) if rows else None


def answers(one: Shown, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Confusions of the saved evaluations, the newest of each task, input and data, and of the rows in `found`.

    The rows that were looked at now are a part of those that an evaluation of the same checkpoint, data, split and
    words counted: they add their mistakes to its confusion.
    """
    fresh = {given["input"]: given for given in found.get("answers", [])}
    seen = ("zeroshot", found.get("step"), found.get("data"), found.get("split"))
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
                if (task, result["step"], result["data"], result["split"]) == seen and not any(words) and name in fresh:
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


def file_name(data: str) -> str:
    """The last part of a path; the page says elsewhere where data lie."""
    return Path(data).name or data


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
