"""Whole commands that are killed, stopped and starved: `clx train digits` ends as if nothing had been."""

import importlib.util
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clx.modalities.table import Table
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import Lost
from clx.pipelines.experiments import train as pipeline
from clx.pipelines.experiments.train import train
from clx.pipelines.model.towers import Embedder
from clx.pipelines.runs import checkpoint
from clx.pipelines.system.errors import Stopped
from clx.pipelines.system.progress import Silent
from clx.pipelines.system.signals import Signals, raise_stopped
from clx.pipelines.training.step import Learner
from clx.pipelines.training.trainer import Trainer
from command import CLX, Forked

pytestmark = pytest.mark.longest

HERE = Path(__file__).parent


def script(name: str, *args: str, timeout: float) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and JSON lines of a script beside this file, which imports what tests do."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, str(HERE / name), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
    assert done.stdout, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_killed_and_resumed_equals_unbroken(files: Path, tmp_path: Path) -> None:
    """Augmentation, dropout, accumulation and averaged weights on, with a worker process; see kills.py."""
    spec = importlib.util.spec_from_file_location("kills", HERE / "kills.py")
    assert spec is not None
    assert spec.loader is not None
    kills = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kills)
    few = str(files / "few.csv")
    found = kills.kill(kills=2, workers=1, seed=0, folder=tmp_path, steps=6, ranks=1, streamed=False, digits=few)
    assert (found["kills"], found["moment"], found["save"], found["different"]) == (2, 1, 1, [])


@pytest.mark.slow
def test_killed_twenty_times() -> None:
    code, found = script("kills.py", "--kills", "20", "--workers", "0", "2", "--seed", "1", timeout=1800)
    assert code == 0, found
    assert [one["kills"] for one in found] == [20, 20]


@pytest.mark.slow
def test_nothing_leaks_in_some_minutes() -> None:
    args = ["--minutes", "6", "--settle", "3", "-s", "train.epochs=1"]
    code, found = script("soak.py", *args, timeout=1200)
    assert code == 0, found[-1]
    assert found[-1]["handles_growth"] == 0


