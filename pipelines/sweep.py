"""`clx sweep`: many runs that differ in some settings, one after another or several at a time, and a table of them.

The plan (which runs, under which names, with which settings) needs no torch; `sweep.json` in the sweep's folder holds
it. How far a run is, its own folder tells, so a sweep that was stopped or killed goes on where it was.
"""

import copy
import fnmatch
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from clx.pipelines.config import Config, Section
from clx.pipelines.configure import override, read_source
from clx.pipelines.disk import is_used, locked, write_text
from clx.pipelines.errors import BadInput, Stopped, nearest
from clx.pipelines.options import parse
from clx.pipelines.runs import best_loss, figure, figures, flat, headline, mean_and_deviation, read_results
from clx.pipelines.state import read, state_of

SCHEMA = 1
LONGEST = 40
"""Characters of one value in a run's name."""


def seeds_of(text: Any) -> list[int]:
    """Seeds from `0-4`, `0,3,7`, a number or a list.

    >>> seeds_of("0-2,7")
    [0, 1, 2, 7]
    """
    found: list[int] = []
    for part in text if isinstance(text, list) else str(text).split(","):
        ends = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", str(part))
        if not ends or int(ends[2] or ends[1]) < int(ends[1]):
            raise ValueError(f"seeds are numbers and ranges such as 0-4 or 0,3,7, not {part!r}")
        found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    return list(dict.fromkeys(found))


Variants = dict[str, dict[str, Any] | None]


class Plan(Section):
    """The section `sweep:` of a file."""

    base: str | None = None
    """Recipe or config file that all runs start from; the rest of this file when not given."""
    set: dict[str, Any] = {}
    """Settings of every run, by dotted key."""
    grid: dict[str, Variants | list[Any]] = {}
    """Axes that are crossed: a config key with a list of values, or any name with named variants, each a set of
    settings by dotted key (and `base`, to start from another config)."""
    seeds: Annotated[list[int], BeforeValidator(seeds_of)] = []
    metric: Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)] = []
    """Columns of the table: `val_loss`, or paths in the evaluation."""


@dataclass
class Point:
    """One run of a sweep."""

    name: str
    """Its folder in the sweep's."""
    shown: dict[str, Any]
    """What sets it apart: a value or variant by axis."""
    config: Config = field(repr=False)


def values_of(text: str) -> list[Any]:
    """The values of `1,2`, each read as YAML; commas in brackets and quotes part nothing.

    >>> values_of("1e-3,[a, b],{name: clip}")
    [0.001, ['a', 'b'], {'name': 'clip'}]
    """
    parts, depth, quote = [""], 0, ""
    for mark in text:
        if quote:
            quote = "" if mark == quote else quote
        elif mark in "'\"":
            quote = mark
        depth += (mark in "[{") - (mark in "]}") if not quote else 0
        if mark == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += mark
    found = []
    for part in parts:
        holder: dict[str, Any] = {}
        override(holder, f"value={part}")
        found.append(holder["value"])
    return found


def grid_of(settings: Iterable[str]) -> dict[str, Variants | list[Any]]:
    """Axes from `key=value,value` texts. Raises `BadInput`."""
    grid: dict[str, Variants | list[Any]] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key or not text:
            raise BadInput(f"--grid {setting}: expected key=value,value")
        if key in grid:
            raise BadInput(f"--grid {setting}: {key} is given twice; list all its values in one place")
        grid[key] = values_of(text)
    return grid


def read_plan(source: str, grid: Sequence[str] = (), seeds: str | None = None) -> tuple[Plan, dict[str, Any]]:
    """The sweep of a file's section `sweep` with what the command line adds, and the config it starts from."""
    raw = read_source(source)
    section = raw.pop("sweep", None)
    plan = parse(Plan, section or {}, f"{source}, sweep")
    more = grid_of(grid)
    for key in more:
        if key in plan.grid:
            raise BadInput(f"--grid {key}: {source} has this axis already")
    try:
        drawn = seeds_of(seeds) if seeds is not None else plan.seeds
    except ValueError as error:
        raise BadInput(f"--seeds {seeds}: {error}") from None
    plan = plan.model_copy(update={"grid": plan.grid | more, "seeds": drawn})
    if plan.base is not None:
        if raw:
            raise BadInput(
                f"{source}: sweep.base takes the place of a config, but {next(iter(raw))!r} stands beside it"
            )
        raw = read_source(plan.base)
    if not plan.grid and not plan.seeds:
        raise BadInput(f"nothing to vary: --grid key=a,b or --seeds 0-4, or a section `sweep` in {source}")
    return plan, raw


