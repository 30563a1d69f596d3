"""Validation during training."""

import json
from pathlib import Path
from typing import Any

from clx.pipelines.experiments.train import train
from configs import Make


def test_validation_mixes_a_manifest_sorted_by_class(tmp_path: Path, make_config: Make, silent: Any) -> None:
    """Batches of one class alone would all have the same loss, or none."""
    lines = ["text,label,split"]
    for split, count in (("train", 64), ("val", 32)):
        lines += [f"{word},{word},{split}" for word in ("red", "green", "blue", "black") for _ in range(count // 4)]
    (tmp_path / "sorted.csv").write_text("\n".join(lines))
    text = {"kind": "text", "column": "text", "layers": 1, "width": 32}
    config = make_config(
        data={"train": str(tmp_path / "sorted.csv"), "label": "label"},
        modalities={"a": text, "b": text},
        objective={"name": "clip", "exclude": "labels", "temperature": 0.1},
        train={"steps": 12, "batch_size": 8, "validate_every": 4, "lr": 0.01},
        eval=[],
    )
    train(config, tmp_path / "run", silent)
    found = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    scores = [line["val_loss"] for line in found if "val_loss" in line]
    assert scores[0] > 0.05
    assert scores[-1] < scores[0]
