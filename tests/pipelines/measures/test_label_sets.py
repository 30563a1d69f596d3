"""Figures of sets of labels, against scikit-learn."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from clx.pipelines.measures.label_sets import decided_sets, each_set, ranked_sets


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("levels", [0, 4])  # of scores: equal ones are one step
def test_as_scikit_learn_has_them(draw: np.random.Generator, levels: int) -> None:
    scores = draw.random((40, 6))
    scores = np.floor(scores * levels) / levels if levels else scores
    truth = draw.random((40, 6)) < 0.3
    weights = draw.integers(0, 3, (5, 40)).astype(float)
    found = ranked_sets(torch.tensor(scores), torch.tensor(truth))(weights)
    decided = decided_sets(torch.tensor(scores >= 0.5), torch.tensor(truth))(weights)
    for k, line in enumerate(weights):
        kept = {"sample_weight": line, "average": "macro"}
        assert found["mAP"][k] == pytest.approx(average_precision_score(truth, scores, **kept))
        assert found["AUC"][k] == pytest.approx(roc_auc_score(truth, scores, **kept))
        for name in ("micro", "macro"):
            expected = f1_score(truth, scores >= 0.5, average=name, sample_weight=line)
            assert decided[f"{name}_F1"][k] == pytest.approx(expected)


def test_precision_and_recall_of_the_first_labels() -> None:
    """Recall is over the rows that have a label, in a resample, too."""
    scores = torch.tensor([[0.9, 0.8, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4]])
    truth = torch.tensor([[True, False, True, False], [False, False, False, False]])
    found = ranked_sets(scores, truth)(np.ones((1, 2)))
    assert found["P@1"].item() == 0.5
    assert found["P@3"].item() == pytest.approx((2 / 3 + 0) / 2)
    assert "P@5" not in found
    assert found["R@1"].item() == 0.5
    assert found["R@3"].item() == 1
    truth[1, 0] = True
    both = ranked_sets(scores, truth)(np.array([[1.0, 1], [3, 1]]))["R@3"]
    assert both.tolist() == pytest.approx([0.5, 0.75])


def test_labels_that_apply_to_no_row_or_to_all_are_left_out() -> None:
    scores = torch.tensor([[0.9, 0.5, 0.2], [0.1, 0.5, 0.3]])
    truth = torch.tensor([[True, False, True], [False, False, True]])
    found = ranked_sets(scores, truth)(np.ones((1, 2)))
    assert found["mAP"].item() == 1.0  # of the first and the last
    assert found["AUC"].item() == 1.0  # of the first
    said = torch.tensor([[True, False, False], [True, False, True]])
    assert decided_sets(said, truth)(np.ones((1, 2)))["macro_F1"].item() == pytest.approx(2 / 3)


def test_what_is_not_known_does_not_count(draw: np.random.Generator) -> None:
    scores, truth = draw.random((40, 6)), (draw.random((40, 6)) < 0.4).astype(float)
    truth[draw.random((40, 6)) < 0.5] = np.nan
    truth[:, 4] = np.nan
    truth[:, 5] = np.where(truth[:, 5] == 1, np.nan, truth[:, 5])  # of no row is it known that the last applies
    weights = draw.integers(0, 3, (3, 40)).astype(float)
    found = ranked_sets(torch.tensor(scores), torch.tensor(truth))(weights)
    decided = decided_sets(torch.tensor(scores >= 0.5), torch.tensor(truth))(weights)
    for b, line in enumerate(weights):
        precision, area, each, counts = [], [], [], np.zeros(2)
        for k in range(6):
            here = ~np.isnan(truth[:, k]) & (line > 0)
            y, s, w = truth[here, k], scores[here, k], line[here]
            said = 2 * (w * y * (s >= 0.5)).sum(), (w * y).sum() + (w * (s >= 0.5)).sum()
            counts += said
            each += [said[0] / said[1]] if said[1] else []
            if y.any():
                precision.append(average_precision_score(y, s, sample_weight=w))
                area.append(roc_auc_score(y, s, sample_weight=w))
        assert found["mAP"][b] == pytest.approx(np.mean(precision))
        assert found["AUC"][b] == pytest.approx(np.mean(area))
        assert decided["macro_F1"][b] == pytest.approx(np.mean(each))
        assert decided["micro_F1"][b] == pytest.approx(counts[0] / counts[1])
        for n in (1, 3):
            rows = [i for i in range(40) if (~np.isnan(truth[i])).sum() >= n]
            best = {i: sorted(np.flatnonzero(~np.isnan(truth[i])), key=lambda k, i=i: -scores[i, k])[:n] for i in rows}
            hits = [truth[i, best[i]].mean() for i in rows]
            assert found[f"P@{n}"][b] == pytest.approx(np.average(hits, weights=line[rows]))
    lines = each_set(torch.tensor(scores), torch.tensor(truth))
    assert [np.isnan(one["AP"]) for one in lines] == [False] * 4 + [True] * 2
    assert torch.equal(torch.tensor(found["mAP"]), torch.tensor(again(scores, truth)(weights)["mAP"]))


def again(scores: np.ndarray, truth: np.ndarray) -> Any:
    """With other scores where nothing is known."""
    return ranked_sets(torch.tensor(np.where(np.isnan(truth), 1 - scores, scores)), torch.tensor(truth))