def points(plan: Plan, base: dict[str, Any], settings: Iterable[str] = ()) -> list[Point]:
    """Every run of a sweep, the last axis changing first; seeds change last of all, so that a sweep that is broken off
    has as many of each kind. `settings` are `-s` ones and win over the file's.

    Raises `BadInput` for a setting that is wrong, or two runs that come out the same.
    """
    for name in plan.grid:
        if name in ("run", "seed", "seeds", "state", "error"):
            raise BadInput(f"sweep axis {name}: the table has a column of that name; call it something else")
    axes = [_axis(name, values) for name, values in plan.grid.items()]
    if plan.seeds:
        axes.append([("seed", seed, f"seed={seed}", {"train.seed": seed}) for seed in plan.seeds])
    given = list(settings)
    swept = {key for axis in axes if axis[0][0] in (*axis[0][3], "seed") for key in axis[0][3]}
    for setting in given:
        if (key := setting.partition("=")[0]) in swept:
            raise BadInput(f"-s {setting}: {key} is swept, so one value for all runs means nothing")
    found: dict[str, Point] = {}
    every = list(itertools.product(*axes))
    if plan.seeds:
        every.sort(key=lambda chosen: plan.seeds.index(chosen[-1][1]))
    for chosen in every:
        name = "_".join(part for _, _, part, _ in chosen)
        merged: dict[str, Any] = dict(plan.set)
        for _, _, _, changes in chosen:
            merged |= changes
        config = _config(copy.deepcopy(base), merged, given, name)
        for other in found.values():
            if other.config == config:
                raise BadInput(f"runs {other.name} and {name} have the same settings: an axis changes nothing")
            if other.name.casefold() == name.casefold():
                raise BadInput(f"two runs would be called {name}: name the variants differently")
        found[name] = Point(name, {axis: value for axis, value, _, _ in chosen}, config)
    return list(found.values())


_Choice = tuple[str, Any, str, dict[str, Any]]
"""Axis, value as shown, part of the run's name, settings."""


def _axis(name: str, values: Variants | list[Any]) -> list[_Choice]:
    if not values:
        raise BadInput(f"sweep axis {name}: no values")
    if isinstance(values, dict):
        return [(name, variant, _safe(variant), changes or {}) for variant, changes in values.items()]
    key = name.rpartition(".")[2]
    return [(name, value, _safe(value, f"{key}="), {name: value}) for value in values]


def _safe(value: Any, before: str = "") -> str:
    """A value as part of a folder's name; what had to be changed for that gets a few letters of its digest.

    >>> _safe(0.001, "lr=")
    'lr=0.001'
    >>> _safe({"name": "clip"}, "objective=")
    'objective=name-clip-1ea3bd'
    """
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    plain = re.sub(r"[^\w.+-]+", "-", text)[:LONGEST]
    if plain != text or (not before and not plain[:1].isalnum()):
        plain = f"{plain.strip('-.')}-{hashlib.blake2b(text.encode(), digest_size=3).hexdigest()}".lstrip("-")
    return before + plain


def _config(raw: dict[str, Any], merged: Mapping[str, Any], settings: Iterable[str], name: str) -> Config:
    changes = dict(merged)
    source = changes.pop("base", None)
    if source is not None:
        raw = read_source(str(source))
        raw.pop("sweep", None)
    try:
        for key, value in changes.items():
            override(raw, f"{key}={json.dumps(value, default=str)}")
    except BadInput as error:
        raise BadInput(f"run {name}: {str(error).removeprefix('-s ')}") from None
    for setting in settings:
        override(raw, setting)
    return parse(Config, raw, f"run {name}")


