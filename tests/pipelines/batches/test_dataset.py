"""Rows become batches."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from clx.pipelines.batches.batch import Key
from clx.pipelines.batches.cells import cells
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import once
from clx.pipelines.config.load import dump
from clx.pipelines.data.splits import load_splits
from clx.pipelines.experiments.train import train
from clx.pipelines.model.build import checked
from clx.pipelines.runs import checkpoint
from configs import Make, pair_config


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


def test_inputs_are_left_out_at_random_but_never_all_of_a_row(make_config: Make) -> None:
    made = make_config()
    splits = load_splits(made.data, 0)
    rows, modalities = splits["train"].take(np.arange(200)), checked(made, splits)[1]
    for name, modality in modalities.items():
        modality.fit(cells(rows, name, modality))
    data = BatchDataset(rows, modalities, augment=True, drop={"image": 0.9, "table": 0.8, "text": 0.9})
    batch, again, other = (data[Key(epoch, 0, np.arange(200))] for epoch in (0, 0, 1))
    there = torch.stack(list(batch.present.values()))
    assert there.any(0).all()
    # all three are left out with 0.648, and then one of them stays, each as often
    expected = {"image": 0.1 + 0.648 / 3, "table": 0.2 + 0.648 / 3, "text": 0.1 + 0.648 / 3}
    for name, share in expected.items():
        assert abs(batch.present[name].float().mean().item() - share) < 0.1
        assert len(batch.inputs[name]["x"]) == batch.present[name].sum()
        assert torch.equal(batch.present[name], again.present[name])
        assert not torch.equal(batch.present[name], other.present[name])
    some = BatchDataset(rows, modalities, augment=True, drop={"image": 0.5})[Key(0, 0, np.arange(200))]
    assert some.present["table"].all()
    assert some.present["text"].all()
    assert 60 < some.present["image"].sum() < 140
