"""A sweep that is killed or stopped goes on where it was, and says in the end what an unbroken one says."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from clx.pipelines.experiments import sweep_jobs
from clx.pipelines.runs import checkpoint, state
from command import CLX, forked

CONFIG = """
data: {train: sklearn:iris, label: label, val: {fraction: 0.2}}
modalities:
  table: {columns: ["*"], width: 32}
  text: {column: label, layers: 1, width: 32}
embed_dim: 8
objective: {name: clip, temperature: 0.1, exclude: labels}
train: {steps: 30, batch_size: 32, validate_every: 30, save_every: 10}
eval: [zeroshot]
"""
ARGS = ["sweep", "base.yaml", "--grid", "train.lr=1e-2,3e-3,1e-3"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(CONFIG)
    return tmp_path


@contextmanager
def start(base: Path, *args: str) -> Iterator[subprocess.Popen[str]]:
    command = [CLX, *ARGS, *args]
    with subprocess.Popen(command, cwd=base, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as sweep:
        try:
            yield sweep
        finally:  # a test that fails waits for nobody
            sweep.kill()


def wait_for_step(run: Path, step: int) -> None:
    """Until a run has a checkpoint of `step` or later."""
    until = time.monotonic() + 180
    while time.monotonic() < until:
        if (found := checkpoint.checkpoints(run)) and found[-1].step >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"{run} never came to step {step}")


def same_weights(one: Path, other: Path) -> bool:
    a, b = (load_file(checkpoint.last(run).path / "model.safetensors") for run in (one, other))
    return a.keys() == b.keys() and all(bool((a[name] == b[name]).all()) for name in a)


@pytest.mark.slow
def test_killed_and_continued_equals_unbroken(clx: Callable[..., Any], base: Path) -> None:
    whole = clx(*ARGS, "-o", "whole", cwd=base)
    assert whole.returncode == 0, whole.stderr
    with start(base, "-o", "parts") as sweep:
        wait_for_step(base / "parts" / "lr=0.003", 10)
        sweep.kill()
        sweep.communicate()
    broken = base / "parts" / "lr=0.003"
    assert state.state_of(broken) == "interrupted"
    reached = checkpoint.last(broken).step
    assert reached < 30
    rest = clx(*ARGS, "-o", "parts", cwd=base)
    assert rest.returncode == 0, rest.stderr
    assert "1 of 3 runs are done already" in rest.stderr
    assert f"from step {reached}" in rest.stderr
    assert rest.stdout == whole.stdout
    for run in sorted(path.name for path in (base / "whole").glob("lr*")):
        assert same_weights(base / "whole" / run, base / "parts" / run)
        logs = [(base / sweep / run / "metrics.jsonl").read_text() for sweep in ("whole", "parts")]
        assert logs[0] == logs[1]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_signal_stops_and_saves(clx: Callable[..., Any], base: Path, number: int, code: int, jobs: str) -> None:
    with start(base, "-o", "parts", "--jobs", jobs, "-s", "train.steps=3000") as sweep:
        wait_for_step(base / "parts" / "lr=0.01", 10)
        os.kill(sweep.pid, number)
        said = sweep.communicate(timeout=60)[1]
        assert sweep.returncode == code, said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert state.read(base / "parts" / "lr=0.01")["state"] == "interrupted"


@pytest.mark.slow
def test_jobs_give_what_one_process_gives(clx: Callable[..., Any], base: Path) -> None:
    """Also after a kill of the parent: its processes save and leave, and the next sweep goes on."""
    whole = clx(*ARGS, "-o", "whole", cwd=base)
    with start(base, "-o", "parts", "--jobs", "2") as sweep:
        wait_for_step(base / "parts" / "lr=0.003", 10)
        sweep.kill()
        sweep.communicate()
    with start(base, "-o", "parts", "--jobs", "2") as sweep:
        out, said = sweep.communicate(timeout=120)
        assert sweep.returncode == 0, said
    assert out == whole.stdout
    for run in sorted(path.name for path in (base / "whole").glob("lr*")):
        assert same_weights(base / "whole" / run, base / "parts" / run)


class AtOnce:
    """In the place of `multiprocessing`: processes that are forked, with the imports behind them."""

    def __init__(self) -> None:
        self.fork, self.ends = multiprocessing.get_context("fork"), list[Any]()

    def get_context(self, method: str) -> "AtOnce":
        return self

    def parent_process(self) -> Any:
        return multiprocessing.parent_process()

    def Pipe(self) -> tuple[Any, Any]:
        ours, theirs = self.fork.Pipe()
        self.ends.append(ours)
        return ours, theirs

    def Process(self, target: Callable[..., None], args: tuple[Any, ...]) -> Any:
        pickle.dumps((target, args[1:]))  # as a new process would be given them

        def alone() -> None:
            for end in self.ends:  # else no process would see that the parent closed its own
                end.close()
            target(*args)

        return self.fork.Process(target=alone)


@pytest.mark.parametrize(
    "processes", [AtOnce(), pytest.param(multiprocessing, marks=pytest.mark.slow)], ids=["forked", "new"]
)
def test_what_runs_of_several_processes_warn_of_is_said_once(
    processes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        f"a sentence of many words that says {i - (i % 4 == 3)} once,{'train' if i % 4 < 3 else 'val'}\n"
        for i in range(200)
    ]
    (tmp_path / "a.csv").write_text("text,split\n" + "".join(rows))
    (tmp_path / "base.yaml").write_text(
        "data: {train: a.csv}\nmodalities: {text: {layers: 1, width: 32, views: 2}}\nembed_dim: 8\n"
        "objective: nt-xent\ntrain: {steps: 1, batch_size: 8}\neval: []\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep_jobs, "multiprocessing", processes)
    args = ["sweep", "base.yaml", "--grid", "train.lr=1e-2,1e-3", "--jobs", "2"]
    done = forked(tmp_path, args, warnings.resetwarnings)  # which are errors in tests
    assert done.code == 0, done.err
    assert done.err.count("50 of 50 val rows have the text of a training row") == 1
    assert "warning: 50 of 50" in done.err
