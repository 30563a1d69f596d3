"""A machine that lets one down, through the whole command: no memory, no room, a dying disk, a clock set back."""

import errno
import itertools
import json
import os
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from clx.modalities.base import CellError
from clx.modalities.image import Image
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.data.builtin import load_builtin
from clx.pipelines.evaluation import results
from clx.pipelines.experiments import train as pipeline
from clx.pipelines.model.towers import Embedder
from clx.pipelines.report import run_facts
from clx.pipelines.runs import checkpoint, state
from clx.pipelines.system.errors import out_of_memory
from clx.pipelines.system.progress import Silent
from clx.pipelines.training.step import Learner
from clx.pipelines.training.trainer import Trainer
from clx.pipelines.use import predict_rows
from command import Forked
from trained import held

ROOT = Path(__file__).parents[2]
CONFIG = {
    "data": {"train": "sklearn:iris", "label": "label"},
    "modalities": {"table": {"columns": ["*"], "width": 32, "layers": 1}},
    "embed_dim": 4,
    "objective": {"name": "cross-entropy"},
    "train": {"steps": 6, "batch_size": 8, "save_every": 2, "keep": 3, "validate_every": 3},
    "eval": ["geometry"],
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a moment: checkpoints at 2, 3, 4 and 6, validated at 3 and 6."""
    path = tmp_path_factory.mktemp("config") / "iris.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.fixture(scope="module")
def whole(config: Path) -> Path:
    """The run that nothing happened to."""
    from clx.pipelines.config.load import load_config

    out = config.with_name("whole")
    pipeline.train(load_config(str(config)), out, Silent())
    return out


def slow(*values: Any) -> Any:
    """Parameters of a case for `-m slow`."""
    return pytest.param(*values, marks=pytest.mark.slow)


def same(a: Path, b: Path) -> None:
    """Two runs with the same weights, log and evaluation."""
    weights = [(one / "checkpoints" / "step-00000006" / "model.safetensors").read_bytes() for one in (a, b)]
    assert weights[0] == weights[1]
    assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()
    figures = [json.loads((one / "results.json").read_text())["geometry"] for one in (a, b)]
    assert figures[0] == figures[1]


def errors(said: str) -> str:
    """The one line of an error."""
    lines = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, said
    assert "Traceback" not in said
    assert said.endswith(f"{lines[0]}\n")
    return lines[0]


def raising(place: Any, name: str, error: BaseException, when: int = 1) -> Callable[[], None]:
    """Break a function: its so-manieth call, and all after it, raise."""

    def prepare() -> None:
        real, calls = getattr(place, name), itertools.count(1)

        def call(*args: Any, **kwargs: Any) -> Any:
            if next(calls) >= when:
                raise error
            return real(*args, **kwargs)

        setattr(place, name, call)

    return prepare


# Memory

SHORT = {
    "host": MemoryError(),
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has ..."),
    "cpu allocator": RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
    "cudnn": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "system": OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
}
"""How want of memory is said."""
PLACES: dict[str, tuple[Any, str, int, int]] = {
    "first step": (Learner, "contrast", 1, 0),
    "step": (Learner, "contrast", 5, 4),
    "reading": (BatchDataset, "__getitem__", 6, 4),
    "optimiser": (torch.optim.AdamW, "step", 6, 4),
    "validation": (Trainer, "validate", 2, 4),
}
"""What breaks at which call, and the step of the checkpoint that is left."""


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("host", "step"),
        ("cuda", "validation"),
        *(slow("cuda", place) for place in PLACES if place != "validation"),
        *(slow(kind, "step") for kind in SHORT if kind not in ("host", "cuda")),
    ],
)
def test_no_memory_in_training(
    forked: Forked, config: Path, whole: Path, tmp_path: Path, kind: str, place: str
) -> None:
    *broken, when, left = PLACES[place]
    done = forked(["train", config, "-o", tmp_path / "run"], raising(*broken, SHORT[kind], when))
    assert (done.code, done.out) == (1, "")
    said = errors(done.err)
    at = {"validation": 6, "optimiser": 5, "reading": 5}.get(place, left)
    assert f"out of memory after step {at} of 6 with train.batch_size = 8: " in said
    assert "--batch-size 4" in said
    assert ("--resume" in said) == bool(left)
    assert state.recorded_state(tmp_path / "run") == "failed"
    if not left:
        assert forked(["train", config, "-o", tmp_path / "run", "--batch-size", 4]).code == 0  # no need of --overwrite
        return
    checkpoint.last(tmp_path / "run").verify()
    assert checkpoint.last(tmp_path / "run").step == left
    assert forked(["train", "--resume", tmp_path / "run"]).code == 0
    same(tmp_path / "run", whole)


@pytest.mark.slow
def test_no_memory_in_a_process_that_reads(forked: Forked, config: Path, tmp_path: Path) -> None:
    args = ["train", config, "-o", tmp_path / "run", "-s", "train.workers=1"]
    done = forked(args, raising(BatchDataset, "__getitem__", MemoryError(), 6))
    assert done.code == 1
    assert "out of memory after step" in errors(done.err)


def test_no_memory_for_the_evaluation_after_training(forked: Forked, config: Path, whole: Path, tmp_path: Path) -> None:
    done = forked(["train", config, "-o", tmp_path / "run"], raising(pipeline, "evaluate", SHORT["cuda"]))
    assert done.code == 1
    assert errors(done.err) == (
        f"error: out of memory in the evaluation; the run is trained and saved: clx eval {tmp_path / 'run'}"
    )
    assert checkpoint.last(tmp_path / "run").step == 6
    assert forked(["eval", tmp_path / "run"]).code == 0
    assert forked(["train", "--resume", tmp_path / "run"]).code == 0  # evaluates, which is all that is left
    same(tmp_path / "run", whole)


USES: dict[str, tuple[list[str], Any, str, int, str]] = {
    "eval": (["--force"], Embedder, "forward", 1, "256 rows at a time"),
    "embed": (
        ["--batch-size", "4", "-o", "e.parquet"],
        Embedder,
        "forward",
        20,
        "batches of 4 rows, after part 2 of 5: ",
    ),
    "predict": (["--batch-size", "9"], predict_rows, "answer", 2, "batches of 9 rows: --batch-size takes fewer"),
}


@pytest.mark.parametrize("kind", ["cuda", slow("host"), slow("cpu allocator")])
@pytest.mark.parametrize("command", USES)
def test_no_memory_for_what_uses_a_run(
    forked: Forked, whole: Path, tmp_path: Path, command: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(whole, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    args, *broken, when, said = USES[command]
    done = forked([command, run, *args], raising(*broken, SHORT[kind], when))
    assert done.code == 1
    assert said in errors(done.err)
    assert errors(done.err).startswith("error: out of memory ")
    assert all(path.read_bytes() == content for path, content in before.items())
    if command == "embed":  # what was made is not made again
        again = forked([command, run, *args])
        assert "2 of 5 parts are there already" in again.err
        assert forked([command, run, *args[:2], "-o", "f.parquet"]).code == again.code == 0
        assert Path("e.parquet").read_bytes() == Path("f.parquet").read_bytes()


def test_what_the_machine_lacks_is_no_damage_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a run that skips bad rows would skip whatever it had no memory for."""
    from PIL import Image as pillow
    from PIL import ImageFile

    pillow.new("RGB", (8, 8)).save(tmp_path / "a.png")

    def load(self: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(MemoryError):
        Image().read(tmp_path / "a.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: 1 / 0)
    with pytest.raises(CellError, match="damaged PNG"):
        Image().read(tmp_path / "a.png")


def test_other_errors_are_no_want_of_memory() -> None:
    for error in (RuntimeError("shape mismatch"), OSError(errno.ENOSPC, "No space left"), ValueError("out of memory")):
        assert not out_of_memory(error)


@pytest.mark.slow
def test_a_limit_of_the_system_on_memory(forked: Forked, tmp_path: Path) -> None:
    """RLIMIT_AS, as `ulimit -v` sets it: a step that needs half a gigabyte more than there is."""

    def limit() -> None:
        load_builtin("digits")  # what that imports is not meant
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + (400 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    given = {
        "modalities": {"image": {"size": 256, "width": 32}, "text": {"layers": 1, "width": 32}},
        "train": {"steps": 2, "batch_size": 256},
        "eval": [],
    }
    settings = [part for key, value in given.items() for part in ("-s", f"{key}={json.dumps(value)}")]
    done = forked(["train", "digits", "-o", tmp_path / "run", *settings], limit)
    assert done.code == 1
    assert errors(done.err) == (
        "error: out of memory after step 0 of 2 with train.batch_size = 256: -s train.chunk=128 encodes "
        "fewer rows at a time, with the same gradient; else --batch-size 128"
    )


# Disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk, 4 MB, of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "clx-test", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def remount(disk: Path) -> None:
    """As the system does with a disk that fails: read-only, whatever is open on it."""
    for options in (["--bind", disk], ["-o", "remount,ro,bind"]):
        subprocess.run(["mount", *options, disk], check=True)


def fill(disk: Path, left: int) -> None:
    """Leave so many KB of room."""
    (disk / "ballast").unlink(missing_ok=True)
    free = os.statvfs(disk)
    (disk / "ballast").write_bytes(b"x" * max(0, free.f_bavail * free.f_frsize - left * 1024))


@pytest.mark.parametrize("left", [150, *map(slow, (0, 4, 28, 60, 100, 220))])
def test_a_disk_that_fills_while_a_run_trains(forked: Forked, config: Path, whole: Path, disk: Path, left: int) -> None:
    """Full at once, in the log, in the first or a later checkpoint: what was whole stays so, and the run goes on."""
    fill(disk, left)
    run = disk / "run"
    done = forked(["train", config, "-o", run])
    assert (done.code, done.out) == (1, "")
    assert "No space left on device" in errors(done.err)
    assert str(run) in errors(done.err)
    found = checkpoint.checkpoints(run)
    for one in found:
        one.verify()
    log = run / "metrics.jsonl"
    assert not log.exists() or all(json.loads(line) for line in log.read_text().splitlines())
    assert not [path for path in run.rglob("*.tmp") if run.exists()]
    (disk / "ballast").unlink()
    args = ["--resume", run] if found else [config, "-o", run]  # no --overwrite: nothing was there
    assert forked(["train", *args]).code == 0
    same(run, whole)


@pytest.mark.slow
def test_a_full_disk_and_the_other_commands(
    forked: Forked, whole: Path, disk: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(disk)
    run = shutil.copytree(whole, disk / "run")
    fill(disk, 0)
    before = {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()}
    for args in (
        ["embed", run, "-o", "e.parquet"],
        ["embed", run, "-o", "e.npy"],
        ["predict", run, "-o", "p.csv"],
        ["predict", run, "-o", "p.parquet"],
        ["export", run, "--format", "safetensors"],
        ["report", run, "-o", "r.html"],
        ["data", "make", "digits", "made"],
        ["init", "sklearn:iris", "-o", "i.yaml"],
        ["sweep", config, "train.lr=1e-3,1e-2", "-o", "s"],
    ):
        done = forked(args)
        assert (done.code, done.out) == (1, ""), (args, done)
        assert "No space left on device" in errors(done.err), args
    done = forked(["eval", run, "--task", "geometry", "--force", "--json"])  # its figures need no disk
    assert done.code == 0
    assert json.loads(done.out)["geometry"]
    assert "the result is not kept" in done.err
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.slow
def test_a_disk_that_becomes_read_only(forked: Forked, config: Path, whole: Path, disk: Path) -> None:
    run = disk / "run"

    def prepare() -> None:
        real = Trainer.update

        def update(self: Trainer, group: Any) -> Any:
            if self.step == 4:
                remount(disk)
            return real(self, group)

        Trainer.update = update  # type: ignore[method-assign]

    done = forked(["train", config, "-o", run], prepare)
    assert done.code == 1
    assert "Read-only file system" in errors(done.err)
    assert checkpoint.last(run).step == 4
    for args, said in (
        (["train", "--resume", run], "Read-only file system"),
        (["train", config, "-o", disk / "new"], "Read-only file system"),
        (["embed", run, "-o", disk / "e.parquet"], "Read-only file system"),
    ):
        done = forked(args)
        assert done.code == 1, done
        assert said in errors(done.err)
    assert forked(["eval", run, "--task", "geometry"]).code == 0
    subprocess.run(["umount", disk], check=True)
    assert forked(["train", "--resume", run]).code == 0
    same(run, whole)


@pytest.mark.parametrize(
    ("name", "when"), [("fsync", 30), *(slow(*each) for each in (("fsync", 8), ("replace", 5), ("rename", 2)))]
)
def test_a_disk_that_dies(forked: Forked, config: Path, whole: Path, tmp_path: Path, name: str, when: int) -> None:
    run = tmp_path / "run"
    error = OSError(errno.EIO, os.strerror(errno.EIO))
    done = forked(["train", config, "-o", run], raising(os, name, error, when))
    assert done.code == 1
    assert "Input/output error" in errors(done.err)
    found = checkpoint.checkpoints(run)
    for one in found:
        one.verify()
    assert forked(["train", *(["--resume", run] if found else [config, "-o", run])]).code == 0
    same(run, whole)


# The clock

CLOCKS = {
    *("state.py", "report.py", "durable_files.py", "mapped.py", "row_groups.py", "remote_tables.py"),
    *("phases.py", "bench_training.py", "leaderboard.py"),
}
"""What asks what time it is: for dates to show, for what killed writers left a day ago or nobody has opened, and for
when a process started whose first step is waited for."""


def test_nobody_else_asks_what_time_it_is() -> None:
    asks = re.compile(r"\btime\.(time|time_ns|ctime|localtime|gmtime)\b|\b(datetime|date)\.(now|utcnow|today)\b")
    sources = [
        path for folder in ("cli", "pipelines", "modalities", "losses") for path in (ROOT / folder).rglob("*.py")
    ]
    assert {path.name for path in sources if asks.search(path.read_text())} == CLOCKS


def set_back(run: Path, step: int) -> Callable[[], None]:
    """From a step on the clock, and what the file system writes down, are an hour behind."""

    def prepare() -> None:
        real, moved, plain = time.time, [0.0], datetime

        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return plain.now(tz) + timedelta(seconds=moved[0])

        time.time = lambda: real() + moved[0]
        time.time_ns = lambda: int(time.time() * 1e9)
        state.datetime = Clock  # type: ignore[misc]
        replace, rename = os.replace, os.rename

        def behind(move: Callable[..., None]) -> Callable[..., None]:
            def call(source: Any, target: Any) -> None:
                os.utime(source, (time.time(), time.time()))
                move(source, target)

            return call

        os.replace, os.rename = behind(replace), behind(rename)
        update = Trainer.update

        def jump(self: Trainer, group: Any) -> Any:
            if self.step == step:
                moved[0] = -3600.0
            return update(self, group)

        Trainer.update = jump  # type: ignore[method-assign]

    return prepare


def test_a_clock_that_is_set_back(forked: Forked, config: Path, whole: Path, tmp_path: Path) -> None:
    """The run, its speed, its checkpoints and their order are what they were; only dates differ."""
    run = tmp_path / "run"
    done = forked(["train", config, "-o", run, "--json"], set_back(run, 4))
    assert done.code == 0, done.err
    same(run, whole)
    told = json.loads(done.out)
    assert 0 <= told["seconds"] < 600
    assert told["rows_per_s"] > 0
    shown = [line for line in done.err.splitlines() if line.startswith("step ")]
    assert shown
    assert not [line for line in shown if "-" in line.partition("loss")[2]]
    kept = [one.step for one in checkpoint.checkpoints(run)]
    assert kept == [one.step for one in checkpoint.checkpoints(whole)]
    times = [(one.path / "meta.json").stat().st_mtime for one in checkpoint.checkpoints(run)]
    dates = state.read(run)
    assert dates["ended"] < dates["started"]  # the clock was set back
    assert run_facts.duration(run) is None
    assert forked(["runs", "show", run]).code == 0
    assert checkpoint.last(run).step == 6, times


def test_resume_takes_the_last_step_not_the_latest_date(
    forked: Forked, config: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = forked(["train", config, "-o", run], raising(Learner, "contrast", KeyboardInterrupt(), 6))
    assert done.code == 130
    assert checkpoint.last(run).step == 4
    for one in checkpoint.checkpoints(run):  # the last is the oldest by its dates
        for path in [one.path, *one.path.iterdir()]:
            os.utime(path, (time.time() - 3600 * one.step,) * 2)
    assert forked(["train", "--resume", run], set_back(run, 4)).code == 0
    same(run, whole)


def test_the_newest_evaluation_is_that_of_the_last_command(whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    first = json.loads((run / "results.json").read_text())
    later = time.time() + 3600  # of a clock that was set back since
    os.utime(run / "results.json", (later, later))
    for key in ("one", "two", "one"):
        results.save(run, first | {"key": key})
    assert [one["key"] for one in results.saved(run)] == [first["key"], "two", "one"]
    results.save(run, first, ended=True)
    assert [one["key"] for one in results.saved(run)] == ["two", "one", first["key"]]


@pytest.mark.slow
def test_a_lock_does_not_age(forked: Forked, config: Path, tmp_path: Path) -> None:
    """Neither an old nor a future date makes it another's to take, or keeps it from being taken."""
    for age in (10**7, -(10**7)):
        run = tmp_path / str(age)
        assert forked(["train", config, "-o", run]).code == 0
        with held(run) as process:
            os.utime(run / ".lock", (time.time() - age,) * 2)
            done = forked(["train", config, "-o", run, "--overwrite"])
            assert (done.code, f"(process {process} on" in errors(done.err)) == (2, True)
        os.utime(run / ".lock", (time.time() - age,) * 2)
        assert forked(["train", config, "-o", run, "--overwrite"]).code == 0
