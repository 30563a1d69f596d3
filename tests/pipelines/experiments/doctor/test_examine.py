"""What the doctor says of runs that are broken on purpose, and of healthy ones; the rates that a run bears."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clx.pipelines.experiments.doctor import from_steps
from clx.pipelines.experiments.doctor.chance import blind, chance_of, class_counts
from clx.pipelines.experiments.doctor.from_space import doubted, embedded
from clx.pipelines.experiments.doctor.from_steps import Shuffled, guessed, held_out_batches, training_batches
from clx.pipelines.experiments.doctor.lr_range import lr_range
from clx.pipelines.experiments.doctor.opened import open_run
from doctor_zoo import BROKEN, HEALTHY, Case, problems, trained

AT_ONCE = [
    "temperature too high",
    "equal negatives",
    "dead input",
    "head without gradient",
    "leak",
    "warm-up without end",
]
"""What is broken in these shows after a few steps."""


def shortened(one: Case, steps: int) -> Case:
    config = one.config | {"train": one.config["train"] | {"steps": steps, "validate_every": steps}}
    return one._replace(config=config)


@pytest.mark.parametrize("name", AT_ONCE)
def test_found_after_a_few_steps(name: str, tmp_path: Path) -> None:
    one = BROKEN[name]
    assert one.expected & set(problems(trained(shortened(one, 4), tmp_path / "zoo")))


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(shortened(HEALTHY["clip"], 60), tmp_path_factory.mktemp("healthy") / "zoo")


def test_silent_on_a_healthy_run(healthy: Path) -> None:
    assert problems(healthy) == {}


def test_a_loss_over_classes_is_set_against_chance_among_these(tmp_path: Path) -> None:
    run = trained(BROKEN["labels at random"], tmp_path / "zoo")
    said = problems(run)["learning"]
    assert "chance among 8 classes is ln 8 = 2.0" in said
    assert said.endswith(": no more than a guess")
    opened = open_run(run)
    train = embedded(opened, opened.train)
    assert train is not None
    fallen = replace(train, z={"a": torch.ones_like(train.z["a"])})
    [found] = doubted(opened, fallen, None)
    assert found["level"] == "ok"
    assert "not looked at: embeddings of a are all but equal" in found["value"]


def uneven(draw: np.random.Generator, cells: dict[str, Any]) -> None:
    cells["label"] = list(draw.choice(["k0", "k1", "k2"], len(cells["label"]), p=[0.9, 0.08, 0.02]))


@pytest.mark.parametrize(
    ("balance", "power"), [({}, 0.5), ({"by": "sampling"}, 0.5), ({"rule": "inverse"}, 0), (None, 1)]
)
def test_chance_counts_rows_as_training_does(
    balance: dict[str, str] | None, power: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = BROKEN["labels at random"]
    config = one.config | {"data": one.config["data"] | {"balance": balance}}
    opened = open_run(trained(shortened(one._replace(config=config, change=uneven), 4), tmp_path / "zoo"))
    shares = class_counts(opened) ** power
    shares /= shares.sum()
    chance = chance_of(opened, 64)
    assert chance is not None
    assert chance.shares == pytest.approx(shares)
    assert chance.loss == pytest.approx(-(shares * np.log(shares)).sum())
    assert ("ln 3 = 1.1" in chance.said) == (power == 0)

    rows, val = training_batches(opened), held_out_batches(opened)
    at_val = np.mean([-np.log(shares)[batch.labels].mean() for batch in val])
    assert blind(shares, val) == pytest.approx(at_val)
    for training, other, said in ((0.95, 1.0, True), (0.95, 0.9, False), (0.85, 1.0, False)):
        seen = Shuffled(training * blind(shares, rows), blind(shares, rows))
        monkeypatch.setattr(from_steps, "shuffled", lambda *of, loss=other * at_val: Shuffled(loss, loss))
        assert bool(guessed(opened, rows, seen, chance)) == said


def test_chance_follows_the_weights_of_rows(tmp_path: Path) -> None:
    def weighed(draw: np.random.Generator, cells: dict[str, Any]) -> None:
        uneven(draw, cells)
        cells["counts"] = [{"k0": 0, "k1": 1, "k2": 4}[kind] for kind in cells["label"]]

    one = BROKEN["labels at random"]
    config = one.config | {"data": one.config["data"] | {"weight": "counts"}}
    opened = open_run(trained(shortened(one._replace(config=config, change=weighed), 4), tmp_path / "zoo"))
    shares = class_counts(opened) * [0, 1, 4]
    chance = chance_of(opened, 64)
    assert chance is not None
    assert chance.shares == pytest.approx(shares / shares.sum())
    assert "among 2 classes" in chance.said
    assert 0 < blind(chance.shares, training_batches(opened)) < 2  # the class that does not count costs nothing


def test_examining_changes_nothing_on_disk(healthy: Path) -> None:
    before = {path: path.read_bytes() for path in healthy.rglob("*") if path.is_file()}
    problems(healthy)
    lr_range(healthy, steps=3)
    assert {path: path.read_bytes() for path in healthy.rglob("*") if path.is_file()} == before


def test_rates_that_a_run_bears(healthy: Path) -> None:
    found = lr_range(healthy, steps=60)
    assert found["rate"] == 3e-3
    assert found["verdict"] == "fits"
    assert 1e-4 < found["suggested"] < 1
    assert len(found["curve"]) <= 60
    assert found["curve"][0][0] == 1e-6


def test_by_the_command(clx: Any, tmp_path: Path) -> None:
    run = trained(shortened(BROKEN["temperature too high"], 4), tmp_path / "zoo")
    done = clx("doctor", str(run), "--json")
    assert done.returncode == 3, done.stderr
    rows = {row["check"]: row for row in json.loads(done.stdout)}
    assert rows["temperature"]["level"] == "problem"
    assert rows["temperature"]["advice"] == "-s objective.temperature=0.1"
    assert "has problems: " in done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("nothing",), "not a run folder"),
        (("--replay",), "about a run"),
        (("RUN", "--replay"), "has kept no step"),
        (("RUN", "--replay", "--lr-range"), "one at a time"),
        (("RUN", "--imports"), "about this machine"),
    ],
)
def test_wrong_use(clx: Any, healthy: Path, given: tuple[str, ...], said: str) -> None:
    done = clx("doctor", *(str(healthy) if each == "RUN" else each for each in given))
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_found(name: str, tmp_path: Path) -> None:
    assert BROKEN[name].expected & set(problems(trained(BROKEN[name], tmp_path / "zoo")))


@pytest.mark.slow
@pytest.mark.parametrize("name", HEALTHY)
def test_silent(name: str, tmp_path: Path) -> None:
    assert problems(trained(HEALTHY[name], tmp_path / "zoo")) == {}