def ready(todo: Sequence[Point]) -> None:
    """Check every run against its data before the first begins. Raises `BadInput` that names the run."""
    from clx.pipelines.build import check_columns, check_needs, make_losses, make_modalities, try_objective
    from clx.pipelines.device import pick_device
    from clx.pipelines.loop import plan
    from clx.pipelines.manifest import load_splits

    opened: dict[str, Any] = {}
    for point in todo:
        config = point.config
        try:
            pick_device(config.train.device)
            modalities, losses = make_modalities(config), make_losses(config)
            drawn = any(isinstance(part, dict) for part in config.data.model_dump().values())
            key = config.data.model_dump_json() + (str(config.train.seed) if drawn else "")
            splits = (
                opened[key] if key in opened else opened.setdefault(key, load_splits(config.data, config.train.seed))
            )
            for manifest in splits.values():
                check_columns(config, modalities, manifest)
            check_needs(config, losses, splits["train"], modalities)
            plan(config, len(splits["train"]))
            try_objective(config, modalities, losses)
        except BadInput as error:
            raise BadInput(f"run {point.name}: {error}") from None


def wrong_metrics(metrics: Iterable[str], found: Sequence[Point], folder: Path) -> Iterator[str]:
    """What is wrong with each metric that no run can have, or that none has of those that were evaluated so far."""
    tasks = {task for point in found for task in point.config.eval}
    there = [figures(read_results(folder / point.name)) for point in found]
    for metric in metrics:
        task = metric.partition(".")[0]
        if metric == "val_loss":
            continue
        if not fnmatch.filter(tasks, task):
            yield f"--metric {metric}: no run evaluates {task!r}{nearest(task, [*tasks, 'val_loss'])}"
            continue
        of_task = [paths for paths in there if any(fnmatch.fnmatchcase(path.partition(".")[0], task) for path in paths)]
        if of_task and not any(fnmatch.filter(paths, metric) for paths in of_task):
            yield f"--metric {metric}: no run has such a figure{nearest(metric, of_task[0])}"


