"""`clx sweep`: many runs that differ in some settings, one after another or several at a time, and a table of them.

`sweep.json` in the sweep's folder holds which runs were asked for (see sweep_grid.py), with which settings; each shard
of a sweep has its own (see sweep_shards.py). How far a run is, its own folder tells, so a sweep that was stopped or
killed goes on where it was.
"""

import fnmatch
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clx.pipelines.experiments.sweep_file import SCHEMA as SCHEMA
from clx.pipelines.experiments.sweep_file import SweepFile, asked
from clx.pipelines.experiments.sweep_grid import Point
from clx.pipelines.experiments.sweep_halving import Halving, halving_of, said_of
from clx.pipelines.experiments.sweep_shards import share, taken
from clx.pipelines.runs.listing import best_loss, figure, figures, headline, mean_and_deviation, read_results, terms_of
from clx.pipelines.system.errors import BadInput, Stopped, nearest
from clx.pipelines.system.shard import Shard
from clx.pipelines.training.schedule import Plan, plan


def ready(todo: Sequence[Point]) -> dict[str, tuple[Plan, bool]]:
    """Check every run against its data before the first begins; how long each is, and whether it has val rows. Raises
    `BadInput` that names the run."""
    from clx.pipelines.data.shared_content import inputs_of
    from clx.pipelines.data.splits import load_splits
    from clx.pipelines.model.build import checked, class_names
    from clx.pipelines.model.checks import try_objective
    from clx.pipelines.system.devices import pick_device

    opened: dict[str, Any] = {}
    plans: dict[str, tuple[Plan, bool]] = {}
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
            plans[point.name] = plan(config, len(splits["train"])), "val" in splits
            try_objective(config, modalities, losses, class_names(config, splits["train"]))
        except BadInput as error:
            raise BadInput(f"run {point.name}: {error}") from None
    return plans


def halved(found: Sequence[Point], factor: int, metrics: Sequence[str]) -> Halving:
    """A search by halving among some runs, by the first of `metrics`. Raises `BadInput`."""
    return halving_of(found, ready(found), factor, metrics[0] if metrics else None)


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
    halving: Halving | None = None,
) -> tuple[SweepFile, list[Point], set[str]]:
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
    if halving is not None:
        _same_search(file, halving, overwrite, anew, retried)
    elif todo:
        ready(todo)
    return file, todo, anew


def _same_search(file: SweepFile, halving: Halving, overwrite: bool, anew: set[str], retried: set[str]) -> None:
    """Forget what was decided of runs that begin anew, and what was since runs failed that are tried again.

    Raises `BadInput` where it was another search's.
    """
    known, now = file.halving.get("settings"), halving.settings()
    if known not in (None, now) and not overwrite:
        raise BadInput(
            f"{file.folder} was halved otherwise (its factor, its runs or its metric): choose another folder with "
            "--out, or decide anew with --overwrite"
        )
    if known != now or anew:
        file.halving = {"settings": now, "rungs": []}
    rungs = file.halving["rungs"]
    unknown = (k for k, rung in enumerate(rungs) if any(rung["values"].get(name, 0) is None for name in retried))
    del rungs[next(unknown, len(rungs)) :]


def sweep(
    found: Sequence[Point],
    folder: Path,
    execute: "Execute",
    say: Callable[[str], None],
    metrics: Sequence[str] = (),
    shard: Shard | None = None,
    *,
    retry_failed: bool = False,
    overwrite: bool = False,
    halving: Halving | None = None,
) -> list[str]:
    """Execute the runs that are not finished, of a shard its own, and return the names of those of them that failed,
    now or before. With `halving` each goes as far as that decides.

    `execute` takes runs, each with whether it starts anew, and yields how they ended. Raises `BadInput`
    before the first run when one cannot start or none can have one of `metrics`, `Stopped` after a signal.
    """
    from clx.pipelines.runs.folder import clear

    mine = share(found, shard)
    file, todo, anew = due(
        found, folder, metrics, shard, retry_failed=retry_failed, overwrite=overwrite, halving=halving
    )
    for point in todo:
        file.failed.pop(point.name, None)
        file.asked[point.name] = asked(point)
    work = Work(file, found, mine, anew, execute, say, set(metrics))
    with taken(folder, shard, found):
        for name in anew:  # killed before its turn, it must not pass for a run of the new settings
            clear(folder / name, marked=True)
        file.write(mine)
        if halving is not None:
            in_rungs(work, halving, todo)
        else:
            if len(mine) > len(todo) and todo:
                say(f"{len(mine) - len(todo)} of {len(mine)} runs are done already")
            work.carry_out(todo)
    return [point.name for point in mine if point.name in file.failed]


