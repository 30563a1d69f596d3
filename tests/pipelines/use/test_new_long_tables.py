"""`clx predict` and `clx embed` on tables of time steps that the run has not seen: a line a series, by no label."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest

from clx.pipelines.config.schema import Config
from clx.pipelines.experiments.train import train
from clx.pipelines.system.progress import Silent
from command import Command
from configs import small


def steps(folder: Path, name: str, rises: list[bool], labelled: bool) -> str:
    """A table of series of 12 steps that rise or fall, mixed up."""
    draw = np.random.default_rng(0)
    rows = [
        (f"s{k}", t, (t if up else -t) + k, "up" if up else "down") for k, up in enumerate(rises) for t in range(12)
    ]
    lines = [",".join(map(str, rows[i][: 4 if labelled else 3])) for i in draw.permutation(len(rows))]
    (folder / name).write_text("\n".join(["who,t,x,label" if labelled else "who,t,x", *lines]) + "\n")
    return str(folder / name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    data: dict[str, Any] = {
        "train": steps(folder, "train.csv", [k % 2 == 0 for k in range(20)], True),
        "label": "label",
        "long": {"id": "who", "time": "t", "channels": ["x"]},
    }
    series = {"encoder": "tcn", "width": 16, "scale": "per-series", "augmentation": "none"}
    raw = small(data, {"series": series}, "cross-entropy", train={"steps": 60, "batch_size": 10, "lr": 1e-2})
    train(Config.model_validate(raw), folder / "run", Silent())
    return folder


def test_predictions_are_of_series(clx: Command, trained: Path) -> None:
    rises = [True, True, False]
    done = clx("predict", trained / "run", steps(trained, "new.csv", rises, False), "--json")
    assert done.returncode == 0, done.stderr
    lines = {line["who"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert {who: line["predicted_label"] for who, line in lines.items()} == {"s0": "up", "s1": "up", "s2": "down"}
    assert sorted(line["row"] for line in lines.values()) == [1, 2, 3]


def test_embeddings_are_of_series(clx: Command, trained: Path) -> None:
    source = steps(trained, "more.csv", [True, False], False)
    done = clx("embed", trained / "run", "--data", source, "--out", trained / "more.parquet", "--id", "who")
    assert done.returncode == 0, done.stderr
    assert sorted(parquet.read_table(trained / "more.parquet").column("id").to_pylist()) == ["s0", "s1"]


def test_a_table_without_the_steps_is_refused(clx: Command, trained: Path) -> None:
    (trained / "other.csv").write_text("who,x\na,1\n")
    done = clx("predict", trained / "run", trained / "other.csv")
    assert done.returncode == 2
    assert "no column 't'" in done.stderr
