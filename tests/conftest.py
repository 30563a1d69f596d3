"""What the tests share: a small config and a run trained from it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"


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
    }
    for key, value in changes.items():
        at = raw
        *parents, last = key.split("__")
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return raw


@pytest.fixture
def make_config() -> Callable[..., Any]:
    from clx.pipelines.config import Config

    return lambda **changes: Config.model_validate(tiny(**changes))


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned a little: enough to be right more often than chance."""
    from clx.pipelines.config import Config
    from clx.pipelines.train import train

    out = tmp_path_factory.mktemp("runs") / "tiny"
    config = tiny(train__steps=60, train__batch_size=128, train__lr=5e-3, train__validate_every=30)
    train(Config.model_validate(config), out, Silent())
    return out
