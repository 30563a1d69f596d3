"""Intervals against resampling in a loop, and against what they promise."""

import numpy as np
import pytest
from scipy import stats

from clx.pipelines.measures.bootstrap import class_means, figures, means, median, ranked, together


def test_weighting_equals_drawing() -> None:
    """Every statistic of weighted rows is that of the rows repeated so often."""
    draw = np.random.default_rng(0)
    values, labels = draw.integers(0, 6, 40).astype(float), draw.integers(0, 4, 40)
    chosen = [np.sort(draw.integers(0, 40, 40)) for _ in range(30)]
    weights = np.stack([np.bincount(rows, minlength=40) for rows in chosen]).astype(float)
    statistic = together(means({"mean": values}), median("median", values), class_means("class", values, labels))
    found, ranks = statistic(weights), ranked(values)(weights)
    for k, rows in enumerate(chosen):
        assert found["mean"][k] == pytest.approx(values[rows].mean())
        assert found["median"][k] == np.median(values[rows])
        per_class = [values[rows][labels[rows] == c].mean() for c in np.unique(labels[rows])]
        assert found["class"][k] == pytest.approx(np.mean(per_class))
        assert ranks[k][rows].tolist() == stats.rankdata(values[rows]).tolist()


def test_the_interval_is_that_of_a_loop_and_depends_on_the_seed_alone() -> None:
    values = np.random.default_rng(0).random(500)
    line = figures(500, means({"m": values}), resamples=4000, seed=3)
    draw = np.random.default_rng(9)
    loop = np.quantile([values[draw.integers(0, 500, 500)].mean() for _ in range(4000)], [0.025, 0.975])
    assert line["m_ci"] == pytest.approx(loop, abs=0.003)
    assert figures(500, means({"m": values}), resamples=4000, seed=3) == line
    assert figures(500, means({"m": values}), resamples=4000, seed=4)["m_ci"] != line["m_ci"]
    low, high = figures(500, means({"m": values}), confidence=0.5)["m_ci"]
    assert line["m_ci"][0] < low < high < line["m_ci"][1]
    assert figures(500, means({"m": values}), resamples=0) == {"m": line["m"]}


def test_rows_of_a_group_are_drawn_together() -> None:
    """Five copies of a hundred values have the interval of a hundred values, not of five hundred."""
    values = np.random.default_rng(0).random(100)
    groups = np.repeat(np.arange(100)[::-1] * 7, 5)
    alone = figures(100, means({"m": values[::-1]}), seed=3)
    together = figures(500, means({"m": np.repeat(values, 5)}), seed=3, groups=groups)
    assert together["m_ci"] == pytest.approx(alone["m_ci"])
    blind = figures(500, means({"m": np.repeat(values, 5)}), seed=3)
    assert blind["m_ci"][1] - blind["m_ci"][0] < 0.6 * (alone["m_ci"][1] - alone["m_ci"][0])


def test_it_covers_the_truth_as_often_as_it_says() -> None:
    inside = 0
    for trial in range(200):
        hits = np.random.default_rng(trial).random(100) < 0.8
        low, high = figures(100, means({"m": hits}), resamples=300, seed=trial)["m_ci"]
        inside += low <= 0.8 <= high
    assert 0.88 < inside / 200 < 0.99


def test_a_median_of_shares_is_that_of_what_they_are_shares_of() -> None:
    """Two items of six captions each: a sixth six times is one only up to rounding."""
    shares = np.full((1, 12), 1 / 6)
    assert median("m", np.repeat([1.0, 5.0], 6))(shares)["m"].item() == 3.0
