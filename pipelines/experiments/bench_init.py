"""What `clx init` chooses, beside a small sweep around it and beside what others make of the same rows."""

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from clx.pipelines.config.load import read_yaml
from clx.pipelines.config.options import parse
from clx.pipelines.config.schema import Config
from clx.pipelines.config.task_names import Task
from clx.pipelines.data.inferred import Asked
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.splits import load_splits
from clx.pipelines.data.write_recipe import recipe_for
from clx.pipelines.evaluation.evaluate import evaluate_run
from clx.pipelines.evaluation.results import Settings
from clx.pipelines.experiments import yardsticks
from clx.pipelines.experiments.train import train
from clx.pipelines.experiments.yardsticks import Yardstick
from clx.pipelines.system.errors import BadInput, nearest
from clx.pipelines.system.progress import Silent

RATES = (1 / 3, 1.0, 3.0)
"""The recipe's learning rate times these,"""
LENGTHS = (0.5, 2.0)
"""its epochs times these, and two objectives, are the sweep: twelve settings, fixed before any of them was run."""
STUDENT = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}
"""Two-sided 95 % points of Student's distribution, by how many differences there are."""


@dataclass(frozen=True)
class Set:
    """Rows, the flag that says what is asked of them, and what to set beside the recipe."""

    source: str
    """A path below the folder of data, or built-in data by name."""
    asked: Asked
    task: Task
    figure: str
    """A figure of `task`, of all inputs together."""
    yardstick: Yardstick
    rival: Any
    """The other objective of the sweep, as in a config."""
    rival_figure: tuple[Task, str] | None = None
    """Where its figure is another one."""
    prepare: Callable[[Path, Path], Path] | None = None
    """Makes the source from the folder of data in another folder."""


def regression(source: str, target: str, yardstick: Yardstick) -> Set:
    return Set(source, Asked(target=[target]), "regression", "mae", yardstick, {"name": "mse"})


def classification(source: str, yardstick: Yardstick, label: str = "label", **more: Any) -> Set:
    rival = {"name": "supcon", "temperature": 0.1}
    return Set(source, Asked(label=label), "classification", "top1", yardstick, rival, ("probe", "top1"), **more)


def ten_thousand(data: Path, work: Path) -> Path:
    """The first 8,000 training and the first 2,000 test rows of CIFAR-10, as one file."""
    import pyarrow as pa
    from pyarrow import parquet

    parts = []
    for split, count in (("train", 8000), ("test", 2000)):
        rows = parquet.read_table(data / "cifar10" / f"{split}.parquet").slice(0, count)
        parts.append(rows.append_column("split", pa.array([split] * count)))
    parquet.write_table(pa.concat_tables(parts), work / "cifar.parquet")
    return work / "cifar.parquet"


def scored_pairs(data: Path, work: Path) -> Path:
    """STS-B-DIR's three files as one."""
    import pyarrow as pa
    from pyarrow import csv

    parts = []
    for split in ("train", "val", "test"):
        rows = csv.read_csv(data / "stsb_dir" / f"{split}.csv", parse_options=csv.ParseOptions(newlines_in_values=True))
        parts.append(rows.append_column("split", pa.array([split] * len(rows))))
    csv.write_csv(pa.concat_tables(parts), work / "pairs.csv")
    return work / "pairs.csv"


HOUSE = ("bedrooms", "bathrooms", "area", "zipcode")
SETS = {
    "airfoil": regression("uci/airfoil.csv", "target", yardsticks.boosted_numbers("target")),
    "concrete": regression("uci/concrete.csv", "target", yardsticks.boosted_numbers("target")),
    "bike": regression("uci/bike.csv", "target", yardsticks.boosted_numbers("target")),
    "houses": regression("houses/houses.csv", "price", yardsticks.boosted_numbers("price", HOUSE)),
    "wine": classification("sklearn:wine", yardsticks.boosted_classes("label")),
    "breast cancer": classification("sklearn:breast_cancer", yardsticks.boosted_classes("label")),
    "mnist10k": classification("mnist10k/mnist10k.parquet", yardsticks.linear_pixels("label", 28)),
    "cifar10": classification("", yardsticks.linear_pixels("label"), prepare=ten_thousand),
    "stamps": classification("stamps/stamps.csv", yardsticks.linear_pixels("class"), "class"),
    "fsdd": classification("fsdd", yardsticks.linear_mel("label", "file_name")),
    "stsb": Set(
        "",
        Asked(target=["score"]),
        "sts",
        "spearman",
        yardsticks.tfidf_cosine("sentence1", "sentence2", "score"),
        {"name": "infonce", "temperature": 0.05, "inputs": ["sentence1", "sentence2"]},
        prepare=scored_pairs,
    ),
    "GunPoint": classification("aeon:GunPoint", yardsticks.minirocket("label")),
    "BasicMotions": classification("aeon:BasicMotions", yardsticks.minirocket("label")),
    "ItalyPowerDemand": classification("aeon:ItalyPowerDemand", yardsticks.minirocket("label")),
}


