"""What was trained: run folders read without torch, as rows to list, one in full, or several side by side."""

import fnmatch
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clx.pipelines.config.schema import Config
from clx.pipelines.config.secrets import without_secrets
from clx.pipelines.config.stage_configs import trained_before
from clx.pipelines.config.task_names import TASKS
from clx.pipelines.runs.folder import BAD_ROWS, CONFIG, LAST, METRICS, STATE, best, checkpoints, is_number, read_config
from clx.pipelines.runs.stages import stage_folder
from clx.pipelines.runs.state import read, state_of
from clx.pipelines.system.errors import BadInput, nearest
from clx.pipelines.system.remote import shown as shown_url


def find(folder: Path) -> list[Path]:
    """Every run folder in a folder, at any depth. Raises `BadInput` when there is no such folder."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; runs lie in runs/ unless --out said otherwise")
    runs = []
    for place, inner, files in os.walk(folder):
        if CONFIG in files or STATE in files:
            runs.append(Path(place))
            inner.clear()
        inner[:] = sorted(name for name in inner if not name.startswith("."))
    return runs


def read_evaluation(path: Path) -> dict[str, Any]:
    """An evaluation in a file. Raises `FileNotFoundError`, and `BadInput` for what is none."""
    try:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from None
    if not isinstance(evaluation, dict) or not all(isinstance(evaluation.get(task, {}), dict) for task in TASKS):
        raise BadInput(f"{path} is not an evaluation")
    return evaluation


def read_results(run: Path) -> dict[str, Any]:
    """The evaluation that ended a run's training; nothing when there was none. Raises `BadInput` when it is damaged."""
    try:
        return read_evaluation(run / LAST)
    except FileNotFoundError:
        return {}


def figures(results: dict[str, Any]) -> dict[str, float]:
    """Every figure of an evaluation by its path, such as `zeroshot.image.top1`, `dims.64.zeroshot.image.top1` of the
    first 64 columns."""
    return _numbers({task: results[task] for task in (*TASKS, "dims") if task in results})


def _numbers(value: Any, path: str = "") -> dict[str, float]:
    if isinstance(value, dict):
        inner = (_numbers(item, f"{path}.{key}" if path else str(key)) for key, item in value.items())
        return {key: number for found in inner for key, number in found.items()}
    return {path: value} if is_number(value) else {}


def figure(run: Path, metric: str) -> float | None:
    """One figure of a run: `val_loss`, the lowest, or a path in its evaluation; `*` in it takes the mean of all."""
    if metric == "val_loss":
        return best_loss(run)
    values = [value for path, value in figures(read_results(run)).items() if fnmatch.fnmatchcase(path, metric)]
    return sum(values) / len(values) if values else None


def best_loss(run: Path) -> float | None:
    """The lowest validation loss of the checkpoints that are kept: that of the weights that are used."""
    kept = checkpoints(run)
    return best(kept).score if kept else None


HEADLINES = {
    "classification": "top1",
    "sts": "spearman",
    "zeroshot": "top1",
    "regression": "mae",
    "probe": "top1",
    "svm": "top1",
    "knn": "top1",
    "recall": "R@1",
}


def headline(results: dict[str, Any]) -> str:
    """The figure to look at first: of the first task of `HEADLINES` from all inputs together, else of the first
    forecast, else recall at 1, else the validation loss."""
    for task, measure in HEADLINES.items():
        if inputs := [name for name, line in results.get(task, {}).items() if isinstance(line, dict)]:
            return f"{task}.{inputs[-1]}.{measure}"  # all together stand last
    if ahead := results.get("forecast"):
        return f"forecast.{next(iter(ahead))}.mse"  # of the run itself; baselines stand behind
    return "retrieval.*.R@1" if results.get("retrieval") else "val_loss"


def summary(run: Path, name: str | None = None) -> dict[str, Any]:
    """One run as a row; loss and figure are of the weights of `of_step`. Raises `BadInput` for a damaged folder."""
    config, state, results, kept = read_config(run), read(run), read_results(run), checkpoints(run)
    started = state.get("started") or datetime.fromtimestamp((run / CONFIG).stat().st_mtime, UTC).isoformat()
    shown = headline(results)
    return {
        "run": name or str(run),
        "started": started[:19],
        "data": " + ".join(Path(shown_url(source)).name for source in config.data.sources),
        "objective": " > ".join(map(terms_of, [*trained_before(config).values(), config])),
        "state": state_of(run),
        "stage": stage_of(config, run),
        "step": kept[-1].step if kept else 0,
        "steps": state.get("steps") or config.train.steps,
        "of_step": results.get("step") or (best(kept).step if kept else None),
        "val_loss": best(kept).score if kept else None,
        "metric": None if shown == "val_loss" else shown,
        "value": None if shown == "val_loss" else figure(run, shown),
        "error": state.get("error"),
    }


def terms_of(config: Config) -> str:
    """The losses of a config, as `clip+supcon`."""
    return "+".join(term.name for term in config.objective)


