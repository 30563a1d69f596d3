"""Several processes of one command: one ends, all end, and one line says why."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clx.pipelines.system.errors import Failed
from clx.pipelines.system.launch import free_port, launch


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", f"import os, sys, time, signal\nrank = int(os.environ['RANK'])\n{code}"]


def test_each_has_its_place_and_only_the_first_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    said = "print(os.environ['WORLD_SIZE'], os.environ['LOCAL_RANK'], file=sys.stderr); print('data', rank)"
    assert launch(python(said), 3) == 0
    out, err = capfd.readouterr()
    assert out == "data 0\n"
    assert sorted(err.splitlines()) == ["3 0", "3 1", "3 2"]


def test_the_exit_code_is_that_of_the_first_that_failed() -> None:
    assert launch(python("sys.exit(3)"), 2) == 3
    assert launch(python("time.sleep(rank / 2); sys.exit(3 - rank)"), 2) == 3


def test_a_kill_ends_all(capfd: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    with pytest.raises(Failed, match=re.escape("rank 1 of 3 was killed by SIGKILL (exit code 137)")):
        launch(python("rank == 1 and os.kill(os.getpid(), signal.SIGKILL); time.sleep(60)"), 3)
    assert time.monotonic() - start < 10


def test_who_hangs_after_an_error_is_ended(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("clx.pipelines.system.launch.GRACE", 0.2)
    assert launch(python("rank == 1 and sys.exit(2); time.sleep(60)"), 2) == 2
    assert capfd.readouterr().err == "rank 1 ended with exit code 2: the other ranks were ended\n"


def test_signals_are_passed_on(tmp_path: Path) -> None:
    waiting = (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        f"open({str(tmp_path)!r} + f'/{{rank}}', 'w').close()\ntime.sleep(60)"
    )
    code = f"import sys; from clx.pipelines.system.launch import launch; sys.exit(launch({python(waiting)!r}, 2))"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        until = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143


WORKER = """
import os, signal, sys, time
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.process_group import joined
from clx.pipelines.system.ranks import place_of
try:
    with joined(place_of()) as group:
        group.wait()
        if {who} == group.rank:
            {what}
        {then}
except BadInput as error:
    print("error:", error, file=sys.stderr)
    sys.exit(2)
"""


@pytest.fixture
def started() -> Iterator[list["subprocess.Popen[str]"]]:
    """Processes that are ended with the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("who", "what", "then", "codes", "said"),
    [
        (1, "os.kill(os.getpid(), signal.SIGKILL)", "time.sleep(60)", [1, -9], "error: rank 1 of 2 is gone"),
        pytest.param(
            *(0, "os.kill(os.getpid(), signal.SIGKILL)", "group.wait()", [-9, 1], "error: rank 0 of 2 is gone"),
            marks=pytest.mark.slow,
        ),
        (1, "raise BadInput('a bad row')", "group.wait()", [2, 2], "error: rank 1: a bad row\n"),
        (0, "pass", "raise BadInput('what all find')", [2, 2], "error: what all find\n"),
    ],
)
def test_ranks_end_together(
    started: list["subprocess.Popen[str]"], who: int, what: str, then: str, codes: list[int], said: str
) -> None:
    """Without a launcher that watches them, as srun may be: each notices by itself."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    for rank in ("0", "1"):
        command = [sys.executable, "-c", WORKER.format(who=who, what=what, then=then)]
        environment = {**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank}
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=60)[1] for process in started]
    assert [process.returncode for process in started] == codes
    lines = [line for text in errors for line in text.splitlines(keepends=True) if "Gloo" not in line]
    assert len(lines) == 1
    assert lines[0].startswith(said)
