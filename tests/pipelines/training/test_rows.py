"""Rows to train on: their weights, and what is drawn more often."""

from pathlib import Path

import numpy as np
import pytest

from clx.pipelines.batches.loader import Order, once
from clx.pipelines.data.splits import load_splits
from configs import numbers_config
from trained import trainer_of


def test_training_rows_carry_their_weights(skewed: Path, tmp_path: Path) -> None:
    made = numbers_config(skewed, balance={"rule": "inverse", "kernel": "none"}, bin_width=1.0)
    trainer = trainer_of(made, tmp_path)
    batch = trainer.rows[once(400, 400)[0]]
    assert batch.weights is not None
    dense = batch.targets[:, 0] < 1
    assert batch.weights[dense].sum() == pytest.approx(40, rel=1e-4)  # a tenth: there are ten bins
    assert trainer.draw is None
    assert len(batch.weights) == 400


def test_sampling_draws_rare_rows_as_often(skewed: Path, tmp_path: Path) -> None:
    made = numbers_config(skewed, balance={"rule": "inverse", "kernel": "none", "by": "sampling"}, bin_width=1.0)
    splits = load_splits(made.data, 0)
    trainer = trainer_of(made, tmp_path)
    assert trainer.rows.weights is None
    order = Order(400, 100, 0, 0, 400, trainer.draw)
    rows = np.concatenate([key.rows for key in order])
    targets = np.array([float(v) for v in splits["train"].column("y")])
    shares = np.bincount(np.floor(targets[rows]).astype(int), minlength=10) / len(rows)
    np.testing.assert_allclose(shares, 0.1, atol=0.02)
    again = np.concatenate([key.rows for key in Order(400, 100, 0, 200, 400, trainer.draw)])
    np.testing.assert_array_equal(again, rows[200 * 100 :])  # a resumed run draws the same
