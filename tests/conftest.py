"""What the tests share: the `clx` command, a small config and a run trained from it."""

import fcntl
import gc
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clx.pipelines.config.schema import Config
from command import Command, start_server, started_at_once
from configs import Make, tiny

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's `&` sets it so, and every command would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.fsync = lambda handle: None  # no test cuts the power; waiting for the disk is a quarter of a small training
os.environ["CLX_CACHE"] = ""  # tests make everything anew, and leave nothing in the user's folders


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files marked `longest`, or with a test that is, first.

    A worker runs whole files, and none is to be left with a long one at the end while the others have nothing to do.
    """
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)


def pytest_collection_finish() -> None:
    """What is imported and collected lasts as long as the tests: no collection of garbage need look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)  # and of what tests make, less often than after each 700th object


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """`once(name, make)`: what `make` writes at the path it is given. One worker calls it; it is only read later."""
    here = tmp_path_factory.getbasetemp()
    here = here.parent if "PYTEST_XDIST_WORKER" in os.environ else here

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = here / name, here / f"{name}.done"
        with (here / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed to make it
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def commands(once: Once) -> Path:
    """A folder for PATH with a `clx` that starts at once. The workers share it."""
    tests = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    return once("bin", lambda folder: start_server(folder, tests))


@pytest.fixture(scope="session")
def clx(commands: Path) -> Command:
    """The `clx` command: `clx("eval", run, "--json", cwd=folder, stdin="...", env={...}, timeout=120)`."""
    return started_at_once(commands / "clx")


@pytest.fixture
def silent() -> Any:
    """Progress that keeps what it is told: `said` and `steps`."""
    from trained import Heard

    return Heard()


@pytest.fixture(scope="session")
def make_config(files: Path) -> Make:
    """A config of `tiny`, on a few rows where none are named."""
    return lambda **changes: Config.model_validate(tiny(**{"data__train": str(files / "few.csv")} | changes))


@pytest.fixture(scope="session")
def files(once: Once) -> Path:
    """Of the built-in digits, the first rows of each split as files; fewer are in few.csv, for tests that look at none
    long."""
    from clx.pipelines.data import builtin

    def make(folder: Path) -> None:
        written, some, start = builtin._as_text, set[int](), 1
        for split, table in builtin.load_builtin("digits").items():
            some |= {*range(start, start + min(len(table), SOME[split]))}
            start += len(table)

        def text(cell: Any, column: str, number: int, *rest: Any) -> str:
            return written(cell, column, number, *rest) if number in some else ""

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(builtin, "_as_text", text)
            builtin.write("digits", folder)
        header, *lines = (folder / "manifest.csv").read_text().splitlines(keepends=True)
        rows = [line for number, line in enumerate(lines, 1) if number in some]
        (folder / "manifest.csv").write_text(header + "".join(rows))
        few = [row for split, n in FEW.items() for row in [r for r in rows if r.strip().endswith(split)][:n]]
        (folder / "few.csv").write_text(header + "".join(few))

    return once("digits", make)


SOME = {"train": 400, "val": 140, "test": 600}
FEW = {"train": 240, "val": 50, "test": 100}


@pytest.fixture(scope="session")
def digits_run(once: Once, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned a little: enough to be right more often than chance."""
    from clx.pipelines.experiments.train import train
    from clx.pipelines.system.progress import Silent

    steps = {"train__steps": 60, "train__batch_size": 128, "train__lr": 5e-3, "train__validate_every": 30}
    config = tiny(data__train=str(files / "few.csv"), **steps, eval=["zeroshot", "retrieval"])
    made = once("digits-run", lambda folder: train(Config.model_validate(config), folder, Silent()))
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("runs") / "tiny"))
