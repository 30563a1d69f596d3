"""A run on labels that are columns, some of them not known: its batches, its end, its figures, its answers."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from clx.pipelines.config.schema import Config
from command import inside
from trained import trainer_of

NAN = torch.nan
RUDE = {"toxic": "fool", "insult": "ugly", "threat": "burn"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Comments; a label applies where its word stands, and four cells in ten say nothing."""
    draw, path = random.Random(0), tmp_path_factory.mktemp("comments") / "comments.csv"
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["comment", *RUDE, "split"])
        for i in range(120):
            applies = {name: draw.random() < 0.4 for name in RUDE}
            words = [*draw.sample(["the", "a", "page", "link", "user", "talk", "edit", "work"], 4), str(i)]
            words += [RUDE[name] for name, so in applies.items() if so]
            cells = ["" if draw.random() < 0.4 else int(so) for so in applies.values()]
            lines.writerow([" ".join(draw.sample(words, len(words))), *cells, "test" if i % 4 == 3 else "train"])
    return path


def raw(source: Path, **train: Any) -> dict[str, Any]:
    text = {"column": "comment", "width": 32, "layers": 1, "augmentation": "none"}
    return {
        "data": {"train": str(source), "label": ["toxic", "[it]*"]},
        "modalities": {"text": text},
        "embed_dim": 16,
        "objective": {"name": "binary-cross-entropy"},
        "train": {"batch_size": 30, "steps": 6, **train},
    }


def test_batches_say_what_is_known(source: Path, tmp_path: Path) -> None:
    trainer = trainer_of(Config.model_validate(raw(source) | {"eval": []}), tmp_path)
    assert trainer.run.facts.classes == ["insult", "threat", "toxic"]
    lines = list(csv.DictReader(source.read_text().splitlines()))
    batch = next(trainer.batches())
    assert batch.label_sets is not None
    wanted = [
        [float(lines[i][name]) if lines[i][name] else NAN for name in trainer.run.facts.classes]
        for i in batch.sample_id.tolist()
    ]
    torch.testing.assert_close(batch.label_sets, torch.tensor(wanted), equal_nan=True)
    assert 0 < batch.label_sets.isnan().sum() < batch.label_sets.numel()


def test_the_command_trains_measures_and_answers(source: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(raw(source)))
    (tmp_path / "config.yaml").write_text((tmp_path / "config.json").read_text())
    plan = inside("train", "config.yaml", "--dry-run", cwd=tmp_path)
    assert plan.code == 0, plan.err
    assert "3 labels from columns toxic, insult, threat: " in plan.err
    done = inside("train", "config.yaml", "-o", "run", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    found = json.loads(done.out)["evaluation"]["multilabel"]["text"]
    lines = [line for line in csv.DictReader(source.read_text().splitlines()) if line["split"] == "test"]
    known = [[line[name] for name in RUDE] for line in lines]
    rows = [cells for cells in known if any(cells)]
    assert found["rows"] == len(rows)
    assert found["unknown"] == sum(not cell for cells in rows for cell in cells)
    assert 0 <= found["mAP"] <= 1
    told = inside("predict", "run", str(source), "--probabilities", cwd=tmp_path)
    assert told.code == 0, told.err
    for line in map(json.loads, told.out.splitlines()):
        likely = [name for name in sorted(RUDE) if line[f"p_{name}"] >= 0.5]
        assert line["predicted_labels"] == "|".join(likely)
    fitted = inside(
        *("zeroshot", "run", "--calibrate", str(source), "--labels", ",".join(RUDE), "--multi-label"),
        *("--split", "test", "--json"),
        cwd=tmp_path,
    )
    assert fitted.code == 0, fitted.err
    whole = sum(all(cells) for cells in known)
    assert f"{len(lines) - whole} of {len(lines)} rows left out: " in fitted.err
    assert json.loads(fitted.out)["rows"] == whole
    refused = inside("eval", "run", "--task", "knn", cwd=tmp_path)
    assert refused.code == 2
    assert "sets of labels, which the task multilabel asks about" in refused.err
    mined = inside(
        "mine", str(source), "--run", "run", "--in", "text", "--clusters", "2", "-o", "mined.csv", cwd=tmp_path
    )
    assert mined.code == 0, mined.err
    again = inside("train", "config.yaml", "-s", "data.train=mined.csv", "--dry-run", cwd=tmp_path)
    assert again.code == 0, again.err
