"""Measures of predictions against brute force and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, f1_score, r2_score, roc_auc_score
from torch import Tensor

from clx.pipelines.measures.bootstrap import figures
from clx.pipelines.measures.prediction import (
    accuracies,
    calibration_gap,
    confusion,
    correlations,
    errors,
    macro_auc,
    macro_f1,
    regressed,
)
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


@pytest.mark.parametrize("classes", [2, 5])
def test_f1_and_auc_are_scikit_learns_of_any_rows_drawn(classes: int) -> None:
    draw = np.random.default_rng(classes)
    labels, answers = draw.integers(0, classes, 80), draw.integers(0, classes, 80)
    scores = draw.normal(size=(80, classes)).round(1)  # with ties
    truth, said = torch.from_numpy(labels), torch.from_numpy(answers)
    chosen = [np.arange(80), *(draw.integers(0, 80, 80) for _ in range(5))]
    weights = np.stack([np.bincount(rows, minlength=80) for rows in chosen]).astype(float)
    f1 = macro_f1(said, truth, classes + 2)(weights)["macro_F1"]  # two classes never occur
    auc = macro_auc(torch.from_numpy(scores), truth)(weights)["macro_AUC"]
    for k, rows in enumerate(chosen):
        assert f1[k] == pytest.approx(f1_score(labels[rows], answers[rows], average="macro"))
        areas = [roc_auc_score(labels[rows] == c, scores[rows, c]) for c in range(classes)]
        assert auc[k] == pytest.approx(np.mean(areas))


def test_a_class_without_rows_or_without_others_has_no_area() -> None:
    scores, one = torch.rand(6, 3), torch.zeros(6, dtype=torch.long)
    assert np.isnan(figures(6, macro_auc(scores, one), resamples=0)["macro_AUC"])
    two = torch.tensor([0, 0, 0, 2, 2, 2])
    found = figures(6, macro_auc(scores, two), resamples=0)["macro_AUC"]
    assert found == pytest.approx(np.mean([roc_auc_score(two == c, scores[:, c]) for c in (0, 2)]))


def test_calibration_gap_by_hand() -> None:
    sure, right = torch.tensor([0.9, 0.9, 0.6, 0.6]), torch.tensor([True, False, True, True])
    assert figures(4, calibration_gap(sure, right), resamples=0)["ECE"] == pytest.approx((0.4 + 0.4) / 2)


def test_correlations_of_equal_values_are_none() -> None:
    draw = torch.Generator().manual_seed(3)
    p, y = torch.randn(40, generator=draw), torch.randn(40, generator=draw).round()
    line = figures(40, correlations(p, y), resamples=0)
    assert line["spearman"] == pytest.approx(stats.spearmanr(p, y).statistic)
    assert line["pearson"] == pytest.approx(stats.pearsonr(p, y).statistic)
    assert np.isnan(figures(40, correlations(torch.ones(40), y), resamples=0)["spearman"])
