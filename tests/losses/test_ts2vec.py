"""TS2Vec against plain loops over its formula, with steps that only one view has; what it leaves alone; its memory."""

import math

import pytest
import torch
from torch import Tensor

from clx.losses import ts2vec as file
from clx.losses.ts2vec import TS2Vec, ts2vec

B, T, C = 4, 9, 3


def lse(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).logsumexp(0)


def level(x: list[list[Tensor]], y: list[list[Tensor]], alpha: float, temporal: bool) -> Tensor:
    """Of ragged rows: x[b][t] and y[b][t] are vectors."""
    instance, within = [], []
    for b, row in enumerate(x):
        for t in range(len(row)):
            for u, v in ((x, y), (y, x)):
                same_step = [w[c][t] for w in (u, v) for c in range(len(x)) if c != b and t < len(x[c])]
                same_series = [w[b][s] for w in (u, v) for s in range(len(row)) if s != t]
                positive = u[b][t] @ v[b][t]
                instance.append(lse([positive, *(u[b][t] @ w for w in same_step)]) - positive)
                within.append(lse([positive, *(u[b][t] @ w for w in same_series)]) - positive)
    total = alpha * torch.stack(instance).mean()
    return total + (1 - alpha) * torch.stack(within).mean() if temporal else total


def halved(row: list[Tensor], length: int) -> list[Tensor]:
    """Of a row among rows of `length` steps: the last of an odd number is dropped."""
    row = row[: length // 2 * 2]
    return [torch.stack(row[k : k + 2]).amax(0) for k in range(0, len(row), 2)]


def loops(x: list[list[Tensor]], y: list[list[Tensor]], alpha: float, unit: int) -> Tensor:
    levels = []
    while True:
        longest = max(map(len, x))
        levels.append(level(x, y, alpha, longest > 1 and len(levels) >= unit))
        if longest == 1:
            return torch.stack(levels).mean()
        x, y = [halved(r, longest) for r in x], [halved(r, longest) for r in y]


def rows(seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, B, T, C, generator=g, dtype=torch.float64).unbind(0)
    return x.requires_grad_(), y.requires_grad_()


@pytest.mark.parametrize(("alpha", "unit"), [(0.5, 0), (0.2, 2), (0.0, 0), (1.0, 1)])
@pytest.mark.parametrize("masked", [False, True])
def test_loops(alpha: float, unit: int, masked: bool) -> None:
    x, y = rows()
    here, there = torch.ones(2, B, T, dtype=torch.bool).unbind(0)
    if masked:  # crops at either end, a hole in the middle, a series without a common step
        here[0, :3], there[0, 7:], here[1, 4], here[3, :5], there[3, 5:] = False, False, False, False, False
    kept = [[t for t in range(T) if here[b, t] and there[b, t]] for b in range(B)]
    kept = [steps for steps in kept if steps]
    owners = [b for b in range(B) if bool((here[b] & there[b]).any())]
    expected = loops(*([[z[b, t] for t in s] for b, s in zip(owners, kept, strict=True)] for z in (x, y)), alpha, unit)
    z = {name: torch.zeros(B, C, dtype=torch.float64) for name in ("s/0", "s/1")}
    got = TS2Vec(alpha=alpha, temporal_unit=unit)(z, steps={"s/0": (x, here), "s/1": (y, there)})
    torch.testing.assert_close(got, expected)
    for a, b in zip(torch.autograd.grad(got, (x, y)), torch.autograd.grad(expected, (x, y)), strict=True):
        torch.testing.assert_close(a, b)


def test_groups_that_do_not_fit_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows()
    whole = ts2vec(x, y)
    expected = torch.autograd.grad(whole, (x, y))
    monkeypatch.setattr(file, "most_logits", 1)
    parts = ts2vec(x, y)
    torch.testing.assert_close(parts, whole)
    for a, b in zip(torch.autograd.grad(parts, (x, y)), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_inputs_without_steps_are_passed_over_and_unequal_ones_refused() -> None:
    x, y = rows()
    mask = torch.ones(B, T, dtype=torch.bool)
    z = {name: torch.zeros(B, C, dtype=torch.float64) for name in ("s/0", "text", "s/1", "audio")}
    steps = {"s/0": (x, mask), "s/1": (y, mask)}
    torch.testing.assert_close(TS2Vec()(z, steps=steps), ts2vec(x, y))
    with pytest.raises(ValueError, match="9 time steps and audio has 4"):
        TS2Vec()(z, steps=steps | {"audio": (x[:, :4], mask[:, :4])})
    with pytest.raises(ValueError, match="two inputs or more"):
        TS2Vec()(z, steps={"s/0": (x, mask)})


def test_no_common_step_is_no_loss() -> None:
    x, y = rows()
    mask = torch.arange(T) < 4
    z = {name: torch.zeros(B, C, dtype=torch.float64, requires_grad=True) for name in ("s/0", "s/1")}
    value = TS2Vec()(z, steps={"s/0": (x, mask.expand(B, T)), "s/1": (y, ~mask.expand(B, T))})
    value.backward()
    assert value == 0


def test_random_rows_cost_what_chance_costs() -> None:
    zero = torch.zeros(1, 2, C, dtype=torch.float64)
    # two steps: each row finds its partner among 3 equal ones in time, and alone in its batch for nothing
    torch.testing.assert_close(ts2vec(zero, zero, alpha=0.25).item(), 0.75 * math.log(3) / 2)
