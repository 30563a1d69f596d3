"""Successive halving of a sweep: all settings get a few steps, and only the best of them more (arXiv 1502.07943).

A run that goes on is resumed, so in the end it is the run that it would have been without the others: its schedule has
the whole length from the start. What decides are figures on val rows of the weights at the end of a rung.
"""

import fnmatch
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clx.pipelines.evaluation.meaning import LOW_IS_GOOD
from clx.pipelines.evaluation.results import saved
from clx.pipelines.experiments.sweep_grid import Point
from clx.pipelines.runs.folder import METRICS, is_number
from clx.pipelines.runs.listing import figures, headline
from clx.pipelines.system.errors import BadInput, Refused
from clx.pipelines.training.schedule import Plan


@dataclass
class Halving:
    """Which runs of a sweep go how far, and what was decided so far."""

    factor: int
    groups: list[list[Point]]
    """Runs that differ by nothing but their seed, which go on or stop together."""
    steps: list[dict[str, int]]
    """Of each rung but the last, which is the whole run, the step of each run at its end."""
    asked: str | None
    """The metric that somebody named."""
    metric: str | None
    """What decides; None while it is the headline of evaluations that are not there yet."""

    def settings(self) -> dict[str, Any]:
        """What a folder's earlier decisions must have been made by to count."""
        return {
            "factor": self.factor,
            "asked": self.asked,
            "runs": [[point.name for point in group] for group in self.groups],
        }

    def rung(self, number: int, alive: Sequence[Sequence[Point]]) -> list[Point]:
        """The runs of a rung that go on in it, each with the step at its end; in the last to theirs."""
        points = [point for group in alive for point in group]
        if number == len(self.steps):
            return points
        return [
            replace(point, until=self.steps[number][point.name], tasks=self.tasks(point.config.eval))
            for point in points
        ]

    def tasks(self, every: Sequence[str]) -> tuple[str, ...]:
        """Those of `every` that the metric needs."""
        if self.metric is None:
            return tuple(every)
        return tuple(task for task in every if fnmatch.fnmatchcase(task, self.metric.partition(".")[0]))

    def told(self) -> list[str]:
        """What comes, a line for each rung."""
        lines, count = [], len(self.groups)
        for number, at in enumerate([*self.steps, None]):
            ends = sorted(set(at.values())) if at else []
            to = "to the end" if not ends else f"to step {ends[0]}" + (f" to {ends[-1]}" if len(ends) > 1 else "")
            lines.append(f"rung {number + 1} of {len(self.steps) + 1}: {count} of {len(self.groups)} settings {to}")
            count = math.ceil(count / self.factor)
        return lines

    def decide(self, number: int, alive: Sequence[Sequence[Point]], folder: Path) -> dict[str, Any]:
        """Which settings stop after a rung: `values` and `stopped` by run, the `metric`, and how many `go_on`.

        Of equal ones the first of the sweep goes on. Raises `Refused` where no run has the figure.
        """
        steps = self.steps[number]
        points = [point for group in alive for point in group]
        if self.metric is None:
            found = [e for p in points if (e := evaluation(folder / p.name, steps[p.name])) is not None]
            self.metric = headline(found[0]) if found else "val_loss"
        values = {p.name: value_at(folder / p.name, steps[p.name], self.metric) for p in points}
        low, scores = lower_is_better(self.metric), list[float]()
        for group in alive:
            known = [v for point in group if (v := values[point.name]) is not None]
            mean = sum(known) / len(known) if known else math.inf
            scores.append(mean if low or not known else -mean)
        if all(score == math.inf for score in scores):
            raise Refused(f"no run of rung {number + 1} has the figure {self.metric} on val rows: nothing to choose by")
        places = sorted(range(len(scores)), key=lambda k: (scores[k], k))
        count = math.ceil(len(alive) / self.factor)
        stopped = {point.name: place + 1 for place, k in enumerate(places) if place >= count for point in alive[k]}
        return {
            "metric": self.metric,
            "better": "lower" if low else "higher",
            "steps": {point.name: steps[point.name] for point in points},
            "values": values,
            "stopped": stopped,
            "go_on": count,
        }


def halving_of(
    found: Sequence[Point], plans: Mapping[str, tuple[Plan, bool]], factor: int, metric: str | None
) -> Halving:
    """Rungs for the runs of a sweep, of which `plans` has the length, and whether there are val rows. Each rung has
    `factor` times the steps of the one before and the settings by `factor`. Raises `BadInput`."""
    groups: dict[str, list[Point]] = {}
    for point in found:
        key = json.dumps({axis: value for axis, value in point.shown.items() if axis != "seed"}, default=str)
        groups.setdefault(key, []).append(point)
    for point in found:
        planned, validated = plans[point.name]
        if planned.steps is None:
            raise BadInput(f"run {point.name}: halving goes by steps, and this lasts train.minutes: give train.steps")
        if not validated:
            raise BadInput(f"run {point.name}: halving chooses by val rows, and there are none: set data.val")
    lengths = {point.name: plans[point.name][0].steps or 0 for point in found}
    count = 0
    while factor ** (count + 1) <= min(len(groups), *lengths.values()):
        count += 1
    if not count:
        raise BadInput(
            f"halving by {factor} needs {factor} settings or more, and as many steps: there are {len(groups)} settings "
            f"and {min(lengths.values())} steps"
        )
    steps = [{n: math.ceil(total / factor ** (count - k)) for n, total in lengths.items()} for k in range(count)]
    for point in found:
        every = point.config.train.validate_every or plans[point.name][0].per_epoch
        if (metric == "val_loss" or not point.config.eval) and every > steps[0][point.name]:
            raise BadInput(
                f"run {point.name}: val_loss is first known at step {every}, and the first rung ends at step "
                f"{steps[0][point.name]}: -s train.validate_every={steps[0][point.name]}, or another --metric"
            )
    return Halving(factor, list(groups.values()), steps, metric, metric)


def lower_is_better(metric: str) -> bool:
    return metric.rpartition(".")[2] in LOW_IS_GOOD


def evaluation(run: Path, step: int) -> dict[str, Any] | None:
    """The newest on val rows of the weights of a step, or of those that a run ended with before."""
    found = [e for e in saved(run) if e["split"] == "val" and e["step"] is not None and e["step"] <= step]
    return max(found, key=lambda e: int(e["step"]), default=None)


def value_at(run: Path, step: int, metric: str) -> float | None:
    """A figure of a run at a step; of `val_loss` the lowest until then. None where it has none, as after a failure."""
    if metric == "val_loss":
        if not (run / METRICS).exists():
            return None
        with (run / METRICS).open(encoding="utf-8") as lines:
            told = [line for line in map(json.loads, lines) if line["step"] <= step]
        return min((line["val_loss"] for line in told if is_number(line.get("val_loss"))), default=None)
    found = evaluation(run, step)
    values = [v for path, v in figures(found or {}).items() if fnmatch.fnmatchcase(path, metric)]
    return sum(values) / len(values) if values else None


def said_of(rung: Mapping[str, Any]) -> list[str]:
    """What a rung has decided, a line for each run that stops: at which step, by which figure, at which place."""
    places, metric = len({*rung["stopped"].values()}) + rung["go_on"], rung["metric"]
    lines = []
    for name, place in rung["stopped"].items():
        value = rung["values"][name]
        figure = f"{metric} {value:.4g}" if value is not None else f"no {metric}"
        lines.append(
            f"stopped at step {rung['steps'][name]}: {name}, {figure}, place {place} of {places} "
            f"({rung['better']} is better; {rung['go_on']} go on)"
        )
    return lines
