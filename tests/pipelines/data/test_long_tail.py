"""Long tails made from a manifest."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from clx.pipelines.config.data_schema import Data
from clx.pipelines.data.long_tail import bins_of, long_tail, thin
from clx.pipelines.data.splits import load_manifest, load_splits
from clx.pipelines.system.errors import BadInput


def test_a_long_tail_with_balanced_val_and_test() -> None:
    values = np.random.default_rng(0).normal(0, 1, 5000).clip(-3, 3)
    splits = long_tail(bins_of(values, 10), ratio=50, held_out=0.2, draw=np.random.default_rng(1))
    place = np.clip(((values + 3) / 0.6).astype(int), 0, 9)
    train, val, test = (np.bincount(place[splits == s], minlength=10) for s in ("train", "val", "test"))
    np.testing.assert_array_equal(val, test)
    assert Counter(test.tolist()).most_common(1)[0][1] >= 5  # most bins have the same number
    assert train.max() / train.min() == pytest.approx(50, rel=0.05)
    ordered = np.sort(train)[::-1]
    np.testing.assert_allclose(ordered[1:8] / ordered[:7], 50 ** (-1 / 9), rtol=0.15)


def test_bins_beyond_the_rows_are_no_work() -> None:
    values = np.repeat(np.arange(5.0), 20)
    few, many = (
        long_tail(bins_of(values, bins), ratio=2, held_out=0.2, draw=np.random.default_rng(1))
        for bins in (5, 1_000_000)
    )
    assert (few == many).all()  # a bin for each value in both


def test_thinned_manifests_are_manifests(skewed: Path, tmp_path: Path) -> None:
    out = tmp_path / "tail.csv"
    counts = thin(str(skewed), out, "y", ratio=5, bins=4, held_out=0.2, seed=0)
    splits = load_splits(Data(train=str(out), target=["y"]), 0)
    assert {name: len(rows) for name, rows in splits.items()} == counts
    kept = {tuple(row.values())[:2] for row in (load_manifest(str(out)).row(i) for i in range(sum(counts.values())))}
    assert kept <= {tuple(load_manifest(str(skewed)).row(i).values()) for i in range(400)}
    with pytest.raises(BadInput, match="exists already"):
        thin(str(skewed), out, "y", ratio=5, bins=4, held_out=0.2, seed=0)


def test_classes_are_thinned_as_bins_are_and_a_most_holds_the_commonest(tmp_path: Path) -> None:
    counts = {"b": 400, "a": 300, "c": 300, "": 50}
    names = [name for name, count in counts.items() for _ in range(count)]
    (tmp_path / "rows.csv").write_text("k,label\n" + "".join(f"{k},{name}\n" for k, name in enumerate(names)))
    made = thin(
        str(tmp_path / "rows.csv"), out := tmp_path / "tail.csv", label="label", ratio=4, most=40, held_out=0.1, seed=0
    )
    found = load_manifest(str(out))
    told = Counter(zip(found.column("split"), found.column("label"), strict=True))
    assert {label: told["train", label] for label in "bac"} == {"b": 40, "a": 20, "c": 10}
    assert {told[split, label] for split in ("val", "test") for label in "abc"} == {30}
    assert made == {"train": 70, "val": 90, "test": 90}
    for columns in ({}, {"label": "label", "target": "k"}):
        with pytest.raises(BadInput, match="--target thins by the bins of a number, --label by classes: name one"):
            thin(str(tmp_path / "rows.csv"), tmp_path / "new.csv", **columns, ratio=4, held_out=0.1, seed=0)
    with pytest.raises(BadInput, match="--bins is about --target"):
        thin(str(tmp_path / "rows.csv"), tmp_path / "new.csv", label="label", bins=4, ratio=4, held_out=0.1, seed=0)
