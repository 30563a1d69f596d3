"""Bins, densities and weights against imbalance."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import convolve1d

from clx.pipelines.config.data_schema import Balance
from clx.pipelines.data.imbalance import (
    bin_name,
    class_weights,
    density_weights,
    histogram,
    kernel_of,
    shots,
)
from clx.pipelines.data.splits import load_splits
from clx.pipelines.model.build import prepare
from clx.pipelines.system.errors import BadInput
from clx.pipelines.training.rows import training_rows
from configs import numbers_config


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
    made = numbers_config(skewed, balance={"rule": "inverse"}, bin_width=width)
    splits = load_splits(made.data, 0)
    with pytest.raises(BadInput, match="bin_width"):
        training_rows(prepare(made, splits), splits["train"])
    with pytest.raises(BadInput, match="bin_width 1 "):  # beyond 2^53 neighbouring numbers share a bin
        histogram(np.array([1e300, 1e300]), 1.0)


def test_bins_are_named_by_their_lower_edge() -> None:
    assert [bin_name(v, 0.1) for v in ("0.3", -0.05, "x", "nan", 2)] == ["0.3", "-0.1", None, None, "2"]
