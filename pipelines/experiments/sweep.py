"""`clx sweep`: many runs that differ in some settings, one after another or several at a time, and a table of them.

`sweep.json` in the sweep's folder holds which runs were asked for (see sweep_grid.py), with which settings; each shard
of a sweep has its own (see sweep_shards.py). How far a run is, its own folder tells, so a sweep that was stopped or
killed goes on where it was.
"""

import fnmatch
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clx.pipelines.config.upgrade import FORMAT, upgrade
from clx.pipelines.experiments.sweep_grid import Point
from clx.pipelines.experiments.sweep_shards import MANIFEST, home, notes, share, taken
from clx.pipelines.runs.listing import best_loss, figure, figures, flat, headline, mean_and_deviation, read_results
from clx.pipelines.runs.state import read, state_of
from clx.pipelines.system.durable_files import is_used, write_text
from clx.pipelines.system.errors import BadInput, Stopped, nearest
from clx.pipelines.system.shard import Shard

SCHEMA = 1


def ready(todo: Sequence[Point]) -> None:
    """Check every run against its data before the first begins. Raises `BadInput` that names the run."""
    from clx.pipelines.data.shared_content import inputs_of
    from clx.pipelines.data.splits import load_splits
    from clx.pipelines.model.build import checked, class_names
    from clx.pipelines.model.checks import try_objective
    from clx.pipelines.system.devices import pick_device
    from clx.pipelines.training.schedule import plan

    opened: dict[str, Any] = {}
    for point in todo:
        config = point.config
        try:
            pick_device(config.train.device)
            drawn = any(isinstance(part, dict) for part in config.data.model_dump().values())
            inputs = inputs_of(config)
            key = config.data.model_dump_json() + (f"{config.train.seed} {inputs}" if drawn else "")
            if key not in opened:
                opened[key] = load_splits(config.data, config.train.seed, inputs=inputs)
            splits = opened[key]
            config, modalities, losses = checked(config, splits)
            plan(config, len(splits["train"]))
            try_objective(config, modalities, losses, class_names(config, splits["train"]))
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
class SweepFile:
    """`sweep.json`: the settings that each run of the folder was asked for with, and which ones failed.

    It knows what every shard noted, and writes what `shard` has to.
    """

    folder: Path
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    shard: Shard | None = None

    @classmethod
    def open(cls, folder: Path, shard: Shard | None = None) -> "SweepFile":
        """What is noted of a folder. Raises `BadInput` when the folder is something else."""
        file = cls(folder, shard=shard)
        if folder.exists() and (not folder.is_dir() or is_used(folder)):
            if not any((folder / name).exists() for name in ("sweep.json", MANIFEST)):
                raise BadInput(f"{folder} exists and is no sweep: choose another folder with --out")
            for path in filter(Path.exists, notes(folder)):
                file._read(path)
        return file

    def _read(self, path: Path) -> None:
        """Add what one file notes."""
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            if told["schema"] != SCHEMA:
                raise BadInput(f"{path} was written by another version of clx")
            saved = {name: upgrade(config, str(path)) for name, config in dict(told["asked"]).items()}
            failed = {name: error for name, error in self.failed.items() if name not in saved}
            self.asked, self.failed = self.asked | saved, failed | dict(told["failed"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(f"{path} cannot be read ({error}): choose another --out") from None

    def write(self, mine: Sequence[Point] = ()) -> None:
        """Note what is known of the runs `mine`; without a shard, of all."""
        names = {point.name for point in mine} if self.shard else self.asked.keys() | self.failed.keys()
        saved = {name: {"format": FORMAT} | config for name, config in self.asked.items() if name in names}
        failed = {name: error for name, error in self.failed.items() if name in names}
        told = {"schema": SCHEMA, "asked": saved, "failed": failed}
        write_text(home(self.folder, self.shard) / "sweep.json", json.dumps(told, ensure_ascii=False, indent=1))

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


def due(
    found: Sequence[Point],
    folder: Path,
    metrics: Sequence[str],
    shard: Shard | None = None,
    *,
    retry_failed: bool,
    overwrite: bool,
) -> tuple["SweepFile", list[Point], set[str]]:
    """The file of a sweep, its runs (those of a shard) that are to be executed, and the names of those that start anew.

    Raises `BadInput` when one of them cannot start, or none can have one of `metrics`.
    """
    file = SweepFile.open(folder, shard)
    for wrong in wrong_metrics(metrics, found, folder):
        raise BadInput(wrong)
    anew, mine = set(), share(found, shard)
    for point in mine:
        if what := file.changed(point):
            if not overwrite:
                raise BadInput(
                    f"{folder / point.name} was started with other settings ({what}): choose another folder with "
                    "--out, or start the runs that changed anew with --overwrite"
                )
            anew.add(point.name)
            file.failed.pop(point.name, None)
    retried = {name for name in file.failed if retry_failed}
    todo = [p for p in mine if p.name in anew | retried or file.outcome(p) not in ("finished", "failed")]
    if todo:
        ready(todo)
    return file, todo, anew


def sweep(
    found: Sequence[Point],
    folder: Path,
    execute: Callable[[Sequence[tuple[Point, bool]], Path], Iterable[Outcome]],
    say: Callable[[str], None],
    metrics: Sequence[str] = (),
    shard: Shard | None = None,
    *,
    retry_failed: bool = False,
    overwrite: bool = False,
) -> list[str]:
    """Execute the runs that are not finished, of a shard its own, and return the names of those of them that failed,
    now or before.

    `execute` takes runs, each with whether it starts anew, and yields how they ended. Raises `BadInput`
    before the first run when one cannot start or none can have one of `metrics`, `Stopped` after a signal.
    """
    from clx.pipelines.runs.folder import clear

    mine = share(found, shard)
    file, todo, anew = due(found, folder, metrics, shard, retry_failed=retry_failed, overwrite=overwrite)
    for point in todo:
        file.failed.pop(point.name, None)
        file.asked[point.name] = asked(point)
    with taken(folder, shard, found):
        for name in anew:  # killed before its turn, it must not pass for a run of the new settings
            clear(folder / name, marked=True)
        file.write(mine)
        done = len(mine) - len(todo)
        unsure = set(metrics)
        if done and todo:
            say(f"{done} of {len(mine)} runs are done already")
        try:
            for name, error in execute([(point, point.name in anew) for point in todo], folder):
                done += 1
                if error is not None:
                    file.failed[name] = error
                    file.write(mine)
                say(f"{done} of {len(mine)}: {name} {'finished' if error is None else f'failed: {error}'}")
                if unsure and error is None:  # the first figures tell whether there are such
                    for wrong in wrong_metrics(unsure, found, folder):
                        say(f"warning: {wrong}")
                    unsure.clear()
        except Stopped as stopped:
            told = f"stopped with {done} of {len(mine)} runs done; the same command goes on"
            raise Stopped(told, stopped.exit_code) from None
    return [point.name for point in mine if point.name in file.failed]


def rows(found: Sequence[Point], folder: Path, metrics: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Each run with its settings, state and figures. Without `metrics`, the headline and the validation loss."""
    file = SweepFile.open(folder)
    finished = [point for point in found if file.outcome(point) == "finished"]
    if not metrics:
        shown = [headline(read_results(folder / point.name)) for point in finished]
        metrics = list(dict.fromkeys([*shown, "val_loss"]))
        if all(best_loss(folder / point.name) is None for point in finished) and len(metrics) > 1:
            metrics = metrics[:-1]
    made = []
    for point in found:
        state = file.outcome(point)
        values = {metric: figure(folder / point.name, metric) if state == "finished" else None for metric in metrics}
        row = {"run": point.name, **{key: _shown(value) for key, value in point.shown.items()}}
        made.append({**row, "state": state, **values, "error": file.failed.get(point.name)})
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
