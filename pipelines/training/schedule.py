"""How long a run is, and its learning rate: known before the first step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from clx.pipelines.config.schema import Config, Train
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.system.errors import BadInput


def warm_up(total: int, settings: Train) -> int:
    """Steps over which the learning rate rises, of a run of `total`."""
    return math.ceil(settings.warmup * total)


def rate_at(step: int, total: int, settings: Train) -> float:
    """Learning rate of a step counted from 0: linear warm-up, then half a cosine down to zero, or constant."""
    warm = warm_up(total, settings)
    if step < warm:
        return settings.lr * (step + 1) / warm
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


@dataclass
class Plan:
    """How long a run is, known before its first step."""

    rows: int
    per_epoch: int
    """Batches in an epoch."""
    steps: int
    """Optimiser steps of the run."""


def plan(config: Config, rows: int) -> Plan:
    """Steps of a run over `rows` training rows. Raises `BadInput` when not one step is possible."""
    settings = config.train
    if rows < settings.batch_size:
        raise BadInput(
            f"train.batch_size is {settings.batch_size} but there are only {rows} training rows: "
            f"set train.batch_size to {rows} or less"
        )
    per_epoch = rows // settings.batch_size
    return Plan(rows, per_epoch, settings.steps or settings.epochs * per_epoch)


def check_patience(config: Config, splits: Mapping[str, Manifest]) -> None:
    """Raise `BadInput` where `train.patience` has no val rows to wait on."""
    if config.train.patience is not None and "val" not in splits:
        raise BadInput("train.patience needs val rows to wait on: set data.val, or leave it out")
