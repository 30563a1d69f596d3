"""Which runs a sweep has, and under which names."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from clx.pipelines.experiments.sweep_grid import Plan, Point, points, read_plan
from clx.pipelines.system.errors import BadInput

BASE = {
    "data": {"train": "sklearn:iris", "label": "label"},
    "modalities": {"table": {}, "text": {"column": "label"}},
    "objective": {"name": "clip", "temperature": 0.1},
    "train": {"lr": 1e-2},
}


def planned(section: dict[str, Any], settings: tuple[str, ...] = ()) -> list[Point]:
    return points(Plan.model_validate(section), json.loads(json.dumps(BASE)), settings)


def test_axes_are_crossed_in_order() -> None:
    found = planned({"grid": {"train.lr": [1e-3, 1e-2], "objective.temperature": [0.1, 0.2]}, "seeds": "0-1"})
    assert [point.name for point in found[:3]] == [
        "lr=0.001_temperature=0.1_seed=0",
        "lr=0.001_temperature=0.2_seed=0",
        "lr=0.01_temperature=0.1_seed=0",
    ]
    assert [point.shown["seed"] for point in found] == [0] * 4 + [1] * 4  # broken off, it has as many of each kind
    last = found[-1].config
    assert (last.train.lr, last.objective[0].options["temperature"], last.train.seed) == (1e-2, 0.2, 1)
    assert found[0].shown == {"train.lr": 0.001, "objective.temperature": 0.1, "seed": 0}


def test_variants_are_sets_of_settings() -> None:
    grid = {
        "data": {"iris": None, "wine": {"data.train": "sklearn:wine"}, "sum": {"base": "digits-sum"}},
        "method": {
            "clip": {"objective": {"name": "clip"}},
            "siglip": {"objective": {"name": "siglip", "temperature": 0.1}, "train.lr": 1e-3},
        },
    }
    found = planned({"grid": grid, "set": {"train.steps": 9}, "seeds": 3}, ("embed_dim=4",))
    assert [point.name for point in found][:2] == ["iris_clip_seed=3", "iris_siglip_seed=3"]
    at = {point.name: point.config for point in found}
    assert all(config.train.steps == 9 and config.embed_dim == 4 and config.train.seed == 3 for config in at.values())
    assert at["wine_siglip_seed=3"].data.train == "sklearn:wine"
    assert at["wine_siglip_seed=3"].train.lr == 1e-3
    assert at["wine_clip_seed=3"].train.lr == 1e-2
    assert set(at["sum_clip_seed=3"].modalities) == {"image", "audio", "text"}


def test_grids_are_joined(tmp_path: Path) -> None:
    numbers = {"objective": [{"name": "l1"}, {"name": "mse"}], "embed_dim": [4]}
    both = [{"objective": ["clip", "siglip"], "embed_dim": [8, 16]}, numbers]
    found = planned({"grid": both, "seeds": "0-1"})
    assert len(found) == 12
    assert [point.config.train.seed for point in found] == [0] * 6 + [1] * 6
    assert {(p.config.objective[0].name, p.config.embed_dim) for p in found if p.config.embed_dim == 4} == {
        ("l1", 4),
        ("mse", 4),
    }
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({**BASE, "sweep": {"grid": both}}))
    assert len(points(*read_plan(str(path), ["train.lr=0.1,0.2"]))) == 12
    path.write_text(yaml.safe_dump({**BASE, "sweep": {"grid": [both[0], {"embed_dim": [4]}]}}))
    with pytest.raises(BadInput, match="have the same axes: embed_dim, objective; embed_dim"):
        read_plan(str(path))


def test_trials_are_drawn_alike_each_time_and_more_keep_those_of_fewer(tmp_path: Path) -> None:
    grid = {"train.lr": [1e-4, 1e-3, 1e-2], "embed_dim": [4, 8, 16, 32], "train.batch_size": [8, 16]}

    def names(trials: int, draw: int = 0, **more: Any) -> list[str]:
        return [point.name for point in planned({"grid": grid, "trials": trials, "draw": draw, **more})]

    every = [point.name for point in planned({"grid": grid})]
    assert sorted(names(99)) == sorted(every)
    assert names(5) == names(9)[:5] != names(5, draw=1)
    assert len(set(names(9))) == 9
    assert set(names(9)) < set(every)
    seeded = names(3, seeds="0-1")
    assert seeded == [f"{name}_seed={seed}" for seed in (0, 1) for name in names(3)]
    joined = planned({"grid": [{"embed_dim": [4, 8]}, {"embed_dim": [16, 32, 64]}], "trials": 5})
    assert {point.config.embed_dim for point in joined} == {4, 8, 16, 32, 64}
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({**BASE, "sweep": {"grid": grid, "trials": 2}}))
    assert len(points(*read_plan(str(path)))) == 2
    assert len(points(*read_plan(str(path), search={"trials": 4}))) == 4


def test_the_command_line_wins_over_the_file() -> None:
    found = planned({"grid": {"m": {"a": {"train.steps": 5}, "b": {"train.lr": 1.0}}}}, ("train.steps=2",))
    assert [point.config.train.steps for point in found] == [2, 2]


@pytest.mark.parametrize(
    ("section", "settings", "said"),
    [
        ({"grid": {"train.lr": [1e-3, 1e-3]}}, (), "same settings"),
        ({"grid": {"m": {"a": {"train.steps": 5}, "b": {"train.steps": 6}}}}, ("train.steps=2",), "same settings"),
        ({"grid": {"train.lr": [1e-3]}}, ("train.lr=1",), "is swept"),
        ({"seeds": "0-1"}, ("train.seed=1",), "is swept"),
        ({"grid": {"train.lr": [1e-3, -1]}}, (), "run lr=-1: .*train.lr = -1"),
        ({"grid": {"train.l": [1]}}, (), "unknown key 'train.l'"),
        ({"grid": {"m": {"A": {"train.lr": 1}, "a": {"train.lr": 2}}}}, (), "two runs would be called"),
        ({"grid": {"m": {}}}, (), "no values"),
        ({"grid": {"state": {"a": {}}}}, (), "column of that name"),
    ],
)
def test_bad_plans(section: dict[str, Any], settings: tuple[str, ...], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        planned(section, settings)


def test_names_are_safe_and_differ() -> None:
    found = planned({"grid": {"data.train": ["a/b", "a b", "../x", "é" * 90, "é" * 91]}})
    names = [point.name for point in found]
    assert len(set(names)) == 5
    assert all("/" not in name and " " not in name and len(name) < 60 for name in names)
    again = planned({"grid": {"data.train": ["new", "a b"]}})  # a name hangs on its own value alone
    assert again[1].name == names[1]


def test_files_and_command_line_meet(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({**BASE, "sweep": {"grid": {"train.lr": [0.1]}, "seeds": [0, 5]}}))
    plan, raw = read_plan(str(path), ["embed_dim=4,8"])
    assert "sweep" not in raw
    assert [list(grid) for grid in plan.grid] == [["train.lr", "embed_dim"]]
    assert plan.seeds == [0, 5]
    assert read_plan(str(path), [], "1-2")[0].seeds == [1, 2]
    for grid, seeds, said in (
        (["train.lr=1"], None, "has this axis"),
        ([], "4-1", "seeds"),
        (["x"], None, "key=value"),
    ):
        with pytest.raises(BadInput, match=said):
            read_plan(str(path), grid, seeds)
    with pytest.raises(BadInput, match="nothing to vary"):
        read_plan("digits")
    path.write_text(yaml.safe_dump({"embed_dim": 3, "sweep": {"base": "digits", "seeds": 2}}))
    with pytest.raises(BadInput, match="'embed_dim' stands beside"):
        read_plan(str(path))


def test_epochs_of_an_axis_decide_over_steps_of_the_base() -> None:
    base = BASE | {"train": {"steps": 20}}
    made = points(Plan.model_validate({"grid": {"train.epochs": [2, 3]}}), json.loads(json.dumps(base)), ())
    assert [(point.config.train.steps, point.config.train.epochs) for point in made] == [(None, 2), (None, 3)]
