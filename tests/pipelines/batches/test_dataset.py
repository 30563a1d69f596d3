"""Rows become batches."""

from pathlib import Path
from typing import Any

from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import once
from clx.pipelines.config.load import dump
from clx.pipelines.data.splits import load_splits
from clx.pipelines.experiments.train import train
from clx.pipelines.runs import checkpoint
from configs import pair_config


def test_a_pair_needs_both_halves_and_trains(sentence_pairs: Path, tmp_path: Path, silent: Any) -> None:
    made = pair_config(sentence_pairs)
    train(made, tmp_path / "run", silent)
    run = checkpoint.load(tmp_path / "run")
    rows = BatchDataset(load_splits(made.data, 0)["train"], run.modalities, target=["score"])
    batch = rows[once(40, 5)[0]]
    assert batch.present["text"].tolist() == [True, True, False, True, True]
    z = run.model(batch.inputs, batch.present)
    assert z["text"].shape == (5, 8)
    assert "pair: second" in dump(checkpoint.read_config(tmp_path / "run"))
