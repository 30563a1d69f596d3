"""Runs that are broken on purpose, each in one way, and healthy ones: what `clx doctor RUN` is tried on.

`python tests/doctor_zoo.py FOLDER [NAME ...]` trains and examines them all, or those named, in FOLDER, and prints a
line for each and how many were found, missed and falsely accused.
"""

import csv
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clx.pipelines.config.schema import Config
from clx.pipelines.experiments.doctor.examine import examine_run
from clx.pipelines.experiments.train import train
from clx.pipelines.system.errors import BadInput, Refused
from clx.pipelines.system.progress import Silent

ROWS, CLASSES = 800, 8
Cells = dict[str, Any]
WORDS = ["red", "old", "far", "big", "wet", "raw", "dim", "hot"]
"""Two for each hidden number: below its median, and above."""
Change = Callable[[np.random.Generator, dict[str, Any]], None]


class Case(NamedTuple):
    """A run of the zoo."""

    expected: frozenset[str]
    """Checks of which one must have a problem; none of a healthy run."""
    config: dict[str, Any]
    change: Change = lambda draw, columns: None
    """What is done to the columns before they are written."""


def columns_of(draw: np.random.Generator) -> dict[str, Any]:
    """Three tables a, b, c that show one hidden thing of four numbers, a sentence that tells of it, its class, a number
    y that follows from it, and one row in five for validation."""
    centres = 2.5 * draw.normal(size=(CLASSES, 4))
    kind = draw.integers(0, CLASSES, ROWS)
    hidden = centres[kind] + draw.normal(size=(ROWS, 4))
    columns: dict[str, Any] = {}
    for name in "abc":
        seen = hidden @ draw.normal(size=(4, 4)) + 0.2 * draw.normal(size=(ROWS, 4))
        columns |= {f"{name}{k}": seen[:, k].round(4) for k in range(4)}
    bits = (hidden > np.median(hidden, 0)).astype(int)
    texts = [
        " ".join([*(WORDS[2 * k + b] for k, b in enumerate(row)), f"of {int(500 + 90 * h)} and {int(500 + 90 * g)}"])
        for row, h, g in zip(bits, hidden[:, 0], hidden[:, 1], strict=True)
    ]
    columns |= {"words": texts, "label": [f"k{k}" for k in kind]}
    columns["y"] = (hidden @ [1.0, -2.0, 0.5, 1.0] + 0.3 * draw.normal(size=ROWS)).round(4)
    columns["split"] = ["val" if draw.random() < 0.2 else "train" for _ in range(ROWS)]
    return columns


def table(name: str, **more: Any) -> dict[str, Any]:
    return {"kind": "table", "columns": [f"{name}[0-9]"], "width": 64, "layers": 2, **more}


def case(
    *expected: str,
    objective: Any = None,
    inputs: str = "ab",
    modalities: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    change: Change = lambda draw, columns: None,
    **settings: Any,
) -> Case:
    """Pairs of tables with CLIP's loss, but for what is said."""
    config = {
        "data": {"train": "rows.csv", **(data or {})},
        "modalities": modalities or {name: table(name) for name in inputs},
        "embed_dim": 32,
        "objective": objective or {"name": "clip", "temperature": 0.1},
        "train": {"steps": 150, "batch_size": 64, "lr": 3e-3, "validate_every": 50, **settings},
        "eval": [],
    }
    return Case(frozenset(expected), config, change)


def setting(columns: Sequence[str], value: Callable[[np.random.Generator], Any], share: float = 1.0) -> Change:
    """Give a share of the rows of columns other values."""

    def change(draw: np.random.Generator, cells: dict[str, Any]) -> None:
        for column in columns:
            cells[column] = [value(draw) if draw.random() < share else cell for cell in cells[column]]

    return change


def leak(draw: np.random.Generator, cells: dict[str, Any]) -> None:
    """Validation rows have the words of training rows."""
    known = [w for w, s in zip(cells["words"], cells["split"], strict=True) if s == "train"]
    both = zip(cells["words"], cells["split"], strict=True)
    cells["words"] = [known[draw.integers(len(known))] if s == "val" else w for w, s in both]