Execute = Callable[[Sequence[tuple[Point, bool]], Path], Iterable[Outcome]]


@dataclass
class Work:
    """Runs of a sweep that are executed, and what is noted and said of them."""

    file: SweepFile
    found: Sequence[Point]
    mine: Sequence[Point]
    anew: set[str]
    execute: Execute
    say: Callable[[str], None]
    unsure: set[str]
    """Metrics of which nobody knows yet whether the runs have them."""

    def carry_out(self, todo: Sequence[Point]) -> None:
        """Execute some runs; of others, which were done before, nothing is said. Raises `Stopped` after a signal."""
        count, until = len(self.mine), {point.name: point.until for point in todo}
        done = count - len(todo) if not any(until.values()) else 0
        count = count if not any(until.values()) else len(todo)
        try:
            for name, error in self.execute([(point, point.name in self.anew) for point in todo], self.file.folder):
                done += 1
                self.anew.discard(name)
                if error is not None:
                    self.file.failed[name] = error
                    self.file.write(self.mine)
                ended = "finished" if until[name] is None else f"is at step {until[name]}"
                self.say(f"{done} of {count}: {name} {ended if error is None else f'failed: {error}'}")
                ended_whole = error is None and until[name] is None
                if self.unsure and ended_whole:  # the first figures tell whether there are such
                    for wrong in wrong_metrics(self.unsure, self.found, self.file.folder):
                        self.say(f"warning: {wrong}")
                    self.unsure.clear()
        except Stopped as stopped:
            told = f"stopped with {done} of {count} runs done; the same command goes on"
            raise Stopped(told, stopped.exit_code) from None


def in_rungs(work: Work, halving: Halving, todo: Sequence[Point]) -> None:
    """Execute rung after rung; what one has decided stands. Says which settings stop, and by which figures."""
    file, open_ones = work.file, {point.name for point in todo}
    alive, rungs = halving.groups, file.halving["rungs"]
    for number, line in enumerate(halving.told()):
        if number < len(rungs):
            halving.metric = rungs[number]["metric"]
        else:
            work.say(line)
            points = halving.rung(number, alive)
            work.carry_out([p for p in points if p.name in open_ones and p.name not in file.failed])
            if number == len(halving.steps):
                return
            rungs.append(halving.decide(number, alive, file.folder))
            file.write(work.mine)
            for told in said_of(rungs[number]):
                work.say(told)
        alive = [group for group in alive if group[0].name not in rungs[number]["stopped"]]


def rows(
    found: Sequence[Point], folder: Path, metrics: Sequence[str] = (), say: Callable[[str], None] = lambda line: None
) -> list[dict[str, Any]]:
    """Each run with its settings, state and figures. Without `metrics`, the headline, and the validation loss unless
    the runs are of several objectives, which `say` is told."""
    file = SweepFile.open(folder)
    finished = [point for point in found if file.outcome(point) == "finished"]
    if not metrics:
        shown = [headline(read_results(folder / point.name)) for point in finished]
        metrics = list(dict.fromkeys([*shown, "val_loss"]))
        if all(best_loss(folder / point.name) is None for point in finished) and len(metrics) > 1:
            metrics = metrics[:-1]
        elif len(metrics) > 1 and len({terms_of(point.config) for point in finished}) > 1:
            metrics = metrics[:-1]
            say("val_loss is left out: losses of unlike objectives cannot be compared; --metric val_loss shows them")
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
