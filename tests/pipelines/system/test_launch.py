"""Several processes of one command: one ends, all end, and one line says why."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from clx.pipelines.system.errors import BadInput, Failed
from clx.pipelines.system.launch import free_port, launch
from clx.pipelines.system.process_group import Group, joined
from clx.pipelines.system.ranks import place_of
from command import child, ended


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", f"import os, sys, time, signal\nrank = int(os.environ['RANK'])\n{code}"]


def test_each_has_its_place_and_only_the_first_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    # One write per line: `print` writes each part on its own where stderr has no buffer, and ranks would mix.
    said = "os.write(2, '{WORLD_SIZE} {LOCAL_RANK}\\n'.format(**os.environ).encode()); print('data', rank)"
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


def kill() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def fail(said: str) -> NoReturn:
    raise BadInput(said)


Act = Callable[[Group], object]


def rank(number: int, port: int, err: Path, who: int, what: Act, then: Act) -> int:
    """Begin one of two ranks: when all have met, rank `who` does `what`, and each that is left does `then`."""

    def do() -> int:
        signal.alarm(60)
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ.update(place | {"RANK": str(number), "LOCAL_RANK": str(number)})
        os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT), 2)
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        mine = place_of()
        assert mine is not None
        try:
            with joined(mine) as group:
                group.wait()
                if who == group.rank:
                    what(group)
                then(group)
        except BadInput as error:
            print("error:", error, file=sys.stderr)
            return 2
        return 0

    return child(do)


@pytest.mark.parametrize(
    ("who", "what", "then", "codes", "said"),
    [
        (1, lambda group: kill(), lambda group: time.sleep(60), [1, -9], "error: rank 1 of 2 is gone"),
        pytest.param(
            *(0, lambda group: kill(), lambda group: group.wait(), [-9, 1], "error: rank 0 of 2 is gone"),
            marks=pytest.mark.slow,
        ),
        (1, lambda group: fail("a bad row"), lambda group: group.wait(), [2, 2], "error: rank 1: a bad row\n"),
        (0, lambda group: None, lambda group: fail("what all find"), [2, 2], "error: what all find\n"),
    ],
    ids=["rank 1 is killed", "rank 0 is killed", "an error of one", "an error of all"],
)
def test_ranks_end_together(tmp_path: Path, who: int, what: Act, then: Act, codes: list[int], said: str) -> None:
    """Without a launcher that watches them, as srun may be: each notices by itself."""
    port, errors = free_port(), [tmp_path / "0.err", tmp_path / "1.err"]
    begun = [rank(number, port, err, who, what, then) for number, err in enumerate(errors)]
    assert [ended(process) for process in begun] == codes
    lines = [line for err in errors for line in err.read_text().splitlines(keepends=True) if "Gloo" not in line]
    assert len(lines) == 1
    assert lines[0].startswith(said)
