"""Where else the figures of a run go as it trains: TensorBoard, Weights & Biases, MLflow, Trackio.

Each is imported when it is asked for and opened with the first line. A resumed run goes on in the tracker's own run,
whose name there is kept in `trackers.json` of the run folder. What a tracker cannot take it loses: `metrics.jsonl` has
all.
"""

import importlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from clx.pipelines.config.schema import Config
from clx.pipelines.runs.folder import TRACKERS
from clx.pipelines.runs.listing import settings
from clx.pipelines.system.durable_files import write_text
from clx.pipelines.system.errors import BadInput

PROJECT = "clx"
"""Project or experiment where the environment (`WANDB_PROJECT`, `MLFLOW_EXPERIMENT_NAME`) names none."""
LONGEST = 500
"""Characters of a setting that MLflow takes."""


class Kind(NamedTuple):
    """A tracker that there is."""

    module: str
    install: str
    open: Callable[[ModuleType, Path, dict[str, Any], str | None], "tuple[Log, Close, str | None]"]
    """From the module, the run folder, its settings and the tracker's name of the run to what logs `(figures, step)`,
    what ends it, and that name."""


Log = Callable[[dict[str, float], int], object]
Close = Callable[[], object]


def tensorboard(module: ModuleType, out: Path, config: dict[str, Any], known: str | None) -> tuple[Log, Close, None]:
    boards: list[Any] = []

    def log(figures: dict[str, float], step: int) -> None:
        if not boards:  # what a killed part of the run wrote behind this step is forgotten
            boards.append(module.SummaryWriter(out / "tensorboard", purge_step=step))
        for name, value in figures.items():
            boards[0].add_scalar(name, value, step)

    return log, lambda: [board.close() for board in boards], None


def wandb(module: ModuleType, out: Path, config: dict[str, Any], known: str | None) -> tuple[Log, Close, str]:
    name = known or secrets.token_hex(4)
    run = module.init(project=_project("WANDB_PROJECT"), name=out.name, id=name, resume="allow", config=config, dir=out)
    return lambda figures, step: run.log(figures, step=step), run.finish, name


def trackio(module: ModuleType, out: Path, config: dict[str, Any], known: str | None) -> tuple[Log, Close, str]:
    name = known or f"{out.name}-{secrets.token_hex(2)}"
    module.init(project=_project("TRACKIO_PROJECT"), name=name, resume="allow", config=config)
    return lambda figures, step: module.log(figures, step=step), module.finish, name


def mlflow(module: ModuleType, out: Path, config: dict[str, Any], known: str | None) -> tuple[Log, Close, str]:
    module.set_experiment(_project("MLFLOW_EXPERIMENT_NAME"))
    run = module.start_run(run_id=known, run_name=None if known else out.name)
    if known is None:
        module.log_params({key: str(value)[:LONGEST] for key, value in config.items()})

    def log(figures: dict[str, float], step: int) -> None:
        module.log_metrics({name.replace("@", " at "): value for name, value in figures.items()}, step=step)

    return log, module.end_run, str(run.info.run_id)


def _project(variable: str) -> str:
    return os.environ.get(variable) or PROJECT


KINDS = {
    "tensorboard": Kind("torch.utils.tensorboard", "pip install '.[tensorboard]'", tensorboard),
    "wandb": Kind("wandb", "pip install wandb", wandb),
    "mlflow": Kind("mlflow", "pip install mlflow", mlflow),
    "trackio": Kind("trackio", "pip install trackio", trackio),
}
"""By the name that `train.log_to` has."""


class Trackers:
    """Those that a config asks for. Raises `BadInput` for one that is not installed."""

    def __init__(self, config: Config, out: Path) -> None:
        self.out, self.config = out, config
        self.modules = {name: _imported(name) for name in asked(config)}
        self.logs: dict[str, Log] = {}
        self.closes: dict[str, Close] = {}

    def add(self, line: dict[str, Any], warn: Callable[[str], None]) -> None:
        """Send the figures of a line on. A tracker that fails is left out from then on, and `warn` hears of it."""
        figures = {name: value for name, value in line.items() if name != "step" and isinstance(value, float)}
        for name in [*self.modules] if figures else []:
            try:
                with redirect_stdout(sys.stderr):  # which is for data alone
                    if name not in self.logs:
                        self._open(name)
                    self.logs[name](figures, line["step"])
            except Exception as error:  # the network, a login, a full server: no reason to stop training
                del self.modules[name]
                why = " ".join(str(error).split()) or type(error).__name__
                warn(f"{name} gets no more figures, which are in metrics.jsonl: {why}")

    def _open(self, name: str) -> None:
        known = names_in(self.out)
        config = settings(self.config)
        self.logs[name], self.closes[name], told = KINDS[name].open(
            self.modules[name], self.out, config, known.get(name)
        )
        if told is not None and told != known.get(name):
            write_text(self.out / TRACKERS, json.dumps(known | {name: told}))

    def close(self) -> None:
        for close in self.closes.values():
            with suppress(Exception), redirect_stdout(sys.stderr):  # what it could not send is lost there alone
                close()
        self.closes.clear()


def asked(config: Config) -> Sequence[str]:
    """Names of the trackers, each once."""
    return list(dict.fromkeys(config.train.log_to))


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(KINDS[name].module)
    except ImportError:
        raise BadInput(f"train.log_to: {name} needs a package that is not installed: {KINDS[name].install}") from None


def names_in(out: Path) -> dict[str, str]:
    """What trackers call the run of a folder."""
    try:
        found = json.loads((out / TRACKERS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}
