"""Trackers beside metrics.jsonl, with stand-in modules."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from clx.pipelines.config.schema import Config
from clx.pipelines.system.errors import BadInput, ClxWarning
from clx.pipelines.training.logs import Metrics
from clx.pipelines.training.trackers import Trackers


def config(*names: str) -> Config:
    raw = {"data": {"train": "digits"}, "modalities": {"image": {}, "text": {}}, "objective": "clip"}
    return Config.model_validate(raw | {"train": {"log_to": [*names]}})


class Told:
    """What a stand-in module heard."""

    def __init__(self) -> None:
        self.opened: list[dict[str, Any]] = []
        self.logged: list[tuple[dict[str, float], int | None]] = []
        self.ended = 0

    def init(self, **given: Any) -> Any:
        print("a tracker greets")
        self.opened.append(given)
        return SimpleNamespace(log=self.log, finish=self.finish)

    def log(self, figures: dict[str, float], step: int | None = None) -> None:
        self.logged.append((figures, step))

    def finish(self) -> None:
        self.ended += 1


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    heard = Told()
    for name in ("wandb", "trackio", "mlflow"):
        module = ModuleType(name)
        module.__dict__.update(init=heard.init, log=heard.log, finish=heard.finish, end_run=heard.finish)
        monkeypatch.setitem(sys.modules, name, module)

    def start_run(run_id: str | None, run_name: str | None) -> Any:
        heard.opened.append({"run_id": run_id, "name": run_name})
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "made"))

    sys.modules["mlflow"].__dict__.update(
        start_run=start_run,
        set_experiment=lambda name: heard.opened.append({"experiment": name}),
        log_params=lambda params: heard.opened.append(params),
        log_metrics=heard.log,
    )
    return heard


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_figures_go_to_one_run_of_the_tracker_also_when_resumed(
    tmp_path: Path, told: Told, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        log = Metrics(tmp_path, Trackers(config(name), tmp_path))
        log.add({"step": step, "loss": 0.5 / step})
        log.add({"step": step, "warning": "spike", "rows": [1]})  # no figure
        log.close()
    assert told.logged == [({"loss": 0.5}, 1), ({"loss": 0.25}, 2)]
    assert told.ended == 2
    assert not capsys.readouterr().out  # stdout carries data only
    known = json.loads((tmp_path / "trackers.json").read_text())[name]
    if name == "mlflow":
        assert [each for each in told.opened if "run_id" in each] == [
            {"run_id": None, "name": tmp_path.name},
            {"run_id": "made", "name": None},
        ]
        assert sum("objective.name" in each for each in told.opened) == 1
    else:
        assert [each["id" if name == "wandb" else "name"] for each in told.opened] == [known, known]
        assert told.opened[0]["config"]["objective.name"] == "clip"
        assert all(each["resume"] == "allow" for each in told.opened)


def test_a_tracker_that_fails_is_left_out_and_training_goes_on(tmp_path: Path, told: Told) -> None:
    log = Metrics(tmp_path, Trackers(config("wandb", "trackio"), tmp_path))
    sys.modules["wandb"].__dict__["init"] = lambda **given: (_ for _ in ()).throw(OSError("no login"))
    with pytest.warns(ClxWarning, match=r"wandb gets no more figures, which are in metrics.jsonl: no login"):
        log.add({"step": 1, "loss": 0.5})
    log.add({"step": 2, "loss": 0.25})
    assert [step for _, step in told.logged] == [1, 2]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_what_is_not_installed_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(BadInput, match=r"train.log_to: mlflow needs .*: pip install mlflow"):
        Trackers(config("mlflow"), tmp_path)
    assert not list(tmp_path.iterdir())
