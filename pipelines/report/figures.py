"""What a page draws of saved figures: scores over training, ROC curves, figures by width and from input to input."""

from collections.abc import Iterator, Sequence
from typing import Any

from clx.pipelines.evaluation import results
from clx.pipelines.measures.scores import BINS
from clx.pipelines.report.curves import LINES
from clx.pipelines.report.run_facts import ReportedRun
from clx.pipelines.report.tables import called, newest
from clx.pipelines.runs.folder import is_number

SHOWN = 60
"""Validations of a run whose scores are shown, at most."""
FIGURES = ("R@1", "R@10", "mAP", "median_rank")
"""Of a table from input to input."""


def score_charts(shown: Sequence[ReportedRun]) -> list[dict[str, Any]]:
    """Of each run and pair of inputs, the histograms of `measures.scores` by validation."""
    found = []
    for k, one in enumerate(shown):
        lines = [line for line in one.metrics if isinstance(line.get("scores"), dict)]
        kept = [lines[round(i)] for i in _even(len(lines))]
        for name in dict.fromkeys(name for line in kept for name in line["scores"]):
            steps = [line for line in kept if _is_histogram(line["scores"].get(name))]
            if steps:
                title = f"{one.name}: {name}" if len(shown) > 1 else name
                counts = {side: [line["scores"][name][side] for line in steps] for side in ("partners", "others")}
                found.append({"run": k, "title": title, "steps": [line["step"] for line in steps], **counts})
    return found


def _even(count: int) -> list[float]:
    """Places of at most `SHOWN` of so many, from the first to the last."""
    if count <= SHOWN:
        return list(range(count))
    return [i * (count - 1) / (SHOWN - 1) for i in range(SHOWN)]


def _is_histogram(one: Any) -> bool:
    sides = [one.get(side) for side in ("partners", "others")] if isinstance(one, dict) else [None]
    return all(
        isinstance(side, list) and len(side) == BINS and all(isinstance(n, int) for n in side) and any(side)
        for side in sides
    )


def evaluation_charts(shown: Sequence[ReportedRun]) -> list[dict[str, Any]]:
    """Charts of the newest evaluations: `kind` roc and widths have lines of points, inputs has a matrix."""
    found = list[dict[str, Any]]()
    for (task, source), by_run in newest([*shown]).items():
        where = f"{task} on {source}"
        rows = {k: results.tables(result)[task] for k, result in by_run.items()}
        if task == "retrieval":
            found += _inputs(shown, where, rows)
            found += _roc(shown, where, by_run)
        found += _widths(shown, where, rows)
    return found


def _parts(
    shown: Sequence[ReportedRun], by_run: dict[int, dict[str, dict[str, Any]]]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Lines by their name and run, some at a time: of one run those of some names, of several each name's."""
    if len(shown) == 1:
        every = [{"name": name} | line for lines in by_run.values() for name, line in lines.items()]
        for start in range(0, len(every), LINES):
            yield "", [{"run": at} | line for at, line in enumerate(every[start : start + LINES])]
        return
    for name in dict.fromkeys(name for lines in by_run.values() for name in lines):
        yield name, [{"run": k, "name": shown[k].name} | by_run[k][name] for k in by_run if name in by_run[k]]


def _titled(kind: str, title: str, parts: list[tuple[str, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """A chart for each part, its title told apart by the name of the part, or by its number."""
    more = [name or (f"{at}" if len(parts) > 1 else "") for at, (name, _) in enumerate(parts, 1)]
    return [
        {"kind": kind, "title": f"{title}, {said}" if said else title, "lines": lines}
        for said, (_, lines) in zip(more, parts, strict=True)
    ]


def _roc(shown: Sequence[ReportedRun], where: str, by_run: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """The curves of `AUC_pooled`."""
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for k, result in by_run.items():
        for name, line in result.get("retrieval", {}).items():
            curve = line.get("roc")
            points = isinstance(curve, list) and all(isinstance(p, list) and len(p) == 2 for p in curve)
            if points and all(is_number(v) for point in curve for v in point):
                xy = {"x": [x for x, _ in curve], "y": [y for _, y in curve]}
                found.setdefault(k, {})[called(name)] = xy | {"area": line.get("AUC_pooled")}
    return _titled("roc", f"ROC of {where}", [*_parts(shown, found)])


def _widths(shown: Sequence[ReportedRun], where: str, rows: dict[int, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Figures that have an interval, by the width that was looked at."""
    wide = {
        k: [
            row
            for row in lines
            if "group" not in row and row.get("corrupt", "none") == "none" and is_number(row.get("dim"))
        ]
        for k, lines in rows.items()
    }
    keys = dict.fromkeys(key.removesuffix("_ci") for lines in wide.values() for row in lines for key in row)
    charts = []
    for key in keys:
        found: dict[int, dict[str, dict[str, Any]]] = {}
        for k, lines in wide.items():
            points: dict[str, list[tuple[int, Any]]] = {}
            for row in lines:
                if f"{key}_ci" in row and is_number(row.get(key)):
                    points.setdefault(called(row["input"]), []).append((row["dim"], row[key]))
            several = {name: sorted(each) for name, each in points.items() if len(each) > 1}
            found[k] = {name: {"x": [x for x, _ in e], "y": [y for _, y in e]} for name, e in several.items()}
        charts += _titled("widths", f"{key} by width, {where}", [*_parts(shown, found)] if any(found.values()) else [])
    return charts


def _inputs(shown: Sequence[ReportedRun], where: str, rows: dict[int, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Of runs with three inputs or more, each figure of what is asked with one and answered by another."""
    charts = []
    for k, lines in rows.items():
        cells: dict[tuple[str, str], dict[str, Any]] = {}
        for row in lines:  # the whole width comes first
            asked, _, answer = row["input"].partition("->")
            if "+" not in asked:
                cells.setdefault((asked, answer), row)
        met = dict.fromkeys(name for way in cells for name in way)
        names = [*(name for name in shown[k].config.modalities if name in met)]
        names += [name for name in met if name not in names]
        if len(names) < 3:
            continue
        for key in FIGURES:
            values = [[_number(cells.get((a, b), {}).get(key)) for b in names] for a in names]
            if any(v is not None for line in values for v in line):
                title = f"{key} from input to input, {where}" + (f", {shown[k].name}" if len(shown) > 1 else "")
                charts.append({"kind": "inputs", "title": title, "figure": key, "names": names, "values": values})
    return charts


def _number(value: Any) -> float | None:
    return float(f"{value:.4g}") if is_number(value) else None