def unpaired(draw: np.random.Generator, cells: dict[str, Any]) -> None:
    """The rows of b stand beside any of a."""
    order = draw.permutation(ROWS)
    for k in range(4):
        cells[f"b{k}"] = np.array(cells[f"b{k}"])[order]


def shifted(draw: np.random.Generator, cells: dict[str, Any]) -> None:
    """Validation rows were measured in other units."""
    val = np.array(cells["split"]) == "val"
    for k in range(4):
        for name in "ab":
            cells[f"{name}{k}"] = np.where(val, np.array(cells[f"{name}{k}"]) * 0.1 + 9 - 3 * k, cells[f"{name}{k}"])


def many_classes(draw: np.random.Generator, cells: dict[str, Any]) -> None:
    cells["label"] = [f"k{k % 160}" for k in draw.permutation(ROWS)]


def telling(draw: np.random.Generator, cells: dict[str, Any]) -> None:
    """A column of the table is the class by another name."""
    cells["a9"] = [f"group {label}" for label in cells["label"]]


def few(draw: np.random.Generator, cells: dict[str, Any]) -> None:
    """Only three different rows of b."""
    for k in range(4):
        cells[f"b{k}"] = [int(label[1:]) % 3 + k for label in cells["label"]]


def holes(share: float, names: str) -> Change:
    """Some rows lack all of a table."""

    def change(draw: np.random.Generator, cells: dict[str, Any]) -> None:
        for name in names:
            gone = draw.random(ROWS) < share
            for k in range(4):
                cells[f"{name}{k}"] = ["" if g else v for g, v in zip(gone, cells[f"{name}{k}"], strict=True)]

    return change


LABEL = {"label": "label"}
WORDS_TOO = {"a": table("a"), "words": {"kind": "text", "layers": 1, "width": 32}}
VIEWS = {"a": table("a", views=2, augmentation="mild")}
HEAD = {"name": "cross-entropy"}

BROKEN = {
    "rate too low": case("rate", lr=1e-7),
    "rate too high": case("rate", "loss", "finite steps", lr=3.0, clip=None),
    "exploding": case("finite steps", lr=1e30, clip=None),
    "temperature too high": case(
        "temperature", objective={"name": "clip", "temperature": 10.0, "learn_temperature": False}
    ),
    "temperature at its limit": case(
        "temperature",
        objective={"name": "clip", "temperature": 0.2, "learn_temperature": True, "min_temperature": 0.19},
    ),
    "equal negatives": case("equal negatives", change=few),
    "collapse": case("collapse", objective={"name": "align-uniform", "uniformity": 0.0}, weight_decay=0.0),
    "one input carries all": case(
        "carried by", objective=HEAD, data=LABEL, change=setting(["b0", "b1", "b2", "b3"], lambda draw: draw.normal())
    ),
    "leak": case("leaks", modalities=WORDS_TOO, change=leak),
    "answer among the inputs": case("answers", objective=HEAD, data=LABEL, inputs="a", change=telling),
    "batch smaller than classes": case(
        "positives", objective={"name": "supcon"}, data=LABEL, inputs="a", change=many_classes, batch_size=32
    ),
    "dead input": case("inputs", change=setting(["b0", "b1", "b2", "b3"], lambda draw: 1.0)),
    "input missing in most rows": case("inputs", inputs="abc", change=holes(0.95, "c")),
    "head without gradient": case("gradient", inputs="abc", objective={"name": "clip", "inputs": ["a", "b"]}),
    "all frozen": case("gradient", modalities={n: table(n, freeze=True, head="none", width=32) for n in "ab"}),
    "wrong labels": case(
        "labels",
        objective={"name": "supcon"},
        data=LABEL,
        modalities=VIEWS,
        change=setting(["label"], lambda draw: f"k{draw.integers(CLASSES)}", 0.4),
    ),
    "labels at random": case(
        "learning",
        objective=HEAD,
        data=LABEL,
        inputs="a",
        change=setting(["label"], lambda draw: f"k{draw.integers(CLASSES)}"),
    ),
    "partners at random": case("train and val", change=unpaired, steps=600),
    "val rows of another kind": case("val rows", "train and val", change=shifted),
    "bad rows": case(
        "bad rows",
        data={"on_bad_row": "skip", "bad_row_budget": 0.9},
        change=setting(["b1"], lambda draw: "1,2,x", 0.1),
    ),
    "warm-up without end": case("warm-up", warmup=1.0),
    "decay too strong": case("weight decay", "learning", weight_decay=100.0, steps=300),
}

