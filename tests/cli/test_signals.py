"""A signal to the whole process group, as schedulers and `timeout` send it, ends with a checkpoint."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from clx.pipelines.runs import checkpoint
from command import CLX

LONG = [
    *("-s", "modalities={table: {columns: ['seg_*']}, text: {layers: 1, width: 32}}"),
    *("-s", "train.steps=100000", "-s", "train.batch_size=32", "-s", "eval=[]"),
]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_to_the_group_saves(tmp_path: Path, number: int, code: int) -> None:
    args = [CLX, "train", "digits", *LONG, "-s", "train.workers=2", "-o", "run"]
    with subprocess.Popen(args, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True) as started:
        assert started.stderr is not None
        said = ""
        for line in started.stderr:
            said += line
            if line.startswith("step "):
                break
        os.killpg(started.pid, number)
        rest = started.stderr.read()
        assert started.wait(timeout=60) == code, said + rest
    assert "--resume" in rest
    assert "Traceback" not in said + rest
    assert checkpoint.last(tmp_path / "run").step > 0


def test_a_reader_that_goes_away_does_not_end_the_training(commands: Path, tmp_path: Path) -> None:
    args = [str(commands / "clx"), "train", "digits", *LONG, "-s", "train.steps=60", "-o", "run"]
    pipe = subprocess.PIPE
    with subprocess.Popen(args, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=pipe, text=True) as started:
        assert started.stderr is not None
        started.stderr.readline()
        started.stderr.close()
        assert started.wait(timeout=120) == 0
    assert checkpoint.last(tmp_path / "run").step == 60
