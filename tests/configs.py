"""Configs to test with, as a file holds them and as they are read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clx.pipelines.config.schema import Config

Make = Callable[..., Config]
"""`make_config(train__lr=0.5)`: the fixture."""

OPEN_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
"""A small model, as open_clip describes its own."""


def tiny(**changes: Any) -> dict[str, Any]:
    """Three small towers on built-in digits; dotted keys change it, `train__lr=0.5` for `train.lr`."""
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


def small(data: dict[str, Any], modalities: dict[str, Any], objective: Any, **more: Any) -> dict[str, Any]:
    """What a test is about, and a few steps without evaluation for the rest; `train` is added to those."""
    train = {"steps": 3, "batch_size": 16, **more.pop("train", {})}
    raw = {"data": data, "modalities": modalities, "embed_dim": 8, "objective": objective, "train": train, "eval": []}
    return raw | more


def numbers_config(path: Path, **data: Any) -> Config:
    """A head that predicts y from x; see the fixture `skewed`."""
    data = {"train": str(path), "target": ["y"], **data}
    table = {"columns": ["x"], "width": 32, "layers": 1}
    return Config.model_validate(small(data, {"table": table}, {"name": "l1"}, train={"batch_size": 64}))


def pair_config(path: Path, **text: Any) -> Config:
    """A head that predicts a score from two sentences; see the fixture `sentence_pairs`."""
    data = {"train": str(path), "target": ["score"]}
    text = {"column": "first", "pair": "second", "width": 32, "layers": 1, **text}
    return Config.model_validate(small(data, {"text": text}, {"name": "l1"}, train={"steps": 4}))


TIME_KEPT = {"crops": 0, "time_mask": 0.5}
"""An augmentation after which a time step is the same one in both views."""


def with_prompt(prompt: Any, **changes: Any) -> dict[str, Any]:
    """Classes of images told by their names, which a text tower reads with a prompt."""
    raw = tiny(**changes)
    raw["modalities"].pop("table")
    raw["modalities"]["image"] |= {"freeze": True}
    raw["modalities"]["text"] |= {"freeze": True, "dropout": 0.0, "head": "none", "prompt": prompt}
    return raw | {"embed_dim": 32, "objective": {"name": "cross-entropy", "inputs": ["image"], "words": "text"}}


def series_config(**series: Any) -> dict[str, Any]:
    """Two views of the 67 short series of ItalyPowerDemand."""
    series = {"encoder": "dilated", "width": 16, "head": "none", "views": 2, **series}
    train = {"steps": 12, "validate_every": 4, "seed": 3}
    data = {"train": "aeon:ItalyPowerDemand"}
    return small(data, {"series": series}, {"name": "ts2vec"}, embed_dim=16, train=train)


def two_stages(table: Path, first: dict[str, Any] | None = None, freeze: bool = True, **changes: Any) -> dict[str, Any]:
    """Pre-training on a table of a, b, kind and y, then a head that predicts y from the encoder that is kept."""
    columns = {"columns": ["a", "b", "kind"], "width": 32, "layers": 2, "head": "norm", "augmentation": "none"}
    contrast = {
        "objective": {"name": "rank-n-contrast"},
        "head": "linear",
        "embed_dim": 8,
        "modalities": {"table": {"augmentation": "mild", "views": 2}},
        "train": {"steps": 6, "validate_every": 4},
    }
    train = {"steps": 8, "batch_size": 32, "validate_every": 4}
    stages = [contrast if first is None else first, {"freeze": freeze}]
    data = {"train": str(table), "target": ["y"], "cache": "memory"}
    return small(data, {"table": columns}, {"name": "l1"}, embed_dim=32, stages=stages, train=train) | changes