def stage_of(config: Config, run: Path) -> str | None:
    """Which of its stages a run is in, or has ended with, as `2 of 3`; None where it has none."""
    count = len(config.stages)
    begun = [count] if checkpoints(run) else [k + 1 for k in range(count - 1) if checkpoints(stage_folder(run, k))]
    return f"{max(begun, default=1)} of {count}" if count else None


def list_runs(folder: Path, metrics: Sequence[str] = (), sort: str = "run", reverse: bool = False) -> Iterator[Any]:
    """A row per run in a folder, sorted; a damaged one gives its path with the reason, first of all.

    `metrics` (see `figure`) stand in place of the headline. Raises `BadInput` for an unknown column.
    """
    rows = []
    for run in find(folder):
        try:
            row = summary(run, str(run.relative_to(folder)))
            if metrics:
                row = {key: value for key, value in row.items() if key not in ("metric", "value")}
                row |= {metric: figure(run, metric) for metric in metrics}
            rows.append(row)
        except BadInput as error:
            yield run, str(error)
    if rows and sort not in rows[0]:
        raise BadInput(f"--sort {sort}: no such column{nearest(sort, rows[0])}")
    sortable = [row for row in rows if row[sort] is not None]
    yield from sorted(sortable, key=lambda row: row[sort], reverse=reverse)
    yield from (row for row in rows if row[sort] is None)


def details(run: Path) -> dict[str, Any]:
    """Everything that a run folder tells. Raises `BadInput` for a damaged one."""
    row = summary(run)
    chosen = best(checkpoints(run)) if checkpoints(run) else None
    row["bad_rows"] = sum(1 for _ in lines(run / BAD_ROWS))
    row["bytes"] = size(run)
    row["checkpoints"] = [
        {"step": one.step, "val_loss": one.score, "bytes": size(one.path), "best": one == chosen}
        for one in checkpoints(run)
    ]
    row["figures"] = figures(read_results(run))
    row["curves"] = curves(run)
    row["config"] = without_secrets(read_config(run)).model_dump(mode="json")
    return row


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a JSON lines file; a crash may have left half of one."""
    if not path.exists():
        return
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """`loss` and `val_loss` over the steps, where they are finite."""
    points: dict[str, list[tuple[int, float]]] = {}
    for line in lines(run / METRICS):
        for name in ("loss", "val_loss"):
            value = line.get(name)
            if is_number(value) and math.isfinite(value) and isinstance(line.get("step"), int):
                points.setdefault(name, []).append((line["step"], value))
    return points


UNLIKE = "the objectives differ, and so does what val_loss measures: it is left out"


def compare(runs: Sequence[Path]) -> dict[str, Any]:
    """The config keys in which runs differ, and their figures, by run, without `val_loss` where the objectives differ,
    which `notes` then say. Raises `BadInput` for a damaged run."""
    runs = list(dict.fromkeys(runs))
    rows = {str(run): summary(run) for run in runs}
    if len(rows) < 2:
        raise BadInput("name two runs or more to compare")
    configs = [settings(read_config(run)) for run in runs]
    numbers = [
        {
            "step": row["step"],
            "figures of step": row["of_step"],
            "val_loss": row["val_loss"],
            **figures(read_results(run)),
        }
        for run, row in zip(runs, rows.values(), strict=True)
    ]
    unlike = len(set(map(objective_in, configs))) > 1
    for line in numbers if unlike else ():
        del line["val_loss"]
    sides = {"config": (configs, True), "figures": (numbers, False)}
    table = {
        side: {
            key: {name: one.get(key) for name, one in zip(rows, values, strict=True)}
            for key in dict.fromkeys(key for one in values for key in one)
            if not differing or len({json.dumps(one.get(key)) for one in values}) > 1
        }
        for side, (values, differing) in sides.items()
    }
    return {"runs": list(rows), **table, "notes": [UNLIKE] if unlike else []}


def objective_in(values: dict[str, Any]) -> str:
    """The part of `settings` that says what a loss measures, as text."""
    return json.dumps({key: value for key, value in values.items() if key.startswith("objective")})


def settings(config: Config) -> dict[str, Any]:
    """A config by dotted keys; an objective of one term without its number."""
    raw = without_secrets(config).model_dump(mode="json")
    terms = raw["objective"]
    return flat(raw | {"objective": terms[0] if len(terms) == 1 else dict(enumerate(terms))})


def flat(values: dict[Any, Any], path: str = "") -> dict[str, Any]:
    """Nested keys as `a.b.c`.

    >>> flat({"a": {"b": 1, "c": [2]}})
    {'a.b': 1, 'a.c': [2]}
    """
    by_path: dict[str, Any] = {}
    for key, value in values.items():
        inner = f"{path}.{key}" if path else str(key)
        by_path |= flat(value, inner) if isinstance(value, dict) and value else {inner: value}
    return by_path


def mean_and_deviation(values: Iterable[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; of a single value there is none.

    >>> mean_and_deviation([1.0, 2.0, 3.0])
    (2.0, 1.0)
    """
    given = list(values)
    mean = math.fsum(given) / len(given)
    if len(given) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in given) / (len(given) - 1))
