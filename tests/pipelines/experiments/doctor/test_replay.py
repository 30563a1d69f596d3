"""The first step that is not finite: kept as it was, and run again to the tensor that began it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clx.pipelines.batches.batch import Batch
from clx.pipelines.config.schema import Config
from clx.pipelines.experiments.doctor.replay import replay
from clx.pipelines.experiments.train import train
from clx.pipelines.model.objective import Objective
from clx.pipelines.model.towers import Tower
from clx.pipelines.system.errors import BadInput, Refused
from clx.pipelines.system.progress import Silent
from clx.pipelines.training.step import Learner
from configs import Make, numbers_config


@pytest.fixture(scope="module")
def exploded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose first step left weights with which the second is not finite."""
    folder = tmp_path_factory.mktemp("exploded")
    (folder / "t.csv").write_text("x,y\n" + "".join(f"{k % 17},{k % 5}\n" for k in range(200)))
    config = numbers_config(folder / "t.csv")
    quick = {"lr": 1e30, "clip": None, "steps": 20, "bad_steps": 3, "warmup": 0.0}
    with pytest.raises(Refused, match="--replay says where it began"):
        train(config.model_copy(update={"train": config.train.model_copy(update=quick)}), folder / "run", Silent())
    return folder / "run"


def test_weights_that_exploded(exploded: Path) -> None:
    found = replay(exploded)
    assert (found["step"], found["loss"], found["reproduced"], found["notes"]) == (2, None, True, [])
    assert found["first"]["tensor"] == "output of table.encoder.layers.0.0 (Linear)"
    assert found["first"]["shape"] == [64, 32]
    assert found["first"]["inf"] + found["first"]["nan"] > 0
    assert not list((exploded / "nonfinite").glob("*.pt"))


def test_no_weights_change_on_disk(exploded: Path) -> None:
    before = {path: path.read_bytes() for path in exploded.rglob("*") if path.is_file()}
    replay(exploded)
    assert {path: path.read_bytes() for path in exploded.rglob("*") if path.is_file()} == before


def test_by_the_command(exploded: Path, clx: Any) -> None:
    done = clx("doctor", str(exploded), "--replay", "--json")
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["first"]["kind"] == "forward"
    assert "output of table.encoder.layers.0.0 (Linear)" in done.stderr


def test_rows_that_changed_are_told(exploded: Path) -> None:
    table = exploded.parent / "t.csv"
    text = table.read_text()
    try:
        table.write_text(text.replace("\n5,0", "\n5.5,0"))
        assert "cells have changed since" in replay(exploded)["notes"][0]
        table.write_text("x,y\n" + "".join(f"{k % 17},{k % 5}\n" for k in range(90)))
        with pytest.raises(BadInput, match="other rows"):
            replay(exploded)
    finally:
        table.write_text(text)


def test_a_damaged_one_and_none(exploded: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has kept no step"):
        replay(tmp_path)
    state = exploded / "nonfinite" / "state.safetensors"
    whole = state.read_bytes()
    try:
        state.write_bytes(whole[:100])
        with pytest.raises(BadInput, match="is damaged"):
            replay(exploded)
    finally:
        state.write_bytes(whole)


def test_a_gradient_that_is_not_finite_is_of_its_loss(
    tmp_path: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch, silent: Any
) -> None:
    plain = Objective.forward

    def rooted(self: Objective, z: dict[str, Tensor], *given: Any, **more: Any) -> Any:
        if self.training and next(iter(z.values())).shape[0] == 32:
            z = z | {"image": z["image"] + (z["image"] * 0).sqrt()}  # finite, with an infinite derivative
        return plain(self, z, *given, **more)

    monkeypatch.setattr(Objective, "forward", rooted)
    train(make_config(eval=[], train__steps=2), tmp_path / "run", silent)
    found = replay(tmp_path / "run")
    assert found["loss"] is not None
    assert found["grad_norm"] is None
    assert found["first"]["kind"] == "gradient"
    assert found["first"]["tensor"].startswith("gradient by the output of image.head")
    assert found["terms"]["clip"] > 0


def table_of(folder: Path) -> Config:
    """A head that predicts y from x, of which no two rows have the same."""
    (folder / "t.csv").write_text("x,y\n" + "".join(f"{k},{k % 17}\n" for k in range(191)))
    return numbers_config(folder / "t.csv")


def test_dropout_draws_as_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: Any) -> None:
    plain, losses, features = Learner.contrast, list[float](), Tower.features

    def counted(self: Learner, batch: Batch, *given: Any, **more: Any) -> Any:
        found = plain(self, batch, *given, **more)
        if self.model.training and self.step == 1:
            losses.append(found.loss.item())
            return found._replace(loss=found.loss * torch.inf)
        return found

    def dropped(self: Tower, *given: Any) -> Tensor:
        return torch.dropout(features(self, *given), 0.5, self.training)

    monkeypatch.setattr(Learner, "contrast", counted)
    monkeypatch.setattr(Tower, "features", dropped)
    train(table_of(tmp_path), tmp_path / "run", silent)
    found = replay(tmp_path / "run")
    assert losses[0] == losses[1]
    assert (found["step"], found["reproduced"]) == (2, True)


def test_only_some_rows_are_to_blame(tmp_path: Path, silent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Tower.features

    def poison(self: Tower, value: Any, *more: Any) -> Tensor:
        found = plain(self, value, *more)
        return torch.where((value["x"] == value["x"].max()).any(1, keepdim=True) & self.training, torch.nan, found)

    monkeypatch.setattr(Tower, "features", poison)
    train(table_of(tmp_path), tmp_path / "run", silent)
    first = replay(tmp_path / "run")["first"]
    assert first["tensor"] == "input of table.head (Linear)"
    assert first["rows_blamed"] == len(first["rows"]) == 1
    assert "t.csv row " in first["rows"][0]
