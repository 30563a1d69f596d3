"""Long tails made from a manifest."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from clx.pipelines.config.data_schema import Data
from clx.pipelines.data.long_tail import long_tail, thin
from clx.pipelines.data.splits import load_manifest, load_splits
from clx.pipelines.system.errors import BadInput


def test_a_long_tail_with_balanced_val_and_test() -> None:
    values = np.random.default_rng(0).normal(0, 1, 5000).clip(-3, 3)
    splits = long_tail(values, ratio=50, bins=10, held_out=0.2, draw=np.random.default_rng(1))
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
        long_tail(values, ratio=2, bins=bins, held_out=0.2, draw=np.random.default_rng(1)) for bins in (5, 1_000_000)
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
