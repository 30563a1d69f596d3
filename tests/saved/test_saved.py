"""What earlier versions saved is read as before: one folder per format, written by the last version that wrote it.

`format-1` was written by version 0.1.0 before configs carried a format number: two finished runs of a sweep, a run that
SIGTERM stopped at step 61 of 400, embeddings of one of the runs, and the config of a run with three inputs. All but the
last are of Symile with shuffled tuples, then called `negatives`, and a learned temperature, then without a dimension.

`format-2` was written by 413ae67: a finished run of 6 steps, whose head sees the mean of two inputs and whose val rows
were drawn one by one.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from clx.pipelines.config.objects import make_losses
from clx.pipelines.config.options import parse
from clx.pipelines.config.schema import Config
from clx.pipelines.config.upgrade import upgrade
from clx.pipelines.runs import checkpoint
from command import Command

SMALL = """
data: {train: rows.csv, label: kind}
modalities:
  table: {columns: [height, weight], width: 32, layers: 1}
  series: {column: line, width: 8, layers: 1, augmentation: none}
embed_dim: 8
objective: {name: symile, tuples: shuffled, temperature: 0.2, learn_temperature: true}
train: {steps: 6, batch_size: 8, lr: 0.01, validate_every: 3, keep: 1, device: cpu, ema: 0.9}
eval: [retrieval]
"""
"""The config of the sweep, with the option's present name."""
AXIS = "objective.temperature=0.1,0.3"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A copy, whose paths count from there."""
    copy = Path(shutil.copytree(Path(__file__).with_name("format-1"), tmp_path / "format-1"))
    (copy / "small.yaml").write_text(SMALL)
    return copy


def test_a_run_is_read(saved: Path, monkeypatch: pytest.MonkeyPatch, clx: Command) -> None:
    monkeypatch.chdir(saved)
    run = checkpoint.load(saved / "sweep" / "temperature=0.1", "last")
    assert run.config.objective[0].options["tuples"] == "shuffled"
    assert run.objective.leading.scale()[0] == pytest.approx(0.101868, abs=1e-5)
    done = clx("eval", "sweep/temperature=0.1", "--task", "retrieval", "--json", cwd=saved)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)["retrieval"]["series->table"]
    assert {name: line[name] for name in ("R@1", "R@5", "median_rank", "mAP", "AUC")} == {
        "R@1": 0.125,
        "R@5": 0.625,
        "median_rank": 4.5,
        "mAP": pytest.approx(0.339732, abs=1e-5),
        "AUC": 0.5,
    }


def test_a_stopped_run_goes_on(saved: Path, clx: Command) -> None:
    done = clx("train", "--resume", "unfinished", "-s", "train.steps=70", "--json", cwd=saved)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps_now"] == 9
    lines = [json.loads(line) for line in (saved / "unfinished" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line][-2:] == [60, 70]


def test_a_sweep_has_nothing_left_to_do_and_grows(saved: Path, clx: Command) -> None:
    for axis, states in ((AXIS, ["finished"] * 2), (f"{AXIS},0.9", ["finished", "finished", "new"])):
        done = clx("sweep", "small.yaml", "--grid", axis, "-o", "sweep", "--dry-run", "--json", cwd=saved)
        assert done.returncode == 0, done.stderr
        assert [line["state"] for line in json.loads(done.stdout)] == states


def test_embeddings_are_searched_and_are_those_of_the_run(saved: Path, clx: Command) -> None:
    done = clx("search", "embeddings/all.parquet", "--row", "3", "--in", "series", "--top", "3", "--json", cwd=saved)
    assert done.returncode == 0, done.stderr
    hits = json.loads(done.stdout)["hits"]
    assert [hit["id"] for hit in hits] == ["series/47.npy", "series/46.npy", "series/45.npy"]
    assert hits[0]["score"] == pytest.approx(0.999983, abs=1e-5)
    query = clx("search", "embeddings/all.parquet", "series/46.npy", "--in", "table", "--json", cwd=saved)
    assert query.returncode == 0, query.stderr  # the weights are those that the file was made by
    done = clx("embed", "sweep/temperature=0.1", "--data", "rows.csv", "-o", "again.npy", cwd=saved)
    assert done.returncode == 0, done.stderr
    old = [0.43073672, -0.62019753, -0.23824204, -0.46653435, 0.65215671, -0.17820524, -0.16344119, -0.12422140]
    np.testing.assert_allclose(np.load(saved / "again.series.npy")[3], old, atol=1e-5)


def test_a_config_of_three_inputs_is_read(saved: Path) -> None:
    raw = yaml.safe_load((saved / "config-of-three.yaml").read_text())
    assert "format" not in raw
    losses = make_losses(parse(Config, upgrade(raw, "config"), "config"))
    assert losses[0].tuples == "shuffled"  # type: ignore[attr-defined]


@pytest.fixture
def second(tmp_path: Path) -> Path:
    return Path(shutil.copytree(Path(__file__).with_name("format-2"), tmp_path / "format-2"))


def test_a_head_over_two_inputs_predicts_as_it_did(second: Path, clx: Command) -> None:
    done = clx("predict", "run", "rows.csv", "--probabilities", "--json", cwd=second)
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout.splitlines()[0])
    assert [first[f"p_{name}"] for name in ("falling", "rising", "waving")] == pytest.approx(
        [0.312473, 0.434196, 0.253330], abs=1e-5
    )


def test_a_run_goes_on_with_the_val_rows_that_it_had(second: Path, clx: Command) -> None:
    """The losses are those of the version that wrote it, but for 0.003, since views are drawn by row: the same rows are
    trained on, and held out."""
    done = clx("train", "--resume", "run", "--steps", "9", "--json", cwd=second)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (second / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["val_loss"] for line in lines if "val_loss" in line][-3:] == pytest.approx(
        [1.065216, 1.058877, 1.056884], abs=1e-4
    )
    assert [line["loss"] for line in lines if "loss" in line][-1] == pytest.approx(1.070068, abs=1e-4)
