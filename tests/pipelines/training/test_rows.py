"""Rows to train on: their weights, and what is drawn more often."""

from pathlib import Path

import numpy as np
import pytest

from clx.pipelines.batches.loader import Order, once
from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import load_splits
from configs import numbers_config
from own_data import csv, picture
from trained import trainer_of

SHARED = [0, 0, 0, 1, 2, 3, 4, 5]
"""The picture of each row."""


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


def captions(folder: Path, pictures: list[int], exclude: str | None = None) -> Config:
    """Rows of pictures with captions, aligned with `clip`."""
    for k in set(pictures):
        (folder / f"{k}.png").write_bytes(picture(k))
    rows = [f"{k}.png,what can be seen in {k} by {i}" for i, k in enumerate(pictures)]
    (folder / "a.csv").write_text(csv("image,text", *rows))
    objective = {"name": "clip"} | ({"exclude": exclude} if exclude else {})
    return Config.model_validate(
        {
            "data": {"train": str(folder / "a.csv")},
            "modalities": {"image": {"encoder": "cnn", "width": 4, "size": 8}, "text": {"width": 32, "layers": 1}},
            "embed_dim": 8,
            "objective": objective,
            "train": {"steps": 1, "batch_size": 8},
        }
    )


def first_loss(config: Config, out: Path) -> float:
    trainer = trainer_of(config, out)
    batch = trainer.rows[once(8, 8)[0]]
    trainer.learner.model.eval()
    return trainer.learner.contrast(batch, trainer.learner.model, trainer.learner.objective, 0, 0).loss.item()


def test_repeats_of_one_image_are_no_negatives_of_each_other(tmp_path: Path) -> None:
    made = captions(tmp_path, SHARED)
    trainer = trainer_of(made, tmp_path / "run")
    batch = trainer.rows[once(8, 8)[0]]
    assert batch.repeats is not None
    assert (batch.repeats[:, None] == batch.repeats).tolist() == [[a == b for b in SHARED] for a in SHARED]
    assert first_loss(made, tmp_path / "b") < first_loss(captions(tmp_path, SHARED, "none"), tmp_path / "c")


def test_without_repeats_nothing_changes(tmp_path: Path) -> None:
    made = captions(tmp_path, list(range(8)))
    assert trainer_of(made, tmp_path / "run").rows.repeats is None
    plain = captions(tmp_path, list(range(8)), "none")
    assert first_loss(made, tmp_path / "b") == first_loss(plain, tmp_path / "c")


def three_texts(folder: Path, third: dict[str, object], inputs: list[str] | None = None) -> Config:
    rows = [f"what {i} is,that is {i},and {i} again" for i in range(24)]
    (folder / "three.csv").write_text(csv("a,b,c", *rows))
    own = {"kind": "text", "width": 32, "layers": 1, "dropout": 0.0, "augmentation": "none"}
    modalities = {"a": own, "b": own, "c": third}
    return Config.model_validate(
        {
            "data": {"train": str(folder / "three.csv"), "val": {"fraction": 0.4}, "missing": 0.3},
            "modalities": modalities,
            "embed_dim": 8,
            "objective": {"name": "clip", "inputs": inputs or ["a", "b"]},
            "train": {"steps": 1, "batch_size": 8},
        }
    )


@pytest.mark.parametrize("third", [{"like": "a"}, {"kind": "text", "width": 32, "layers": 1, "head": "mlp"}])
@pytest.mark.filterwarnings("ignore:modalities.c is in no term")
def test_an_input_that_no_term_looks_at_is_read_for_batch_norms_alone(third: dict[str, object], tmp_path: Path) -> None:
    trainer = trainer_of(three_texts(tmp_path, third), tmp_path / "a")
    whole = trainer_of(three_texts(tmp_path, third, ["a", "b", "c"]), tmp_path / "b")
    key = once(8, 8)[0]
    ours, theirs = trainer.rows[key], whole.rows[key]
    assert list(ours.present) == (["a", "b"] if "like" in third else ["a", "b", "c"])
    assert list(ours.inputs) == list(ours.present)
    np.testing.assert_array_equal(ours.present["a"], theirs.present["a"])  # `data.missing` draws for all inputs
    if "like" in third:
        assert trainer.val is not None
        assert "c" in trainer.val[once(4, 4)[0]].inputs
        assert list(trainer.learner.gradients(ours)[0].embeddings) == ["a", "b"]
