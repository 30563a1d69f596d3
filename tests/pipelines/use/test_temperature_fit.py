"""Temperatures that tell the truth."""

import json
import math

import numpy as np
import pytest
import torch

from clx.pipelines.model.scoring import Scale
from clx.pipelines.system.errors import BadInput
from clx.pipelines.use.temperature_fit import calibration_error, fit, load_fits, save_fits


def draws(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores whose true temperature is 0.2 (and bias -1 for yes and no), with labels drawn from it."""
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(3000, 4, generator=generator).double() * 0.3
    if kind == "softmax":
        drawn = torch.multinomial((scores / 0.2).softmax(1), 1, generator=generator)
        return scores, torch.zeros(3000, 4, dtype=torch.bool).scatter(1, drawn, True)
    return scores, torch.rand(3000, 4, generator=generator) < (scores / 0.2 - 1).sigmoid()


def test_the_temperature_that_labels_were_drawn_with_is_found() -> None:
    scores, truth = draws("softmax")
    found = fit(scores, truth, Scale("softmax", 0.01))
    assert found.temperature == pytest.approx(0.2, rel=0.1)
    assert found.nll[1] < found.nll[0]
    assert found.ece[1] < 0.02 < found.ece[0]


def test_temperature_and_bias_agree_with_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    scores, truth = draws("sigmoid")
    found = fit(scores, truth, Scale("lift", 0.01))
    oracle = LogisticRegression(C=np.inf, tol=1e-8).fit(scores.reshape(-1, 1).numpy(), truth.flatten().numpy())
    assert found.kind == "sigmoid"
    assert 1 / found.temperature == pytest.approx(oracle.coef_[0, 0], rel=1e-2)
    assert found.bias == pytest.approx(oracle.intercept_[0], abs=1e-2)


def test_rows_that_are_all_right_do_not_make_it_sure() -> None:
    scores = torch.eye(4).repeat(25, 1)
    found = fit(scores, scores.bool(), Scale("softmax", 0.07))
    p = found.scale.probabilities(scores).amax(1)
    assert p.mean().item() == pytest.approx(101 / 102, abs=1e-3)


def test_calibration_error_by_hand() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]]).log()
    truth = torch.tensor([[1, 0], [0, 1], [0, 1], [0, 1]]).bool()
    # 0.9 sure and half right; 0.6 sure and all right
    assert calibration_error(Scale("softmax", 1.0), scores, truth) == pytest.approx((0.4 + 0.4) / 2, abs=1e-6)


def test_fits_are_kept_by_input_and_kind_for_these_weights_alone(tmp_path) -> None:
    one = fit(*draws("softmax"), Scale("softmax", 0.1))
    two = fit(*draws("sigmoid"), Scale("lift", 0.1))
    save_fits(tmp_path, "w", {"image": one})
    save_fits(tmp_path, "w", {"image": two, "audio": two})
    kept = load_fits(tmp_path, "w")
    assert {name: {f.kind for f in fits} for name, fits in kept.items()} == {
        "image": {"softmax", "sigmoid"},
        "audio": {"sigmoid"},
    }
    assert kept["image"][0].scale == one.scale
    assert load_fits(tmp_path, "other") == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", 0.0),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", "hot"),
        ("bias", math.inf),
        ("kind", "argmax"),
        ("rows", 0),
        ("nll", [1.0]),
        ("more", 1),
    ],
)
def test_a_calibration_out_of_range_is_refused(tmp_path, key: str, value: object) -> None:
    save_fits(tmp_path, "w", {"image": fit(*draws("softmax"), Scale("softmax", 0.1))})
    path = tmp_path / "calibration.json"
    content = json.loads(path.read_text())
    content["inputs"]["image"][0][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(BadInput, match=f"calibration.json cannot be read .*{key}"):
        load_fits(tmp_path, "w")
    assert load_fits(tmp_path, "other weights") == {}
