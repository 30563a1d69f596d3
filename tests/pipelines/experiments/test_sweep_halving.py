"""Successive halving: who stops, and that who goes on is the run that it would have been alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clx.pipelines.config.schema import Config
from clx.pipelines.experiments import sweep_jobs
from clx.pipelines.experiments.sweep import halved, rows, sweep, table
from clx.pipelines.experiments.sweep_grid import Plan, Point, points, read_plan
from clx.pipelines.experiments.sweep_halving import halving_of, lower_is_better
from clx.pipelines.experiments.train import train
from clx.pipelines.system.errors import BadInput, Stopped
from clx.pipelines.system.progress import Silent
from clx.pipelines.training import schedule
from trained import StopAt, metrics, weights

BASE: dict[str, Any] = {
    "data": {"train": "sklearn:iris", "label": "label", "val": {"fraction": 0.3}},
    "modalities": {"table": {"columns": ["*"], "width": 32, "layers": 1}},
    "embed_dim": 8,
    "objective": "cross-entropy",
    "train": {"steps": 9, "batch_size": 32, "validate_every": 4},
    "eval": ["classification"],
}
METRIC = "classification.*.top1"
AXES = {"grid": {"train.lr": [1e-6, 0.03]}, "seeds": "0-1", "search": "halving", "factor": 2}


def executed(progress: Any) -> Any:
    return lambda todo, folder: sweep_jobs.one_by_one(sweep_jobs.jobs_of(todo, folder), progress)


def found_of(**plan: Any) -> list[Point]:
    return points(Plan.model_validate(AXES | plan), BASE)


def test_the_best_go_on_as_if_they_were_alone(tmp_path: Path) -> None:
    """Also when the sweep is stopped in a rung; each seed of a setting shares its fate."""
    found, said, folder = found_of(), list[str](), tmp_path / "sweep"
    search = halved(found, 2, [METRIC])
    assert [set(at.values()) for at in search.steps] == [{5}]
    with pytest.raises(Stopped):
        sweep(found, folder, executed(StopAt(7)), said.append, [METRIC], halving=search)
    assert not sweep(found, folder, executed(Silent()), said.append, [METRIC], halving=halved(found, 2, [METRIC]))
    assert said[0] == "rung 1 of 2: 2 of 2 settings to step 5"
    stops = [line for line in said if line.startswith("stopped at step 5: ")]
    assert [line.split(",")[0][19:] for line in stops] == ["lr=1e-06_seed=0", "lr=1e-06_seed=1"]
    assert all(line.endswith("place 2 of 2 (higher is better; 1 go on)") for line in stops)
    states = [line["state"] for line in table(rows(found, folder, [METRIC]), ["train.lr", "seed"])]
    assert states == ["stopped at step 5", "finished"]
    train(found[1].config, tmp_path / "alone", Silent())
    one, other = weights(tmp_path / "alone"), weights(folder / "lr=0.03_seed=0")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert metrics(tmp_path / "alone") == metrics(folder / "lr=0.03_seed=0")
    again = list[str]()
    assert not sweep(found, folder, executed(Silent()), again.append, [METRIC], halving=halved(found, 2, [METRIC]))
    assert again == ["rung 2 of 2: 1 of 2 settings to the end"]
    noted = json.loads((folder / "sweep.json").read_text())["halving"]
    assert (noted["settings"]["factor"], noted["rungs"][0]["go_on"]) == (2, 1)
    with pytest.raises(BadInput, match="halved otherwise"):
        sweep(found, folder, executed(Silent()), again.append, ["val_loss"], halving=halved(found, 2, ["val_loss"]))


def test_runs_that_failed_get_another_chance_in_their_rung(tmp_path: Path) -> None:
    found, folder, said = found_of(seeds=[]), tmp_path / "sweep", list[str]()
    bad, good = (point.name for point in found)

    def executed_without_the_best(todo: Any, folder: Path) -> Any:
        yield from executed(Silent())([pair for pair in todo if pair[0].name != good], folder)
        yield from ((good, "no memory") for point, _ in todo if point.name == good)

    sweep(found, folder, executed_without_the_best, said.append, [METRIC], halving=halved(found, 2, [METRIC]))
    assert [row["state"] for row in rows(found, folder, [METRIC])] == ["finished", "failed"]
    again = halved(found, 2, [METRIC])
    assert not sweep(found, folder, executed(Silent()), said.append, [METRIC], retry_failed=True, halving=again)
    assert said[-1].endswith(f"{good} finished")
    noted = json.loads((folder / "sweep.json").read_text())["halving"]["rungs"]
    assert list(noted[0]["stopped"]) == [bad]
    assert noted[0]["values"][good] > noted[0]["values"][bad]


def test_rungs_grow_by_the_factor_and_settings_shrink_by_it() -> None:
    found = found_of(grid={"train.lr": [k / 100 for k in range(1, 11)]}, seeds=[])
    plans = {point.name: (schedule.Plan(100, 3, 100), True) for point in found}
    search = halving_of(found, plans, 3, METRIC)
    assert [at[found[0].name] for at in search.steps] == [12, 34]
    assert [line.partition(": ")[2] for line in search.told()] == [
        "10 of 10 settings to step 12", "4 of 10 settings to step 34", "2 of 10 settings to the end"]  # fmt: skip
    assert (lower_is_better("regression.table->y.mae"), lower_is_better(METRIC)) == (True, False)


@pytest.mark.parametrize(
    ("planned", "val", "metric", "said"),
    [
        (None, True, METRIC, "halving goes by steps"),
        (9, False, METRIC, "there are none: set data.val"),
        (1, True, METRIC, "needs 2 settings or more"),
        (9, True, "val_loss", "first known at step 4.*first rung ends at step 3"),
    ],
)
def test_what_cannot_be_halved(planned: int | None, val: bool, metric: str, said: str) -> None:
    found = found_of(grid={"train.lr": [0.1, 0.2, 0.3]}, seeds=[])
    with pytest.raises(BadInput, match=said):
        halving_of(
            found, {p.name: (schedule.Plan(100, 3, planned), val) for p in found}, 3 if planned == 9 else 2, metric
        )


def test_a_search_is_one_thing(tmp_path: Path) -> None:
    (tmp_path / "base.json").write_text(json.dumps(Config.model_validate(BASE).model_dump(mode="json")))
    for search, said in (
        ({"search": "random"}, "say with --trials"),
        ({"search": "grid", "trials": 2}, "leave out --trials"),
    ):
        with pytest.raises(BadInput, match=said):
            read_plan(str(tmp_path / "base.json"), ["train.lr=1,2"], None, search)
