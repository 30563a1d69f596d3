"""How the learning rate goes."""

from functools import partial

import pytest

from clx.pipelines.training import schedule
from clx.pipelines.training.schedule import Length, rate_at
from configs import Make
from trained import ticking


def test_rate_rises_then_falls(make_config: Make) -> None:
    settings = make_config(train={"lr": 1.0, "warmup": 0.1, "steps": 100}).train
    rates = [rate_at(step, 100, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert rates[-1] < 0.001


def test_by_the_clock_it_goes_as_by_steps_of_equal_time(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 steps of six seconds; the rate at the end of a step is the one that counting gives it."""
    monkeypatch.setattr(schedule, "time", ticking(6))
    change = {"train": {"lr": 1.0, "warmup": 0.1}}
    settings = make_config(train=change["train"] | {"minutes": 10}).train
    length, rates, step = Length(settings, None), [], 0
    length.start()
    while not length.over(step):
        rates.append(length.rate(step))
        length.read()
        step += 1
    assert (len(rates), rates[0]) == (100, 0.0)
    assert rates[1:] == pytest.approx([rate_at(k if k > 9 else k - 1, 100, settings) for k in range(1, 100)])
    assert length.expected(step) == 100
    length.read(partial(max, 660.0))
    assert (length.done(step), length.seconds) == (1.0, 660.0)