HEALTHY = {
    "clip": case(),
    "clip, learned temperature": case(objective={"name": "clip", "temperature": 0.1, "learn_temperature": True}),
    "siglip": case(objective={"name": "siglip"}),
    "infonce": case(objective={"name": "infonce", "temperature": 0.1}),
    "three tables": case(inputs="abc"),
    "nt-xent": case(objective={"name": "nt-xent"}, modalities=VIEWS),
    "vicreg": case(objective={"name": "vicreg"}, modalities=VIEWS),
    "align-uniform": case(objective={"name": "align-uniform"}),
    "supcon": case(objective={"name": "supcon"}, data=LABEL, modalities=VIEWS),
    "cross-entropy": case(objective=HEAD, data=LABEL, inputs="a"),
    "cross-entropy of two": case(objective=HEAD, data=LABEL),
    "mse": case(objective={"name": "mse"}, data={"target": ["y"]}, inputs="a"),
    "l1 of two": case(objective={"name": "l1"}, data={"target": ["y"]}),
    "rank-n-contrast": case(objective={"name": "rank-n-contrast"}, data={"target": ["y"]}, modalities=VIEWS),
    "words": case(modalities=WORDS_TOO, steps=300),
    "holes": case(inputs="abc", change=holes(0.2, "abc")),
    "slow and steady": case(lr=3e-4, steps=600),
    "few wrong labels": case(
        objective=HEAD,
        data=LABEL,
        inputs="a",
        change=setting(["label"], lambda draw: f"k{draw.integers(CLASSES)}", 0.05),
    ),
}


def trained(one: Case, folder: Path, seed: int = 0) -> Path:
    """The run of a case, trained in a folder that is made."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    columns = columns_of(draw)
    one.change(draw, columns)
    with (folder / "rows.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(columns)
        lines.writerows(zip(*columns.values(), strict=True))
    config = dict(one.config, data=dict(one.config["data"], train=str(folder / "rows.csv")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(Refused):  # after too many steps that were not finite
            train(Config.model_validate(config), folder / "run", Silent())
    return folder / "run"


def problems(run: Path) -> dict[str, str]:
    """Checks that have a problem, with what was seen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {row["check"]: row["value"] for row in examine_run(run) if row["level"] == "problem"}


def main(folder: Path, names: Sequence[str]) -> None:
    """Train and examine, and print what was found."""
    found = missed = false = healthy = 0
    for name, one in {**BROKEN, **{f"healthy {k}": v for k, v in HEALTHY.items()}}.items():
        if names and name not in names:
            continue
        try:
            seen = problems(trained(one, folder / name.replace(" ", "-")))
        except (BadInput, OSError) as error:
            print(f"{name}: ERROR {error}", flush=True)
            continue
        if one.expected:
            hit = bool(one.expected & set(seen))
            found, missed = found + hit, missed + (not hit)
            verdict = "found" if hit else "MISSED"
        else:
            healthy, false = healthy + 1, false + bool(seen)
            verdict = "FALSE" if seen else "silent"
        print(f"{verdict:7s} {name}: {', '.join(seen) or '-'}", flush=True)
        if verdict in ("MISSED", "FALSE"):
            for check, value in seen.items():
                print(f"        {check}: {value}", flush=True)
    print(f"broken: {found} found, {missed} missed; healthy: {false} of {healthy} falsely accused")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
