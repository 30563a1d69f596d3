"""Averages of weights over the steps of training."""

import pytest
import torch
from torch import nn

from clx.pipelines.training.averaging import averaged


def test_the_average_is_that_of_a_loop_buffers_included() -> None:
    model, objective = nn.BatchNorm1d(2), nn.Linear(2, 1)
    found = averaged(model, objective, 0.9)
    expected = None
    for step in range(5):
        with torch.no_grad():
            for tensor in (*model.parameters(), *objective.parameters(), model.running_mean):
                tensor.fill_(float(step**2))
        found.update_parameters(nn.ModuleDict({"model": model, "objective": objective}))
        expected = step**2 if expected is None else 0.9 * expected + 0.1 * step**2
    both = found.module
    for tensor in (*both["model"].parameters(), *both["objective"].parameters(), both["model"].running_mean):
        assert tensor.flatten().tolist() == pytest.approx([expected] * tensor.numel())
