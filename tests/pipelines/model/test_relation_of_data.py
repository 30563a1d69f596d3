"""What `relation` takes of the data: single labels, sets, levels; and what is refused before the first step."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import load_splits
from clx.pipelines.model.build import prepare
from clx.pipelines.system.errors import BadInput
from trained import trainer_of


def config(tmp_path: Path, objective: dict[str, Any], labels: list[Any], **data: Any) -> Config:
    rows = [{"x": k / 7, "y": (k * k) % 5, "kind": labels[k % len(labels)]} for k in range(16)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Config.model_validate(
        {
            "data": {"train": str(tmp_path / "rows.jsonl"), "label": "kind", **data},
            "modalities": {"p": {"kind": "table", "columns": ["x"]}, "q": {"kind": "table", "columns": ["y"]}},
            "embed_dim": 8,
            "objective": {"name": "relation", **objective},
            "train": {"batch_size": 16, "steps": 1},
            "eval": [],
        }
    )


PATHS = ["animal/dog", "animal/cat", "plant"]


@pytest.mark.parametrize("labels", [PATHS, [[p] for p in PATHS], [PATHS[:2], [], PATHS[2:], None]])
@pytest.mark.parametrize("objective", [{}, {"kernel": "tree"}, {"kernel": "paths", "form": "decoupled"}])
def test_single_labels_and_sets_train(tmp_path: Path, labels: list[Any], objective: dict[str, Any]) -> None:
    levels = {"levels": "/"} if "kernel" in objective else {}
    trainer = trainer_of(config(tmp_path, objective, labels, **levels), tmp_path / "run")
    batch = next(trainer.batches())
    found = trainer.learner.contrast(batch, trainer.learner.model, trainer.learner.objective, 0).loss
    assert found.isfinite()
    if levels:  # what stands above a label matters
        trainer.learner.objective.levels = torch.arange(6).view(3, 2)
        other = trainer.learner.contrast(batch, trainer.learner.model, trainer.learner.objective, 0).loss
        assert not torch.isclose(other, found)


@pytest.mark.parametrize(
    ("objective", "data", "said"),
    [
        ({"kernel": "tree"}, {}, "loss 'relation' needs levels of the labels: set data.levels to what divides them"),
        ({}, {"levels": "/"}, "data.levels = '/', but no term looks at levels of labels: relation does with kernel"),
        ({"kernel": "tree"}, {"levels": "#"}, "data.levels: '#' divides none of the labels"),
        ({"by": "targets"}, {}, "loss 'relation' needs targets: set data.target"),
        ({"by": "features", "of": "text"}, {}, "of: no features of 'text'; there are p, q"),
        ({"by": "features"}, {}, "by: features needs `of`"),
    ],
)
def test_refused_before_the_first_step(
    tmp_path: Path, objective: dict[str, Any], data: dict[str, Any], said: str
) -> None:
    made = config(tmp_path, objective, PATHS, **data)
    splits = load_splits(made.data, 0)
    with pytest.raises(BadInput, match=said):
        prepare(made, splits)
