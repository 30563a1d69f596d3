"""The curves of runs, thinned to what a page can show."""

import math
from typing import Any

from clx.pipelines.report.run_facts import ReportedRun
from clx.pipelines.runs.folder import is_number

POINTS = 500
"""Most points of one curve."""


def curves(shown: list[ReportedRun]) -> list[dict[str, Any]]:
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
