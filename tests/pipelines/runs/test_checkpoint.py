"""Checkpoints: which is the best, and what a load gives."""

from pathlib import Path

import torch

from clx.pipelines.runs import checkpoint
from trained import weights


def test_a_load_gives_the_saved_model(digits_run: Path) -> None:
    run = checkpoint.load(digits_run, "last")
    saved = weights(digits_run)
    state = checkpoint.weights(run.model, run.objective)
    assert all(torch.equal(saved[name], state[name]) for name in saved)


def test_best_passes_over_what_is_not_finite() -> None:
    made = [checkpoint.Checkpoint(Path("x"), k, score) for k, score in enumerate([float("nan"), 0.5, 0.3, 0.3, None])]
    assert checkpoint.best(made).step == 3
    assert checkpoint.best(made[:1]).step == 0
