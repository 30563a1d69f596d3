"""How the learning rate goes."""

import pytest

from clx.pipelines.training.schedule import rate_at
from configs import Make


def test_rate_rises_then_falls(make_config: Make) -> None:
    settings = make_config(train={"lr": 1.0, "warmup": 0.1, "steps": 100}).train
    rates = [rate_at(step, 100, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert rates[-1] < 0.001
