"""A run in progress, and signals to it."""

import signal
from pathlib import Path

import pytest

from clx.pipelines.experiments.train import train
from clx.pipelines.runs import checkpoint
from clx.pipelines.system.errors import Stopped
from configs import Make
from trained import StopAt


def test_interrupt_says_130(tmp_path: Path, make_config: Make) -> None:
    with pytest.raises(Stopped) as stopped:
        train(make_config(eval=[]), tmp_path / "run", StopAt(2, signal.SIGINT))
    assert stopped.value.exit_code == 130


def test_usr1_saves_and_goes_on(tmp_path: Path, make_config: Make) -> None:
    config = make_config(eval=[], data={"train": "sklearn:iris", "label": "label"}, train__keep=9)
    config = config.model_copy(update={"modalities": {"table": {"columns": ["*"], "views": 2}}})
    train(config, tmp_path / "run", StopAt(2, signal.SIGUSR1))
    assert [c.step for c in checkpoint.checkpoints(tmp_path / "run")] == [2, 6]
