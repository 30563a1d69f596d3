"""What a run is doing, told from its folder."""

import os
import signal
import time
from pathlib import Path

import pytest

from clx.pipelines.runs import state
from clx.pipelines.system.durable_files import locked
from clx.pipelines.system.errors import Stopped
from command import child, ended


def test_states(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with state.recorded(out, 9, resume=False):
        assert state.read(out)["state"] == "running"
        state.note(out, rows_per_s=250.0)
    told = state.read(out)
    assert told["rows_per_s"] == 250
    assert (told["state"], told["steps"], told["error"]) == ("finished", 9, None)
    for error, expected in ((Stopped("x", 143), "interrupted"), (RuntimeError("a\nb"), "failed")):
        with pytest.raises(type(error)), state.recorded(out, 9, resume=True):
            raise error
        assert state.state_of(out) == expected
        assert state.read(out)["started"] == told["started"]
    assert state.read(out)["error"] == "a b"


def test_a_killed_run_is_no_running_one_even_while_its_workers_live(tmp_path: Path) -> None:
    out, ready, release = tmp_path / "run", tmp_path / "ready", tmp_path / "release"

    def outlive() -> None:
        while not release.exists():
            time.sleep(0.01)

    def train() -> None:
        with locked(out), state.recorded(out, 9, resume=False):
            child(outlive)
            ready.touch()
            time.sleep(60)

    process = child(train)
    while not ready.exists():
        time.sleep(0.01)
    assert state.state_of(out) == "running"
    os.kill(process, signal.SIGKILL)
    ended(process)
    assert state.state_of(out) == "interrupted"
    release.touch()
