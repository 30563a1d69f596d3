"""Measures of predictions against brute force and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, r2_score
from torch import Tensor

from clx.pipelines.measures.bootstrap import figures
from clx.pipelines.measures.prediction import accuracies, confusion, errors, regressed
from clx.pipelines.measures.ranking import (
    best_classes,
)


def made(queries: int = 70, candidates: int = 40, width: int = 5) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(queries, width, generator=draw), torch.randn(candidates, width, generator=draw)


def test_accuracies_and_confusion() -> None:
    queries, classes = made(300, 8)
    labels = torch.randint(0, 7, (300,), generator=torch.Generator().manual_seed(1))
    order = best_classes(queries, classes, cells=64)
    line = figures(300, accuracies(order, labels, 8), resamples=0)
    scores = queries @ classes.T
    assert line["top1"] == pytest.approx((scores.argmax(1) == labels).double().mean().item())
    better = (scores > scores.gather(1, labels[:, None])).sum(1)
    assert line["top5"] == pytest.approx((better < 5).double().mean().item())
    with pytest.warns(UserWarning, match="not in y_true"):  # class 7 has no row
        expected = balanced_accuracy_score(labels, scores.argmax(1))
    assert line["mean_per_class"] == pytest.approx(expected)
    counts = np.array(confusion(order[:, 0], labels, list("abcdefgh"))["counts"])
    assert counts.trace() == (order[:, 0] == labels).sum()
    assert counts[2, 3] == ((labels == 2) & (order[:, 0] == 3)).sum()


def test_errors_of_predictions() -> None:
    draw = np.random.default_rng(0)
    y = np.round(draw.normal(size=200), 1)  # with ties
    p = np.round(y + draw.normal(size=200) / 2, 1)
    line = figures(200, regressed(torch.from_numpy(p), torch.from_numpy(y)), resamples=0)
    assert line["mae"] == pytest.approx(np.abs(p - y).mean())
    assert line["mse"] == pytest.approx(((p - y) ** 2).mean())
    assert line["rmse"] == pytest.approx(np.sqrt(((p - y) ** 2).mean()))
    assert line["gm"] == pytest.approx(stats.gmean(np.maximum(np.abs(p - y), 1e-10)))
    assert line["r2"] == pytest.approx(r2_score(y, p))
    assert line["pearson"] == pytest.approx(stats.pearsonr(p, y).statistic)
    assert line["spearman"] == pytest.approx(stats.spearmanr(p, y).statistic)
    assert errors(torch.ones(1), torch.zeros(1))(np.ones((1, 1)))["gm"] == pytest.approx(1.0)
