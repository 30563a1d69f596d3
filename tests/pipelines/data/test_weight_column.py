"""`data.weight`: what its column may hold, how it goes with `balance`, and which losses have no use for it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import load_splits
from clx.pipelines.model.build import prepare
from clx.pipelines.system.errors import BadInput
from clx.pipelines.training.dry_run import dry_run
from clx.pipelines.training.rows import training_rows
from trained import trainer_of


def config(tmp_path: Path, objective: Any, scores: list[Any], column: str = "score", **data: Any) -> Config:
    rows = [
        {"x": k / 7, "y": (k * k) % 5, "kind": "ab"[k % 3 // 2], "score": scores[k % len(scores)]} for k in range(12)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Config.model_validate(
        {
            "data": {"train": str(tmp_path / "rows.jsonl"), "label": "kind", "weight": column, **data},
            "modalities": {"p": {"kind": "table", "columns": ["*"]}, "q": {"kind": "table", "columns": ["y"]}},
            "embed_dim": 8,
            "objective": objective,
            "train": {"batch_size": 12, "steps": 1},
            "eval": [],
        }
    )


def test_each_row_counts_by_its_cell_over_the_mean(tmp_path: Path) -> None:
    trainer = trainer_of(config(tmp_path, "clip", [1, 2, 3, 6.0]), tmp_path / "run")
    batch = next(trainer.batches())
    assert batch.weights is not None
    wanted = torch.tensor([1, 2, 3, 6.0])[batch.sample_id % 4] / 3
    torch.testing.assert_close(batch.weights, wanted)
    assert trainer.run.modalities["p"].columns == ["x", "y"]  # type: ignore[attr-defined]
    learner = trainer.learner
    found = learner.contrast(batch, learner.model, learner.objective, 0).loss
    batch.weights = None
    assert not torch.isclose(learner.contrast(batch, learner.model, learner.objective, 0).loss, found)


@pytest.mark.parametrize("by", ["weights", "sampling"])
def test_beside_balance(tmp_path: Path, by: str) -> None:
    made = config(tmp_path, "clip", [1, 1, 3], balance={"rule": "inverse", "by": by})
    splits = load_splits(made.data, 0)
    rows, drawn = training_rows(prepare(made, splits), splits["train"])
    balance = np.tile([0.75, 0.75, 1.5], 4)  # two thirds of the rows are of one class
    score = np.tile([0.6, 0.6, 1.8], 4)
    assert rows.weights is not None
    np.testing.assert_allclose(rows.weights, score if by == "sampling" else score * balance / 1.2)  # 1 on average
    if by == "sampling":
        assert drawn is not None
        np.testing.assert_allclose(drawn / drawn.mean(), balance)
    else:
        assert drawn is None


@pytest.mark.parametrize(
    ("objective", "scores", "column", "said"),
    [
        ("clip", [1.0, -1.0], "score", "row 2: data.weight, score is -1.0; a row's weight is a number of at least 0"),
        ("clip", [1.0, None], "score", "data.weight, score is None; a row's weight is a number of at least 0"),
        ("clip", [0], "score", "data.weight, all of score is 0, so no row would count"),
        ("clip", [1], "scores", "data.weight: no column 'scores'"),
        (
            "align-uniform",
            [1],
            "score",
            "data.weight: loss 'align-uniform' has no term a row that it could multiply; .*clip, .*l1, ",
        ),
    ],
)
def test_refused(tmp_path: Path, objective: str, scores: list[Any], column: str, said: str) -> None:
    made = config(tmp_path, objective, scores, column)
    splits = load_splits(made.data, 0)
    with pytest.raises(BadInput, match=said):
        training_rows(prepare(made, splits), splits["train"])


def test_a_dry_run_refuses_what_training_would(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="row 1, column score: 'much' is not a number"):
        dry_run(config(tmp_path, "clip", ["much"]))
