"""A run told without training it."""

from pathlib import Path
from typing import Any

from clx.pipelines.experiments.train import train
from clx.pipelines.training.dry_run import dry_run
from configs import Make


def test_tensorboard_and_dry_run(tmp_path: Path, make_config: Make, silent: Any) -> None:
    config = make_config(eval=[], train__log_to=["tensorboard"], train__steps=2)
    plan = dry_run(config)
    assert plan["steps"] == 2
    assert plan["rows"] == {"train": 240, "val": 50, "test": 100}
    assert plan["parameters"]["learned"] > 1000
    assert plan["memory"]["total"] > plan["memory"]["weights"] > 0
    train(config, tmp_path / "run", silent)
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
