"""`clx doctor RUN --lr-range`: the run's first steps again while the learning rate rises, and which rates it bears.

Leslie Smith 2017, Cyclical learning rates for training neural networks, arXiv 1506.01186.
"""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clx.pipelines.experiments.doctor.opened import config_of, trainer_of
from clx.pipelines.system.text import finite

LOWEST, HIGHEST = 1e-6, 1.0
STEPS = 100
SMOOTH = 0.9
"""Decay per step of the mean of losses."""
BLOWN = 0.25
"""Of all that it has fallen, what the loss may rise above its lowest before the rate is too high."""
BELOW, LITTLE = 3.0, 100.0
"""The rate to try is so much below that of the lowest loss; one so much below the rate to try is too low."""


def lr_range(
    out: Path,
    device: str | None = None,
    steps: int = STEPS,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Train the run in `out` anew for some steps, its rate rising geometrically from 1e-6 to 1, and write nothing.

    Returns `run`, `rate` (the run's), `suggested` (a third of the rate at which the smoothed loss is lowest; null where
    it never fell), `highest` (the rate at which it has risen again), `verdict` (`fits`, `too high`, `too low`, or
    `never fell`), and `curve` (a list of rate and smoothed loss, null from where it is not finite).
    """
    config = config_of(out, device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer, _ = trainer_of(out, config, load=True, steps=steps)
    learner, rates = trainer.learner, np.geomspace(LOWEST, HIGHEST, steps)
    learner.model.train(), learner.objective.train()
    losses: list[float] = []
    for k, batch in enumerate(trainer.batches()):
        constant = {"lr": float(rates[k]), "warmup": 0.0, "schedule": "constant"}
        learner.settings = learner.settings.model_copy(update=constant)
        update = learner.update(batch)
        step(k + 1, steps)
        losses.append(update.figures["loss"])
        if update.outcome == "spoiled":
            break
    found = judged(rates, losses, config.train.lr)
    result: dict[str, Any] = finite({"run": str(out), "rate": config.train.lr, **found}, 6)
    return result


def judged(rates: "np.ndarray[Any, Any]", losses: list[float], rate: float) -> dict[str, Any]:
    """What the losses at rising rates say of a rate.

    >>> rates = np.geomspace(1e-6, 1, 100)
    >>> losses = [2.0] * 50 + [2.0 - k / 20 for k in range(25)] + [1.0 + k for k in range(25)]
    >>> found = judged(rates, losses, 1e-3)
    >>> found["verdict"], 0.005 < found["suggested"] < 0.05
    ('fits', True)
    >>> judged(rates, losses, 1e-7)["verdict"], judged(rates, losses, 0.9)["verdict"]
    ('too low', 'too high')
    """
    smooth, mean = list[float](), 0.0
    for k, loss in enumerate(losses):
        mean = SMOOTH * mean + (1 - SMOOTH) * loss
        smooth.append(mean / (1 - SMOOTH ** (k + 1)))
    good = [value for value in smooth if math.isfinite(value)]
    curve = [[float(rate), value] for rate, value in zip(rates, smooth, strict=False)]
    lowest = int(np.argmin(good)) if good else 0
    first = float(np.mean(good[: max(1, len(good) // 10)])) if good else math.nan
    spread = float(np.std(losses[: max(2, len(losses) // 5)])) if len(good) > 1 else 0.0
    fell = first - good[lowest] if good else 0.0
    if fell <= max(2 * spread / math.sqrt(1 / (1 - SMOOTH)), 1e-3 * abs(first)):
        return {"suggested": None, "highest": None, "verdict": "never fell", "curve": curve}
    blown = [k for k in range(lowest, len(smooth)) if not smooth[k] < good[lowest] + BLOWN * fell]
    highest = float(rates[blown[0]]) if blown else None
    suggested = float(f"{rates[lowest] / BELOW:.2g}")
    verdict = "too high" if highest is not None and rate >= highest else "fits"
    verdict = "too low" if rate < suggested / LITTLE else verdict
    return {"suggested": suggested, "highest": highest, "verdict": verdict, "curve": curve}
