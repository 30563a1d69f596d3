"""`train.compile`: what it needs, and that nothing but the time is another."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from clx.pipelines.config.schema import Config
from clx.pipelines.experiments.train import train
from clx.pipelines.system.errors import BadInput
from clx.pipelines.training.compiling import compile_encoders, what_lacks
from configs import TIME_KEPT, Make, series_config
from trained import metrics, trainer_of, weights

STILL = {"encoder": "mlp", "dropout": 0.0}
"""Compiled, dropout draws other numbers."""
TOWERS = {"table": {"columns": ["seg_*"], **STILL}, "other": {"kind": "table", "columns": ["display"], **STILL}}


def test_encoders_are_compiled_once_for_all_sizes(tmp_path: Path, make_config: Make) -> None:
    trainer = trainer_of(make_config(modalities=TOWERS), tmp_path / "run")
    model, graphs = trainer.run.model, []

    def backend(graph: Any, examples: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    plain = copy.deepcopy(model.eval())  # without dropout
    compile_encoders(model, torch.device("cpu"), backend=backend)
    average = copy.deepcopy(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    tower, width = plain.tower("table"), trainer.run.modalities["table"]
    for rows in (5, 9, 31):
        x = width.collate([width.read({f"seg_{k}": 0.1 * (k + r) for k in range(7)}) for r in range(rows)])
        torch.testing.assert_close(model.tower("table")(x), tower(x))
        average.tower("table")(x)
    assert len(graphs) == 1


def test_what_it_needs(tmp_path: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BadInput, match="needs a C\\+\\+ compiler, no-such-compiler, which is not here"):
        trainer_of(make_config(train__compile=True), tmp_path / "run")
    steps = series_config(augmentation=TIME_KEPT)
    steps["train"] |= {"compile": True}
    with pytest.raises(BadInput, match="objective on inner states"):
        trainer_of(Config.model_validate(steps), tmp_path / "steps")


@pytest.mark.slow
@pytest.mark.skipif(what_lacks(torch.device("cpu")) is not None, reason="no C++ compiler or no headers of Python")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_it_trains_as_without(tmp_path: Path, make_config: Make, silent: Any) -> None:
    for name, on in (("plain", False), ("compiled", True)):
        train(make_config(modalities=TOWERS, train__compile=on, train__ema=0.5), tmp_path / name, silent)
    assert sum(line.startswith("train.compile: the first step takes minutes") for line in silent.said) == 1
    plain, compiled = weights(tmp_path / "plain"), weights(tmp_path / "compiled")
    assert plain.keys() == compiled.keys()
    losses = [[line["loss"] for line in metrics(tmp_path / n) if "loss" in line] for n in ("plain", "compiled")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
