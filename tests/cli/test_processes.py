"""`clx train` as several processes: started by itself or by a launcher."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clx.pipelines.runs.folder import checkpoints
from clx.pipelines.system.launch import free_port
from command import CLX, Command

CONFIG: dict[str, Any] = {
    "data": {"train": "rows.csv"},
    "modalities": {
        "p": {"kind": "table", "columns": ["a"], "width": 32, "layers": 1},
        "q": {"kind": "table", "columns": ["b"], "width": 32, "layers": 1},
    },
    "embed_dim": 8,
    "objective": {"name": "clip"},
    "train": {"steps": 6, "batch_size": 15, "save_every": 2},
    "eval": ["retrieval"],
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    lines = [f"{i % 7},{i % 7 + 1},{'test' if i % 5 == 4 else 'train'}" for i in range(60)]
    (tmp_path / "rows.csv").write_text("a,b,split\n" + "\n".join(lines) + "\n")
    (tmp_path / "config.yaml").write_text(json.dumps(CONFIG))
    return tmp_path / "config.yaml"


@pytest.mark.parametrize(
    ("environment", "args", "said"),
    [
        ({"RANK": "1", "WORLD_SIZE": "2"}, [], "RANK and WORLD_SIZE set but not LOCAL_RANK"),
        (
            {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
            ["--processes", "3"],
            "--processes 3, but a launcher has started 2: say how many to it, and leave --processes out",
        ),
        ({}, ["--processes", "2", "-s", "train.lr=-1"], "train.lr"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    clx: Command, config: Path, environment: dict[str, str], args: list[str], said: str
) -> None:
    done = clx("train", config, *args, env=environment, cwd=config.parent)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_what_is_not_shared_out_is_done_by_the_first(clx: Command) -> None:
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    first, second = (clx("recipes", env={**shared, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01")
    assert [first.returncode, second.returncode] == [0, 0]
    assert first.stdout
    assert not second.stdout
    assert clx("recipes", env={"RANK": "1"}).stdout == first.stdout


def rank_in(folder: Path, rank: int) -> int:
    """The process that is this rank of a training in `folder`."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if place.joinpath("cwd").resolve() == folder and f"\0RANK={rank}\0".encode() in (
                place.joinpath("environ").read_bytes()
            ):
                return int(place.name)
        except OSError:
            continue
    raise AssertionError(f"no rank {rank}")


@pytest.mark.slow  # three starts; test_launch.py kills ranks that import nothing
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_one_that_is_killed_ends_all_and_is_named(config: Path) -> None:
    folder = config.parent.resolve()
    command = [CLX, "train", str(config), "-o", "run", "--processes", "2", "-s", "train.steps=1000000"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 100
        while not checkpoints(folder / "run") and time.monotonic() < until:
            time.sleep(0.1)
        others = [rank_in(folder, 0)]
        os.kill(rank_in(folder, 1), signal.SIGKILL)
        start = time.monotonic()
        assert process.wait(60) == 1
        assert time.monotonic() - start < 10
        assert process.stderr is not None
        said = process.stderr.read().splitlines()
    assert "15 rows a step on 2 ranks, 7 or 8 each" in "\n".join(said)
    assert said[-1].startswith("error: rank 1 of 2 was killed by SIGKILL (exit code 137), so the others were ended")
    assert not any(Path(f"/proc/{other}").exists() for other in others)
    assert checkpoints(folder / "run")


@pytest.mark.slow
def test_launchers_give_the_same_run(config: Path) -> None:
    folder = config.parent
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python"]
    torchrun += ["--master-port", str(free_port())]
    train = [CLX, "train", str(config), "--json", "-o"]
    found, logs = [], []
    for number, command in enumerate(([*train, "run-0", "--processes", "2"], [*torchrun, *train, "run-1"])):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("15 rows a step on 2 ranks") == 1
        found.append(json.loads(done.stdout)["evaluation"])
        logs.append((folder / f"run-{number}" / "metrics.jsonl").read_text())
    assert logs[0] == logs[1]
    assert [list(each) for each in found] == [list(found[0])] * 2