# Signals: one phase after the other of a training, then of what only reads


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """As `clx` sets them, and as they were before afterwards."""
    before = {number: signal.signal(number, raise_stopped) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def hit(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, when: int = 1, after: bool = False) -> None:
    """Send SIGTERM at the so-manieth call of a function."""
    real, calls = getattr(place, name), [0]

    def call(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == when and not after:
            send()
        result = real(*args, **kwargs)
        if calls[0] == when and after:
            send()
        return result

    monkeypatch.setattr(place, name, call)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, make_config: Any) -> Path:
    """The run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(make_config(eval=["zeroshot"]), out, Silent())
    return out


PHASES: dict[str, tuple[Any, str, int, int | None]] = {
    "reading data": (pipeline, "load_splits", 1, None),
    "building": (pipeline, "prepare", 1, None),
    "first step": (Trainer, "update", 1, 1),
    "middle of a step": (Learner, "contrast", 4, None),
    "validation": (Trainer, "validate", 1, 3),
    "save": (checkpoint, "save_file", 1, 3),
    "last step": (Trainer, "update", 6, 6),
    "evaluation": (pipeline, "evaluate", 1, 6),
}


@pytest.mark.parametrize("phase", PHASES)
def test_sigterm_in_each_phase(
    tmp_path: Path, make_config: Any, silent: Any, monkeypatch: pytest.MonkeyPatch, whole: Path, phase: str
) -> None:
    place, name, when, saved = PHASES[phase]
    config = make_config(eval=["zeroshot"])
    with monkeypatch.context() as patched:
        hit(patched, place, name, when)
        with pytest.raises(Stopped) as stopped:
            train(config, tmp_path / "run", silent)
    assert stopped.value.exit_code == 143
    if phase in ("reading data", "building"):
        assert not (tmp_path / "run").exists()
        return
    newest = checkpoint.last(tmp_path / "run")
    newest.verify()
    if saved is not None:
        assert newest.step == saved
    assert str(tmp_path / "run") in str(stopped.value)
    train(checkpoint.read_config(tmp_path / "run"), tmp_path / "run", silent, resume=True)
    logs = [(one / "metrics.jsonl").read_text() for one in (whole, tmp_path / "run")]
    assert logs[0] == logs[1]
    ends = [checkpoint.last(one) for one in (whole, tmp_path / "run")]
    kept = [(end.step, end.score, end.files["model.safetensors"]) for end in ends]
    assert kept[0] == kept[1]


def test_a_second_signal_ends_at_once_even_among_damaged_files(
    tmp_path: Path, make_config: Any, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who bear with whatever a decoder raises must not bear with this."""

    def sample(self: BatchDataset, i: int) -> Any:
        send()
        try:
            send()
        except Exception:
            pytest.fail("swallowed")

    monkeypatch.setattr(BatchDataset, "sample", sample)
    with pytest.raises(Stopped, match="second signal"):
        train(make_config(eval=[]), tmp_path / "run", silent)


def test_handlers_are_put_back(tmp_path: Path) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with Signals().watched() as signals:
        send(signal.SIGUSR1)
        assert signals.save
        send(signal.SIGINT)
        assert signals.stop == signal.SIGINT
    assert before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("command", ["data check", "eval"])
def test_commands_that_read_stop_with_a_line(
    digits_run: Path, files: Path, forked: Forked, command: str, number: int, code: int
) -> None:
    """In a process that knows when it is in the middle of the work."""
    place, name, when = (Table, "read", 50) if "data" in command else (Embedder, "forward", 1)

    def prepare() -> None:
        real, calls = getattr(place, name), itertools.count(1)

        def call(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == when:
                send(number)
            return real(*args, **kwargs)

        setattr(place, name, call)

    done = forked([*command.split(), *([files / "few.csv"] if "data" in command else [digits_run, "--force"])], prepare)
    begun = "" if "data" in command else f"embedding 100 rows of {files}/few.csv\n"
    assert done == (code, "", f"{begun}stopped by {signal.Signals(number).name}\n")


# Workers and data that go away


def test_a_killed_worker_is_noticed_between_steps_alone() -> None:
    """Not in the middle of one, which could then neither be finished nor saved."""
    from clx.modalities.table import Table
    from clx.pipelines.batches.loader import batches, once
    from clx.pipelines.data.builtin import load_builtin

    rows = load_builtin("sklearn:iris")["train"]
    before = signal.getsignal(signal.SIGCHLD)
    coming = batches(BatchDataset(rows, {"table": Table(columns=rows.columns[:1])}), once(len(rows), 2), workers=1)
    next(coming)
    [worker] = multiprocessing.active_children()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    for _ in range(1000):  # a step
        time.sleep(0.0001)
    with pytest.raises(Lost, match="fewer train.workers"):
        list(coming)
    assert signal.getsignal(signal.SIGCHLD) == before


@pytest.mark.slow
@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_no_process_that_reads_outlives_an_error(tmp_path: Path, debug: list[str]) -> None:
    """Shown with its traceback an error keeps the loop, and so the processes, until Python ends."""
    lines = "".join(f"{k},{'seven' if k == 57 else k},{'ab'[k % 2]}\n" for k in range(60))
    (tmp_path / "m.csv").write_text("id,size,label\n" + lines)
    settings = ["modalities={table: {columns: [id]}}", "data={train: m.csv, target: [size]}", "objective={name: l1}"]
    settings += ["train={workers: 2, batch_size: 4, epochs: 5}", "eval=[]", "embed_dim=4"]
    config = tmp_path / "c.yaml"
    config.write_text("".join(one.replace("=", ": ", 1) + "\n" for one in settings))
    args = [CLX, *debug, "train", "c.yaml"]
    done = subprocess.run(args, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == (1 if debug else 2)
    assert "row 58, column size" in done.stderr


@pytest.mark.slow
def test_a_killed_worker_costs_nothing(
    tmp_path: Path, make_config: Any, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel does when memory is short."""
    config = make_config(eval=[], train__workers=1, train__steps=40)
    real = BatchDataset.__getitem__

    def fetch(self: BatchDataset, key: Any) -> Any:
        if key.epoch == 1 and key.number == 2 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, key)

    monkeypatch.setattr(BatchDataset, "__getitem__", fetch)
    with pytest.raises(Lost, match="a process that reads data was killed.*saved at step .*--resume") as lost:
        train(config, tmp_path / "run", silent)
    assert lost.value.exit_code == 1
    assert 0 < checkpoint.last(tmp_path / "run").step < 40
    train(checkpoint.read_config(tmp_path / "run"), tmp_path / "run", silent, resume=True)
    train(config, tmp_path / "whole", silent)
    logs = [(tmp_path / one / "metrics.jsonl").read_text() for one in ("whole", "run")]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("become", ["gone", "pipe", "folder", "device", "junk"])
def test_a_data_file_replaced_during_training(tmp_path: Path, make_config: Any, become: str) -> None:
    """One line that names the row; what was learned is saved; with skip the run goes on."""
    from PIL import Image

    from clx.pipelines.system.errors import BadInput

    for k in range(12):
        Image.new("RGB", (8, 8), (20 * k, 0, 99)).save(tmp_path / f"{k}.png")
    (tmp_path / "m.csv").write_text("image\n" + "".join(f"{k}.png\n" for k in range(12)))

    class Replace(Silent):
        def step(self, done: int, total: int, **shown: float) -> None:
            path = tmp_path / "7.png"
            if done == 3:
                path.unlink()
                {
                    "gone": lambda: None,
                    "pipe": lambda: os.mkfifo(path),
                    "folder": path.mkdir,
                    "device": lambda: path.symlink_to("/dev/zero"),
                    "junk": lambda: path.write_bytes(b"\x89PNG junk"),
                }[become]()

    config = make_config(
        data={"train": str(tmp_path / "m.csv"), "allow_outside": become == "device"},
        modalities={"image": {"width": 4, "size": 8, "views": 2}},
        objective={"name": "nt-xent"},
        train={"steps": 12, "batch_size": 6},
        eval=[],
    )
    start = time.monotonic()
    with pytest.raises(BadInput, match=r"m\.csv row 8, column image: .*saved at step \d+"):
        train(config, tmp_path / "run", Replace())
    assert time.monotonic() - start < 60
    assert checkpoint.last(tmp_path / "run").step >= 3
