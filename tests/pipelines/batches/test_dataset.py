"""Rows become batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from clx.modalities.audio import Audio
from clx.modalities.base import Modality
from clx.modalities.image import Image
from clx.modalities.series import Series
from clx.modalities.table import Table
from clx.modalities.text import Text
from clx.pipelines.batches.batch import Batch, Key
from clx.pipelines.batches.cells import cells
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import batches, once
from clx.pipelines.config.data_schema import Near
from clx.pipelines.config.load import dump
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.splits import load_splits
from clx.pipelines.experiments.train import train
from clx.pipelines.model.build import checked
from clx.pipelines.runs import checkpoint
from configs import Make, pair_config
from samples import png


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


def every_kind() -> dict[str, Any]:
    """What a dataset is made of: rows with holes, lists and a bad cell in six inputs, two views of each."""
    draw = np.random.default_rng(0)
    waves = [draw.normal(0, 0.1, 400 + 40 * i).astype(np.float32).tolist() for i in range(24)]
    table = pa.table(
        {
            "image": [png(i) if i % 5 else None for i in range(24)],
            "photo": [[png(i), png(90 + i)][: 1 + i % 2] for i in range(24)],
            "text": [[f"{w} {i} a b c" for w in ("red", "green", "blue")] for i in range(24)],
            "audio": [wave if i != 7 else [1.0] for i, wave in enumerate(waves)],  # row 7 is bad
            "series": [wave[: 20 + i] for i, wave in enumerate(waves)],
            "x": draw.normal(0, 1, 24),
            "c": [str(i % 4) for i in range(24)],
            "group": [str(i // 3) for i in range(24)],
        }
    )
    modalities: dict[str, Modality] = {
        "image": Image(size=8, views=2, augmentation="strong", flip=True),
        "photo": Image(size=8, views=2),
        "text": Text(views=2, augmentation="strong", templates=["{}", "a {}", "the {}"]),
        "audio": Audio(sample_rate=8000, views=2, augmentation="strong"),
        "series": Series(views=2, augmentation="strong"),
        "table": Table(columns=["x", "c"], views=2, augmentation="strong"),
    }
    rows = Manifest("rows.parquet", Path(), table, np.arange(24))
    for name, modality in modalities.items():
        modality.fit(cells(rows, name, modality))
    drop = {"image": 0.3, "table": 0.3}
    return {"manifest": rows, "modalities": modalities, "augment": True, "on_bad": "replace", "drop": drop, "seed": 3}


def by_row(made: list[Batch]) -> dict[tuple[str, int], list[torch.Tensor]]:
    """What each row, by its place among those asked for, has of each view; without its padding."""
    found: dict[tuple[str, int], list[torch.Tensor]] = {}
    first = 0
    for batch in made:
        for name, here in batch.present.items():
            parts = batch.inputs.get(name, {})
            of = parts.get("of", torch.arange(int(here.sum())))
            for number, row in enumerate(here.nonzero()[:, 0].tolist()):
                kept = [{k: part[j] for k, part in parts.items() if k != "of"} for j in (of == number).nonzero()[:, 0]]
                found[name, first + row] = [p["x"][p["mask"]] if "mask" in p else p["x"] for p in kept]
        for row, number in enumerate(batch.sample_id):
            found["sample_id", first + row] = [number]
        first += len(batch)
    return found


@pytest.mark.parametrize("near", [None, Near(group="group")])
def test_a_row_is_the_same_in_any_batch_of_any_worker(near: Near | None) -> None:
    """Views, what is left out, which caption, which neighbour, and what takes the place of a bad row."""
    options = every_kind() | {"near": near}
    order = np.random.default_rng(1).permutation(24)
    whole = by_row([BatchDataset(**options)[Key(2, 0, order)]])
    keys = [Key(2, k, part) for k, part in enumerate(np.split(order, [5, 6, 17]))]
    for workers in (0, 2):
        parted = by_row(list(batches(BatchDataset(**options), keys, workers)))
        assert parted.keys() == whole.keys()
        for place, parts in whole.items():
            torch.testing.assert_close(parted[place], parts, rtol=1e-5, atol=1e-5, msg=str(place))
    assert whole["sample_id", order.tolist().index(7)][0] != 7
    other = by_row([BatchDataset(**options)[Key(3, 0, order)]])
    assert not torch.equal(other["series/0", 0][0], whole["series/0", 0][0]), "another epoch has other views"
    again = by_row([BatchDataset(**options)[Key(2, 0, order, np.ones(24, dtype=np.int64))]])
    assert not torch.equal(again["series/0", 0][0], whole["series/0", 0][0]), "a row that comes twice has other views"
