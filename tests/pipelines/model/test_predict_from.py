"""Which inputs the head looks at: those of the terms that train it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import load_splits
from clx.pipelines.model.build import prepare
from clx.pipelines.system.errors import ClxWarning
from clx.pipelines.training.schedule import plan
from clx.pipelines.training.trainer import Trainer
from command import Command


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0).random((48, 3)).round(4)
    lines = [f"{a},{b},{y},{'test' if k > 39 else 'train'}" for k, (a, b, y) in enumerate(draw)]
    (tmp_path / "rows.csv").write_text("\n".join(["a,b,y,split", *lines]) + "\n")
    (tmp_path / "only_b.csv").write_text("\n".join(["b,y", *(f"{b},{y}" for _, b, y in draw)]) + "\n")
    return tmp_path


def config(folder: Path, *terms: dict[str, Any], **options: Any) -> Config:
    return Config.model_validate(
        {
            "data": {"train": str(folder / "rows.csv"), "target": ["y"]},
            "modalities": {n: {"kind": "table", "columns": [n], "width": 32, "layers": 1, **options} for n in "ab"},
            "embed_dim": 32,
            "objective": list(terms),
            "train": {"steps": 2, "batch_size": 8},
        }
    )


@pytest.mark.parametrize("conr", [{"name": "conr"}, {"name": "conr", "inputs": ["b"]}])
def test_a_loss_that_takes_predictions_as_they_are_adds_no_input(rows: Path, conr: dict[str, Any]) -> None:
    made = config(rows, {"name": "l1", "inputs": ["a"]}, conr)
    splits = load_splits(made.data, 0)
    assert prepare(made, splits).model.predict_from == {"a"}
    trainer = Trainer(prepare(made, splits), splits, plan(made, len(splits["train"])), rows / "run")
    learner, batch = trainer.learner, next(trainer.batches())
    assert learner.contrast(batch, learner.model, learner.objective, 0).loss.isfinite()


def test_conr_on_frozen_towers_is_warned_of(rows: Path) -> None:
    made = config(rows, {"name": "l1"}, {"name": "conr"}, freeze=True, head="none")
    splits = load_splits(made.data, 0)
    with pytest.warns(ClxWarning, match="loss 'conr' changes nothing"):
        Trainer(prepare(made, splits), splits, plan(made, len(splits["train"])), rows / "run")


def test_a_report_of_rows_that_the_head_cannot_look_at_or_of_lost_data(rows: Path, clx: Command) -> None:
    import yaml

    made = config(rows, {"name": "l1", "inputs": ["a"]}).model_dump(mode="json")
    (rows / "a.yaml").write_text(yaml.safe_dump(made))
    assert clx("train", "a.yaml", "-o", "run", cwd=rows).returncode == 0
    (rows / "rows.csv").rename(rows / "elsewhere.csv")
    for data in ("only_b.csv", "elsewhere.csv"):
        done = clx("report", "run", "--data", data, "-o", f"{data}.html", cwd=rows)
        assert done.returncode == 0, done.stderr
    assert "by the trained head" in (rows / "elsewhere.csv.html").read_text()
    assert "by the trained head" not in (rows / "only_b.csv.html").read_text()
