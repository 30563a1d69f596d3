"""SogCLR and iSogCLR against a table of every row's averages and temperatures, in plain numbers over some steps."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from clx.losses.base import LOSSES

N, D, BATCH = 9, 4, 5


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def steps(seed: int = 0) -> list[tuple[Tensor, dict[str, Tensor]]]:
    g = torch.Generator().manual_seed(seed)
    return [
        (ids, {n: torch.randn(BATCH, D, generator=g, dtype=torch.float64) for n in ("a", "b")})
        for ids in (torch.randperm(N, generator=g)[:BATCH] for _ in range(5))
    ]


def table(own: bool, gamma: float, rho: float, rate: float, beta: float) -> list[tuple[float, dict[str, Tensor]]]:
    """The loss and its gradients, step by step."""
    u: dict[tuple[str, int], float] = {}
    tau: dict[tuple[str, int], float] = {}
    mean: dict[tuple[str, int], float] = {}
    found = []
    for ids, z in steps():
        leaves = {n: x.clone().requires_grad_() for n, x in z.items()}
        rows = {n: unit(x) for n, x in leaves.items()}
        value, surrogate = 0.0, torch.zeros((), dtype=torch.float64)
        for a, b in (("a", "b"), ("b", "a")):
            for i, row in enumerate(ids.tolist()):
                t = tau.setdefault((a, row), 0.07)
                far = [rows[a][i] @ rows[b][j] - rows[a][i] @ rows[b][i] for j in range(BATCH) if j != i]
                g = sum(math.exp(h.item() / t) for h in far) / len(far)
                u[a, row] = (1 - gamma) * u[a, row] + gamma * g if (a, row) in u else g
                weights = [math.exp(h.item() / t) / u[a, row] / len(far) for h in far]
                surrogate = surrogate + sum(w * h for w, h in zip(weights, far, strict=True)) / (2 * BATCH)
                value += t * (math.log(u[a, row]) + rho) / (2 * BATCH)
                slope = math.log(u[a, row]) + rho - sum(w * h.item() for w, h in zip(weights, far, strict=True)) / t
                if own:
                    mean[a, row] = (1 - beta) * mean.get((a, row), 0.0) + beta * max(-5.0, min(5.0, slope))
                    tau[a, row] = max(0.005, min(1.0, t - rate * mean[a, row]))
        grads = torch.autograd.grad(surrogate, list(leaves.values()))
        found.append((value, dict(zip(leaves, grads, strict=True))))
    return found


CASES: dict[str, dict[str, Any]] = {"sogclr": {"temperature": 0.07, "rho": 0.3}, "isogclr": {"rho": 0.3, "rate": 0.02}}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_table(name: str) -> None:
    loss = LOSSES[name](gamma=0.6, **CASES[name])
    loss.setup(["a", "b"], D, (), N)
    loss.memory = loss.memory.double()
    loss.memory[loss.memory > 0] = 0.07  # as float64 has it
    for (ids, z), (value, grads) in zip(steps(), table(name == "isogclr", 0.6, 0.3, 0.02, 0.9), strict=True):
        leaves = {n: x.requires_grad_() for n, x in z.items()}
        got = loss(leaves, sample_id=ids)
        assert got.item() == pytest.approx(value, rel=1e-9)
        for n, g in zip(leaves, torch.autograd.grad(got, list(leaves.values())), strict=True):
            torch.testing.assert_close(g, grads[n], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_memory_is_kept_and_not_touched_in_evaluation_nor_by_what_is_no_number(name: str) -> None:
    loss, other = LOSSES[name](), LOSSES[name]()
    loss.setup(["a", "b"], D, (), N), other.setup(["a", "b"], D, (), N)
    (ids, z), *more = steps(1)
    loss(z, sample_id=ids)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.memory, loss.memory)
    seen = torch.zeros(N, dtype=torch.bool).index_fill_(0, ids, True)
    assert (loss.memory[:, 0] != -math.inf).equal(seen)
    loss.eval()
    assert loss(more[0][1], sample_id=more[0][0]).isfinite()
    assert torch.equal(other.memory, loss.memory)
    loss.train()
    z["a"][1, 2] = torch.nan
    assert loss(z, sample_id=ids).isnan()
    assert loss.memory[seen].isfinite().all()


def test_temperatures_settle_where_the_weights_of_negatives_are_rho_from_even() -> None:
    g = torch.Generator().manual_seed(3)
    z = {n: torch.randn(20, 8, generator=g, dtype=torch.float64) for n in ("a", "b")}
    loss = LOSSES["isogclr"](rho=0.4, rate=0.01, initial_temperature=0.2)
    loss.setup(["a", "b"], 8, (), 20)
    for _ in range(300):
        loss(z, sample_id=torch.arange(20))
    tau = loss.memory[:, 1].double()
    logits = (unit(z["a"]) @ unit(z["b"]).T / tau[:, None]).fill_diagonal_(-math.inf)
    uneven = (logits.softmax(1) * logits.log_softmax(1).masked_fill(logits == -math.inf, 0)).sum(1) + math.log(19)
    inside = tau < 0.99
    assert inside.sum() > 10
    torch.testing.assert_close(uneven[inside], torch.full_like(uneven[inside], 0.4), rtol=0.02, atol=0.02)
    assert tau.std() > 0.05