def table(
    names: Sequence[str], data: Path, seeds: int, sweep: bool, log: Path | None, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """A row a set: the error of the recipe, of the best of the sweep, chosen on val rows, and of the yardstick.

    Args:
        names: of `SETS`.
        data: the folder that the sources lie in.
        seeds: runs of every setting, 2 to 5.
        sweep: whether the sweep is run; without it the recipe stands beside the yardstick alone.
        log: a JSONL file to which every error is added when it is known; those that it has are not made again.
        say: hears of each run.

    Raises:
        BadInput: for a set that there is not, or whose rows are not there.
    """
    for name in names:
        if name not in SETS:
            raise BadInput(f"no set {name!r}{nearest(name, SETS)}")
    made = _Log(log)
    with tempfile.TemporaryDirectory() as folder:
        return [_row(name, SETS[name], data, Path(folder), seeds, sweep, made, say) for name in names]


def _row(
    name: str, of: Set, data: Path, work: Path, seeds: int, sweep: bool, made: "_Log", say: Callable[[str], None]
) -> dict[str, Any]:
    source = of.source
    if of.prepare is not None:
        source = str(of.prepare(data, work))
    elif ":" not in source:
        source = str(data / source)
    raw = read_yaml(recipe_for(source, of.asked))
    first = made.errors(name, "recipe", range(seeds), lambda s: _errors(of, raw, s, work, of.task, of.figure), say)
    outside = made.errors(name, "yardstick", [0], lambda seed: {"test": _outside(of, raw)}, say)
    row: dict[str, Any] = {"set": name, "recipe": _mean(first, "test"), "yardstick": _mean(outside, "test")}
    if not sweep:
        return row
    found, settings = {}, {}
    held = raw if _has_val(raw) else {**raw, "data": raw["data"] | {"val": {"fraction": 0.2}}}

    def run(text: str, changed: Mapping[str, Any], task: Task, figure: str) -> list[dict[str, float]]:
        return made.errors(name, text, range(seeds), lambda seed: _errors(of, changed, seed, work, task, figure), say)

    for rate, length, other in product(RATES, LENGTHS, (False, True)):
        text = f"lr x {rate:.3g}, epochs x {length:g}, {'rival' if other else 'own'} objective"
        task, figure = (of.rival_figure or (of.task, of.figure)) if other else (of.task, of.figure)
        settings[text] = rate, length, of.rival if other else None, task, figure
        found[text] = run(text, _changed(held, rate, length, of.rival if other else None), task, figure)
    best = min(found, key=lambda text: _mean(found[text], "val"))
    if held is not raw:  # the val rows were taken from those that the recipe learns from: give them back
        rate, length, objective, task, figure = settings[best]
        found[best] = run(f"{best}, all rows", _changed(raw, rate, length, objective), task, figure)
    ours, theirs = ([line["test"] for line in lines] for lines in (first, found[best]))
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    reach = STUDENT[seeds] * stdev(differences) / seeds**0.5
    return row | {
        "best of sweep": fmean(theirs),
        "setting": best,
        "ratio": fmean(ours) / max(fmean(theirs), 1e-12),
        "difference": fmean(differences),
        "interval": [fmean(differences) - reach, fmean(differences) + reach],
    }


def _mean(lines: Iterable[Mapping[str, float]], split: str) -> float:
    return fmean(line[split] for line in lines)


def _has_val(raw: Mapping[str, Any]) -> bool:
    return "val" in load_splits(parse(Config, raw, "recipe").data, seed=0)


def _changed(raw: Mapping[str, Any], rate: float, length: float, objective: Any) -> dict[str, Any]:
    train = raw["train"]
    changes = {"lr": train["lr"] * rate, "epochs": max(1, round(train["epochs"] * length))}
    return {**raw, "train": train | changes, **({"objective": objective} if objective else {})}


def _errors(of: Set, raw: Mapping[str, Any], seed: int, work: Path, task: Task, figure: str) -> dict[str, float]:
    """Train and ask the test rows, and the val rows where there are any."""
    config = parse(Config, {**raw, "train": raw["train"] | {"seed": seed}, "eval": []}, "recipe")
    out = work / "run"
    train(config, out, Silent(), overwrite=True)
    splits = [split for split in ("val", "test") if split in load_splits(config.data, seed)]
    return {split: _error(out, split, task, figure) for split in splits}


def _error(run: Path, split: str, task: Task, figure: str) -> float:
    result = evaluate_run(run, [task], Settings(resamples=0), split=split, say=lambda text: None)[task]
    value = [line for line in result.values() if isinstance(line, dict) and figure in line][-1][figure]
    return float(value if figure == "mae" else 1 - value)


def _outside(of: Set, raw: Mapping[str, Any]) -> float:
    splits = load_splits(parse(Config, raw, "recipe").data, seed=0)
    train, val = splits["train"], splits.get("val")
    if val is not None and val.table is train.table:  # it has no use for val rows: it learns from them too
        train = Manifest(train.name, train.root, train.table, np.sort(np.concatenate([train.rows, val.rows])))
    return of.yardstick(train, splits["test"])


class _Log:
    """Errors by set, setting and seed, in a file if there is one."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.lines = path, {}
        if path is not None and path.exists():
            try:
                lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
                self.lines = {(line["set"], line["setting"], line["seed"]): line for line in lines}
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise BadInput(f"{path} is not a log of this command: {error}") from None

    def errors(
        self,
        name: str,
        setting: str,
        seeds: Iterable[int],
        make: Callable[[int], dict[str, float]],
        say: Callable[[str], None],
    ) -> list[dict[str, float]]:
        """The errors of each seed, made where they are not known."""
        for seed in seeds:
            if (name, setting, seed) not in self.lines:
                begun = time.monotonic()
                line = {"set": name, "setting": setting, "seed": seed, **make(seed)}
                line["seconds"] = round(time.monotonic() - begun, 1)
                self.lines[name, setting, seed] = line
                shown = ", ".join(f"{split} {line[split]:.4g}" for split in ("val", "test") if split in line)
                say(f"{name}, {setting}, seed {seed}: {shown} in {line['seconds']} s")
                if self.path is not None:
                    with self.path.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(line) + "\n")
        return [self.lines[name, setting, seed] for seed in seeds]
