"""A signal to the whole process group, as schedulers and `timeout` send it, ends with a checkpoint."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from clx.pipelines.runs import checkpoint
from command import ended, start

LONG = [
    *("-s", "modalities={table: {columns: ['seg_*']}, text: {layers: 1, width: 32}}"),
    *("-s", "train.steps=100000", "-s", "train.batch_size=32", "-s", "eval=[]"),
]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_group_saves(files: Path, tmp_path: Path, number: int, code: int) -> None:
    out, said = tmp_path / "out", tmp_path / "err"
    rows = ["-s", f"data.train={files}/few.csv", "-s", "train.workers=2"]
    process = start(["train", "digits", *LONG, *rows, "-o", tmp_path / "run"], out, said, group=True)
    until = time.monotonic() + 60
    while "\nstep " not in (said.read_text() if said.exists() else "") and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(process, number)
    assert ended(process) == code, said.read_text()
    assert "--resume" in said.read_text()
    assert "Traceback" not in said.read_text()
    assert checkpoint.last(tmp_path / "run").step > 0


def test_a_reader_that_goes_away_does_not_end_the_training(commands: Path, files: Path, tmp_path: Path) -> None:
    rows = ["-s", f"data.train={files}/few.csv"]
    args = [str(commands / "clx"), "train", "digits", *LONG, *rows, "-s", "train.steps=40", "-o", "run"]
    pipe = subprocess.PIPE
    with subprocess.Popen(args, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=pipe, text=True) as started:
        assert started.stderr is not None
        started.stderr.readline()
        started.stderr.close()
        assert started.wait(timeout=120) == 0
    assert checkpoint.last(tmp_path / "run").step == 40
