"""The curves of runs, thinned to what a page can show."""

import math
from typing import Any

from clx.pipelines.report.run_facts import ReportedRun
from clx.pipelines.runs.folder import is_number
from clx.pipelines.runs.listing import objective_in, settings

POINTS = 500
"""Most points of one curve."""
LINES = 10
"""Of one chart, at most: as many as there are colours."""


def curves(shown: list[ReportedRun]) -> list[dict[str, Any]]:
    """Every logged number over steps: runs overlaid, or the inputs of a single one; `val_loss` stands with `loss`, of
    which runs of different objectives have charts of their own."""
    names = dict.fromkeys(
        key for one in shown for line in one.metrics for key, value in line.items() if is_number(value)
    )
    names = {"loss": None} | names if "loss" in names else names  # a validation may come first
    for left_out in ("step", "rows", *(["val_loss"] if "loss" in names else [])):  # `rows` are those of a skipped step
        names.pop(left_out, None)
    validated = any("val_loss" in line for one in shown for line in one.metrics)
    found = []
    alike = _of_one_objective(shown)
    for title, keys in _charted(shown, list(names)):
        for runs in alike if "loss" in keys or "val_loss" in keys else [[*range(len(shown))]]:
            lines = []
            for k, one in ((k, shown[k]) for k in runs):
                for at, key in enumerate(keys):
                    own = one.name if len(shown) > 1 else key.rpartition(".")[0] if len(keys) > 1 else ""
                    lines += _line(one, key, at if len(keys) > 1 else k, own or "training")
                    if key == "loss":
                        lines += _line(one, "val_loss", k, f"{own} validation".strip())
            values = sorted(v for line in lines for v in line["y"] if v is not None)
            wide = bool(values) and values[0] > 0 and values[-1] > 50 * values[len(values) // 2]
            of = f" of {_named([shown[k].name for k in runs])}" if len(runs) < len(shown) else ""
            said = f"loss{of}, training and validation" if title == "loss" and validated else title + of
            found += [{"name": said, "lines": lines, "log": wide}] if lines or not of else []
    return found


def _of_one_objective(shown: list[ReportedRun]) -> list[list[int]]:
    """The numbers of the runs whose losses measure the same, together."""
    groups: dict[str, list[int]] = {}
    for k, one in enumerate(shown):
        groups.setdefault(objective_in(settings(one.config)), []).append(k)
    return list(groups.values())


def _named(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _charted(shown: list[ReportedRun], names: list[str]) -> list[tuple[str, list[str]]]:
    """Titles of charts with the keys in each: of one run the same figure of several inputs stands in one, at most
    `LINES` of them."""
    groups: dict[str, list[str]] = {}
    for name in names:
        of, _, figure = name.rpartition(".")
        groups.setdefault(figure if len(shown) == 1 and of in shown[0].config.modalities else name, []).append(name)
    found = []
    for title, keys in groups.items():
        parts = [keys[start : start + LINES] for start in range(0, len(keys), LINES)]
        for at, part in enumerate(parts, 1):
            numbered = f"{title} of the inputs" + (f", {at}" if len(parts) > 1 else "")
            found.append((numbered if len(keys) > 1 else part[0], part))
    return found


def _line(one: ReportedRun, key: str, colour: int, name: str) -> list[dict[str, Any]]:
    """The line of a logged number, where the run has it."""
    drawn = [(line["step"], line[key]) for line in one.metrics if key in line]
    if not drawn:
        return []
    x, y = thinned(drawn)
    return [{"run": colour, "name": name, "held": key == "val_loss", "x": x, "y": y}]


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
