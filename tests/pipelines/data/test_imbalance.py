"""Bins, densities and weights against imbalance; what is drawn more often; long tails made from a manifest."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import convolve1d

from clx.pipelines.batches.check import check_source
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import Order, once
from clx.pipelines.config.schema import Balance, Config, Data, Term
from clx.pipelines.data.imbalance import (
    bin_name,
    class_weights,
    density_weights,
    histogram,
    kernel_of,
    shots,
    targets_of,
)
from clx.pipelines.data.long_tail import long_tail, thin
from clx.pipelines.data.splits import load_manifest, load_splits
from clx.pipelines.model.build import class_names, prepare
from clx.pipelines.system.errors import BadInput
from clx.pipelines.training.rows import training_rows
from clx.pipelines.training.schedule import plan
from clx.pipelines.training.trainer import Trainer


def test_inverse_weights_make_every_bin_count_alike() -> None:
    values = np.repeat([0.5, 1.5, 2.5], [1, 10, 100])
    weights = density_weights(values, 1.0, Balance(rule="inverse", kernel="none"))
    totals = [weights[values == v].sum() for v in (0.5, 1.5, 2.5)]
    assert totals == pytest.approx([37, 37, 37])
    roots = density_weights(values, 1.0, Balance(rule="sqrt-inverse", kernel="none"))
    assert roots[0] / roots[-1] == pytest.approx(10)
    assert roots.mean() == pytest.approx(1)


@pytest.mark.parametrize("kernel", ["gaussian", "triangular", "laplace"])
def test_smoothing_equals_scipy(kernel: Any) -> None:
    values = np.random.default_rng(0).gamma(2, 3, 500)
    balance = Balance(rule="inverse", kernel=kernel, size=7, sigma=1.5)
    first, counts = histogram(values, 0.5)
    smooth = convolve1d(counts.astype(float), kernel_of(balance), mode="constant")
    expected = 1 / smooth[np.floor(values / 0.5).astype(int) - first]
    np.testing.assert_allclose(density_weights(values, 0.5, balance), expected / expected.mean())
    assert kernel_of(balance).sum() == pytest.approx(1)
    np.testing.assert_array_equal(kernel_of(balance), kernel_of(balance)[::-1])


def test_unknown_targets_and_classes_weigh_one() -> None:
    weights = density_weights(np.array([1.0, np.nan, 1.0, 9.0]), 1.0, Balance(rule="inverse", kernel="none"))
    np.testing.assert_allclose(weights, [0.75, 1, 0.75, 1.5])
    assert density_weights(np.full(3, np.nan), 1.0, Balance()).tolist() == [1, 1, 1]
    np.testing.assert_allclose(class_weights(["a", "a", None, "b"], Balance(rule="inverse")), [0.75, 0.75, 1, 1.5])


def test_shots_follow_the_training_bins() -> None:
    train = np.repeat([0.5, 1.5, 2.5], [19, 20, 101])
    asked = np.array([0.1, 1.9, 2.0, 7.0, -3.0, np.nan])
    assert shots(train, asked, 1.0).tolist() == [0, 1, 2, 0, 0, -1]
    assert shots(train, asked, 1.0, many=18, few=5).tolist() == [2, 2, 2, 0, 0, -1]
    tenths = np.arange(0, 51) / 10
    for edges in (tenths, tenths.astype(np.float32).astype(np.float64)):  # each edge in the bin above it
        assert histogram(edges, 0.1)[1].tolist() == [1] * 51
        assert (shots(tenths, edges, 0.1, many=2, few=1) == 1).all()


@pytest.mark.parametrize("width", [1e-12, 5e-324])
def test_a_width_of_too_many_bins_is_refused(skewed: Path, width: float) -> None:
    """Before it fills the memory, wherever bins are counted."""
    values = np.array([0.0, 3.0, np.nan])
    with pytest.raises(BadInput, match="bin_width .* makes .* bins of targets from 0 to 3"):
        histogram(values, width)
    with pytest.raises(BadInput, match="set a wider one"):
        shots(values, values, width)
    made = config(skewed, balance={"rule": "inverse"}, bin_width=width)
    splits = load_splits(made.data, 0)
    with pytest.raises(BadInput, match="bin_width"):
        training_rows(prepare(made, splits), splits["train"])
    with pytest.raises(BadInput, match="bin_width 1 "):  # beyond 2^53 neighbouring numbers share a bin
        histogram(np.array([1e300, 1e300]), 1.0)


def test_bins_are_named_by_their_lower_edge() -> None:
    assert [bin_name(v, 0.1) for v in ("0.3", -0.05, "x", "nan", 2)] == ["0.3", "-0.1", None, None, "2"]


@pytest.fixture(scope="module")
def skewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("skewed") / "rows.csv"
    draw = np.random.default_rng(0)
    y = np.concatenate([draw.uniform(0, 1, 360), draw.uniform(1, 10, 40)])
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["x", "y"])
        lines.writerows([f"{v + draw.normal(0, 0.1):.3f}", f"{v:.3f}"] for v in y)
    return path


def config(path: Path, **data: Any) -> Config:
    return Config.model_validate(
        {
            "data": {"train": str(path), "target": ["y"], **data},
            "modalities": {"table": {"columns": ["x"], "width": 32, "layers": 1}},
            "embed_dim": 8,
            "objective": {"name": "l1"},
            "train": {"steps": 3, "batch_size": 64},
        }
    )


def test_training_rows_carry_their_weights(skewed: Path, tmp_path: Path) -> None:
    made = config(skewed, balance={"rule": "inverse", "kernel": "none"}, bin_width=1.0)
    splits = load_splits(made.data, 0)
    trainer = Trainer(prepare(made, splits), splits, plan(made, len(splits["train"])), tmp_path)
    batch = trainer.rows[once(400, 400)[0]]
    assert batch.weights is not None
    dense = batch.targets[:, 0] < 1
    assert batch.weights[dense].sum() == pytest.approx(40, rel=1e-4)  # a tenth: there are ten bins
    assert trainer.draw is None
    assert len(batch.weights) == 400


def test_sampling_draws_rare_rows_as_often(skewed: Path, tmp_path: Path) -> None:
    made = config(skewed, balance={"rule": "inverse", "kernel": "none", "by": "sampling"}, bin_width=1.0)
    splits = load_splits(made.data, 0)
    trainer = Trainer(prepare(made, splits), splits, plan(made, len(splits["train"])), tmp_path)
    assert trainer.rows.weights is None
    order = Order(400, 100, 0, 0, 400, trainer.draw)
    rows = np.concatenate([key.rows for key in order])
    targets = np.array([float(v) for v in splits["train"].column("y")])
    shares = np.bincount(np.floor(targets[rows]).astype(int), minlength=10) / len(rows)
    np.testing.assert_allclose(shares, 0.1, atol=0.02)
    again = np.concatenate([key.rows for key in Order(400, 100, 0, 200, 400, trainer.draw)])
    np.testing.assert_array_equal(again, rows[200 * 100 :])  # a resumed run draws the same


def test_weights_are_refused_where_a_loss_has_no_rows_to_weigh(skewed: Path) -> None:
    made = config(skewed, balance={}).model_copy(
        update={
            "objective": Config.model_validate(
                config(skewed).model_dump() | {"objective": {"name": "nt-xent"}}
            ).objective
        }
    )
    with pytest.raises(BadInput, match="balance.by=sampling"):
        prepare(made, load_splits(made.data, 0))
    with pytest.raises(ValueError, match="needs target or label"):
        Data(train="x", balance=Balance())
    with pytest.raises(ValueError, match="odd"):
        Balance(size=4)


def test_bins_of_a_target_as_classes(skewed: Path) -> None:
    made = config(skewed, label="y", bin_width=2.0)
    splits = load_splits(made.data, 0)
    run = prepare(made, splits)
    assert run.facts.classes == class_names(made, splits["train"]) == ["0", "2", "4", "6", "8"]
    rows = BatchDataset(splits["train"], run.modalities, "y", run.class_index, 2.0, target=["y"])
    batch = rows[once(400, 400)[0]]
    assert batch.labels.tolist() == [int(v // 2) for v in batch.targets[:, 0].tolist()]


def test_widths_and_windows_are_written_into_the_config(skewed: Path) -> None:
    made = Config.model_validate(config(skewed).model_dump() | {"objective": [{"name": "l1"}, {"name": "conr"}]})
    splits = load_splits(made.data, 0)
    run = prepare(made, splits)
    values = np.array([float(v) for v in splits["train"].column("y")])
    assert run.config.data.bin_width == pytest.approx(np.ptp(values) / 50, rel=0.01)
    assert run.config.objective[1].options["window"] == pytest.approx(values.std(ddof=1) / 10, rel=0.01)


def test_conr_follows_the_deviation_of_the_targets(skewed: Path) -> None:
    """Its weight too, which counts beside an error in the target's units; what is given stays as it is."""
    made = config(skewed)
    splits = load_splits(made.data, 0)

    def resolved(**options: Any) -> list[Term]:
        terms = [Term(name="l1"), Term.model_validate({"name": "conr", **options})]
        run = prepare(made.model_copy(update={"objective": terms}), splits)
        return run.config.objective

    deviation = targets_of(splits["train"], "y").std(ddof=1)
    first, second = resolved()
    assert first.weight == 1
    assert second.weight == pytest.approx(0.02 * deviation, rel=0.01)
    assert second.options["window"] == pytest.approx(0.1 * deviation, rel=0.01)
    assert second.options["pushing"] == pytest.approx(0.2 / deviation, rel=0.01)
    [_, given] = resolved(weight=4, window=1, pushing=0)
    assert (given.weight, given.options["window"], given.options["pushing"]) == (4, 1, 0)


def test_check_tells_the_spread_of_a_target(skewed: Path) -> None:
    found = check_source(str(skewed), None)["targets"]["y"]
    assert found["train"]["rows"] == sum(count for _, count in found["train"]["histogram"]) == 400
    assert found["train"]["many"] + found["train"]["median"] + found["train"]["few"] == 400
    assert found["train"]["histogram"][0][1] > 50


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