@dataclass
class Book:
    """`sweep.json`: the settings that each run of the folder was asked for with, and which ones failed."""

    folder: Path
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> "Book":
        """The book of a folder. Raises `BadInput` when the folder is something else."""
        path = folder / "sweep.json"
        if not path.exists():
            if folder.exists() and (not folder.is_dir() or is_used(folder)):
                raise BadInput(f"{folder} exists and is no sweep: choose another folder with --out")
            return cls(folder)
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            if told["schema"] != SCHEMA:
                raise BadInput(f"{path} was written by another version of clx")
            return cls(folder, dict(told["asked"]), dict(told["failed"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(f"{path} cannot be read ({error}): choose another --out") from None

    def write(self) -> None:
        told = {"schema": SCHEMA, "asked": self.asked, "failed": self.failed}
        write_text(self.folder / "sweep.json", json.dumps(told, ensure_ascii=False, indent=1))

    def changed(self, point: Point) -> str | None:
        """The first setting in which a run differs from the one of its name that was asked for before."""
        if point.name not in self.asked:
            return None
        old, new = flat(self.asked[point.name]), flat(asked(point))
        keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
        return f"{keys[0]} was {old.get(keys[0])} and is {new.get(keys[0])}" if keys else None

    def outcome(self, point: Point) -> str:
        """`finished`, `failed`, `running`, `interrupted` or `new`."""
        if point.name in self.failed:
            return "failed"
        out = self.folder / point.name
        if not read(out):
            return "new"
        state = state_of(out)
        return "interrupted" if state == "failed" else state  # the sweep ended before it could note the failure


def asked(point: Point) -> dict[str, Any]:
    """What a run's config says beyond the defaults, which another version of clx may have others of."""
    return point.config.model_dump(mode="json", exclude_unset=True)


Outcome = tuple[str, str | None]
"""Name of a run with the error that it ended with."""


def sweep(
    found: Sequence[Point],
    folder: Path,
    execute: Callable[[Sequence[tuple[Point, bool]], Path], Iterable[Outcome]],
    say: Callable[[str], None],
    metrics: Sequence[str] = (),
    *,
    retry_failed: bool = False,
    overwrite: bool = False,
) -> list[str]:
    """Execute the runs that are not finished, and return the names of those that failed, now or before.

    `execute` takes runs, each with whether it starts anew, and yields how they ended. Raises `BadInput`
    before the first run when one cannot start or none can have one of `metrics`, `Stopped` after a signal.
    """
    from clx.pipelines.train import clear

    book = Book.open(folder)
    for wrong in wrong_metrics(metrics, found, folder):
        raise BadInput(wrong)
    anew = set()
    for point in found:
        if what := book.changed(point):
            if not overwrite:
                raise BadInput(
                    f"{folder / point.name} was started with other settings ({what}): choose another folder with "
                    "--out, or start the runs that changed anew with --overwrite"
                )
            anew.add(point.name)
            book.failed.pop(point.name, None)
    retried = {name for name in book.failed if retry_failed}
    todo = [p for p in found if p.name in anew | retried or book.outcome(p) not in ("finished", "failed")]
    if todo:
        ready(todo)
    for point in todo:
        book.failed.pop(point.name, None)
        book.asked[point.name] = asked(point)
    with locked(folder):
        for name in anew:  # killed before its turn, it must not pass for a run of the new settings
            clear(folder / name, marked=True)
        book.write()
        done = len(found) - len(todo)
        unsure = set(metrics)
        if done and todo:
            say(f"{done} of {len(found)} runs are done already")
        try:
            for name, error in execute([(point, point.name in anew) for point in todo], folder):
                done += 1
                if error is not None:
                    book.failed[name] = error
                    book.write()
                say(f"{done} of {len(found)}: {name} {'finished' if error is None else f'failed: {error}'}")
                if unsure and error is None:  # the first figures tell whether there are such
                    for wrong in wrong_metrics(unsure, found, folder):
                        say(f"warning: {wrong}")
                    unsure.clear()
        except Stopped as stopped:
            told = f"stopped with {done} of {len(found)} runs done; the same command goes on"
            raise Stopped(told, stopped.exit_code) from None
    return [point.name for point in found if point.name in book.failed]


def rows(found: Sequence[Point], folder: Path, metrics: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Each run with its settings, state and figures. Without `metrics`, the headline and the validation loss."""
    book = Book.open(folder)
    finished = [point for point in found if book.outcome(point) == "finished"]
    if not metrics:
        shown = [headline(read_results(folder / point.name)) for point in finished]
        metrics = list(dict.fromkeys([*shown, "val_loss"]))
        if all(best_loss(folder / point.name) is None for point in finished) and len(metrics) > 1:
            metrics = metrics[:-1]
    made = []
    for point in found:
        state = book.outcome(point)
        values = {metric: figure(folder / point.name, metric) if state == "finished" else None for metric in metrics}
        row = {"run": point.name, **{key: _shown(value) for key, value in point.shown.items()}}
        made.append({**row, "state": state, **values, "error": book.failed.get(point.name)})
    return made


def _shown(value: Any) -> Any:
    return json.dumps(value, default=str) if isinstance(value, list | dict) else value


def table(made: Sequence[dict[str, Any]], axes: Sequence[str]) -> list[dict[str, Any]]:
    """Runs that differ by nothing but their seed as one row: mean and `_std` of each figure, how many, how many failed.

    `axes` are the columns that tell runs apart.
    """
    kept = [axis for axis in axes if axis != "seed"]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in made:
        groups.setdefault(tuple(json.dumps(row[axis]) for axis in kept), []).append(row)
    metrics = [key for key in made[0] if key not in ("run", "state", "error", *axes)]
    lines = []
    for group in groups.values():
        line = {axis: group[0][axis] for axis in kept}
        for metric in metrics:
            values = [row[metric] for row in group if row[metric] is not None]
            line[metric], deviation = mean_and_deviation(values) if values else (None, None)
            if "seed" in axes:
                line[f"{metric}_std"] = deviation
        if "seed" in axes:
            line["seeds"] = sum(row["state"] == "finished" for row in group)
        states = {row["state"] for row in group} - {"finished"}
        line["state"] = "finished" if not states else ", ".join(sorted(states))
        lines.append(line)
    return lines
