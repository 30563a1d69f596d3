"""Saved figures and configs of runs side by side, as tables of a page."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from clx.pipelines.config.task_names import TASKS
from clx.pipelines.evaluation import results
from clx.pipelines.report.run_facts import ReportedRun, file_name
from clx.pipelines.runs.folder import is_number
from clx.pipelines.runs.listing import settings
from clx.pipelines.system.text import number

OF_TASKS = {
    **dict.fromkeys(("k", "weights"), ("knn",)),
    **dict.fromkeys(("ways", "shots", "episodes"), ("fewshot",)),
    **dict.fromkeys(("regressor", "bin_width", "many", "few"), ("regression",)),
    **dict.fromkeys(("templates", "phrasings"), ("zeroshot",)),
    "horizons": ("forecast",),
    "features": ("probe", "knn", "svm", "fewshot", "regression", "forecast"),
}
"""Options of an evaluation that are not of every task."""
HIGH = {
    "top1",
    "top5",
    "mean_per_class",
    "macro_F1",
    "macro_AUC",
    "mAP",
    "R-precision",
    "MAP@R",
    "AUC",
    "r2",
    "pearson",
    "spearman",
}
LONG = 30
"""Rows of a table that a page shows unasked, at most: retrieval of six inputs has 36."""
COUNTED = ("queries", "candidates", "rows")
"""What figures are of: runs in which these differ have none that is best."""
LOW = {"median_rank", "log_loss", "ECE", "mae", "mse", "rmse", "gm"}


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

    @property
    def long(self) -> bool:
        """Whether the page shows it only when asked."""
        return len(self.rows) > LONG


def evaluation_tables(shown: list[ReportedRun]) -> list[Table]:
    """The figures of the newest evaluation of each task and data: of one run its inputs below each other, several runs
    side by side."""
    found = []
    for (task, source), by_run in newest(shown).items():
        by_input: dict[str, dict[int, dict[str, Any]]] = {}
        for k, result in by_run.items():
            for row in results.tables(result)[task]:
                name = called(row["input"]) + (f", {row['group']}-shot rows" if "group" in row else "")
                name += f", {row['dim']} columns" if "dim" in row else ""
                name += f", with {row['corrupt']}" if row.get("corrupt", "none") != "none" else ""
                by_input.setdefault(name, {})[k] = row
        names = [one.name for one in shown]
        table = side_by_side(by_input, names) if len(shown) > 1 else below_each_other(by_input)
        table.title = f"{task} on {source}"
        said = {names[k]: how_evaluated(result, task) for k, result in by_run.items()}
        alike = len(set(said.values())) == 1
        how = next(iter(said.values())) if alike else "; ".join(f"{k}: {how}" for k, how in said.items())
        table.caption = "; ".join(filter(None, (how, table.caption)))
        found.append(table)
    return found


def called(direction: str) -> str:
    """The name of a figure's inputs; three or more that ask together for another are all others."""
    asked, arrow, answer = direction.partition("->")
    return f"all others->{answer}" if arrow and asked.count("+") > 1 else direction


def newest(shown: list[ReportedRun]) -> dict[tuple[str, str], dict[int, dict[str, Any]]]:
    """The newest evaluation by the number of its run, for each task and data, tasks in their order."""
    found: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for k, one in enumerate(shown):
        for result in one.evaluations:  # oldest first
            data, split = result["data"], result["split"]
            source = file_name(data) if data.endswith(split) else f"{file_name(data)}, {split}"
            for task in results.tables(result):
                found.setdefault((task, source), {})[k] = result
    return {key: found[key] for key in sorted(found, key=lambda each: TASKS.index(each[0]))}


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
    interval = f"{as_text(limits[0])} to {as_text(limits[1])}" if limits and None not in limits else ""
    return Cell(as_text(row.get(key)), interval)


def as_text(value: float | None) -> str:
    """A number as the page has it; nothing for none."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else number(value)


def below_each_other(found: dict[str, dict[int, dict[str, Any]]]) -> Table:
    """Inputs as rows, figures as columns."""
    keys = figures(by_run[0] for by_run in found.values())
    return Table(
        ["input", *keys],
        [[Cell(name), *(figure(by_run[0], key) for key in keys)] for name, by_run in found.items()],
    )


def side_by_side(found: dict[str, dict[int, dict[str, Any]]], names: list[str]) -> Table:
    """Figures of inputs as rows, runs as columns."""
    rows, unlike = [], dict[str, None]()
    for name, by_run in found.items():
        differing = [key for key in COUNTED if len({line[key] for line in by_run.values() if key in line}) > 1]
        unlike |= dict.fromkeys(differing)
        for key in figures(by_run.values()):
            lines = [by_run.get(k, {}) for k in range(len(names))]
            cells = [figure(line, key) for line in lines]
            known = [line[key] for line in lines if line.get(key) is not None]
            if len(known) == len(names) and len(set(known)) == 1 and isinstance(known[0], int):
                continue  # counts in which the runs agree
            high = key in HIGH or key.partition("@")[0] in ("R", "NDCG", "label") or key.endswith("-shot")
            if (high or key in LOW) and len(set(known)) > 1 and not differing:
                top = max(known) if high else min(known)
                for cell, line in zip(cells, lines, strict=True):
                    cell.best = line.get(key) == top
            rows.append([Cell(f"{name}: {key}", key=key), *cells])
    said = f"where {' or '.join(unlike)} differ no figure is marked as the best" if unlike else ""
    return Table(["input", *names], rows, caption=said)


def difference(shown: list[ReportedRun]) -> Table | None:
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
