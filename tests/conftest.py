"""What the tests share: the `clx` command, a small config and a run trained from it."""

import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's `&` sets it so, and every command would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["CLX_CACHE"] = ""  # tests make everything anew, and leave nothing in the user's folders


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first: else one worker runs it at the end while the others have nothing left to do."""
    items.sort(key=lambda item: item.name != "test_blocks_run")


Command = Callable[..., subprocess.CompletedProcess[str]]


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
    """A folder for PATH with a `clx` that starts at once (tests/zygote.py). The workers share it."""
    source = Path(__file__).with_name("zygote.py")
    spec = importlib.util.spec_from_file_location("zygote", source)
    assert spec is not None
    assert spec.loader is not None
    zygote = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(zygote)
    tests = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()

    def start(folder: Path) -> None:
        folder.mkdir()
        address = str(folder.with_name("clx.socket"))
        Path(address).unlink(missing_ok=True)
        zygote.install(folder, address)
        command = [sys.executable, str(source), address, str(tests)]
        started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n"
        started.stdout.close()
        started.returncode = 0  # it outlives this worker, which need not be warned of that

    return once("bin", start)


@pytest.fixture(scope="session")
def clx(commands: Path) -> Command:
    """The `clx` command: `clx("eval", run, "--json", cwd=folder, stdin="...", env={...}, timeout=120)`."""

    def run(
        *args: object,
        cwd: Path | None = None,
        stdin: str = "",
        env: dict[str, str] | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        call = [str(commands / "clx"), *map(str, args)]
        merged = {**os.environ, **(env or {})}
        return subprocess.run(call, cwd=cwd, input=stdin, env=merged, capture_output=True, text=True, timeout=timeout)

    return run


class Silent:
    """Progress that nobody watches; it keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[int] = []

    def step(self, done: int, total: int, **shown: float) -> None:
        self.steps.append(done)

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def silent() -> Silent:
    return Silent()


def tiny(**changes: Any) -> dict[str, Any]:
    """A config of two small towers on built-in digits; dotted keys change it."""
    raw: dict[str, Any] = {
        "data": {"train": "digits", "label": "label"},
        "modalities": {
            "image": {"encoder": "cnn", "width": 4, "size": 8},
            "table": {"columns": ["seg_*", "display"], "encoder": "mlp"},
            "text": {"encoder": "transformer", "layers": 1, "width": 32, "dropout": 0.1},
        },
        "embed_dim": 16,
        "objective": {"name": "clip", "temperature": 0.1, "learn_temperature": True},
        "train": {"steps": 6, "batch_size": 32, "validate_every": 3},
        "eval": [],
    }
    for key, value in changes.items():
        at = raw
        *parents, last = key.split("__")
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return raw


@pytest.fixture(scope="session")
def make_config() -> Callable[..., Any]:
    from clx.pipelines.config.schema import Config

    return lambda **changes: Config.model_validate(tiny(**changes))


@pytest.fixture(scope="session")
def files(once: Once) -> Path:
    """The built-in digits as files."""
    from clx.pipelines.data.builtin import write

    return once("digits", lambda folder: write("digits", folder))


@pytest.fixture(scope="session")
def digits_run(once: Once, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned a little: enough to be right more often than chance."""
    from clx.pipelines.config.schema import Config
    from clx.pipelines.experiments.train import train

    steps = {"train__steps": 60, "train__batch_size": 128, "train__lr": 5e-3, "train__validate_every": 30}
    config = tiny(**steps, eval=["zeroshot", "retrieval"])
    made = once("digits-run", lambda folder: train(Config.model_validate(config), folder, Silent()))
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("runs") / "tiny"))
