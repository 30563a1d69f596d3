"""Figures of sets of labels, against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from clx.pipelines.measures.label_sets import decided_sets, ranked_sets


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


def test_precision_of_the_first_labels() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4]])
    truth = torch.tensor([[True, False, True, False], [False, False, False, False]])
    found = ranked_sets(scores, truth)(np.ones((1, 2)))
    assert found["P@1"].item() == 0.5
    assert found["P@3"].item() == pytest.approx((2 / 3 + 0) / 2)
    assert "P@5" not in found


def test_labels_that_apply_to_no_row_or_to_all_are_left_out() -> None:
    scores = torch.tensor([[0.9, 0.5, 0.2], [0.1, 0.5, 0.3]])
    truth = torch.tensor([[True, False, True], [False, False, True]])
    found = ranked_sets(scores, truth)(np.ones((1, 2)))
    assert found["mAP"].item() == 1.0  # of the first and the last
    assert found["AUC"].item() == 1.0  # of the first
    said = torch.tensor([[True, False, False], [True, False, True]])
    assert decided_sets(said, truth)(np.ones((1, 2)))["macro_F1"].item() == pytest.approx(2 / 3)
