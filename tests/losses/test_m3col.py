"""M3CoL against loops over its formula, with the draws that it makes."""

import pytest
import torch
from torch import Tensor

from clx.losses.m3col import M3CoL
from clx.losses.primitives.draws import beta, permutation, uniform

T, SOFT = 0.2, 0.3
Rows = dict[str, Tensor]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a.norm() * b.norm())


def log_p(s: list[Tensor], k: int) -> Tensor:
    return s[k] - torch.stack(s).logsumexp(0)


def mixed(x: list[Tensor], y: list[Tensor], partner: list[int], share: list[float], t: float) -> Tensor:
    n, total = len(x), torch.zeros(())
    rows = [share[i] * x[i] + (1 - share[i]) * x[partner[i]] for i in range(n)]
    target = [[0.0] * n for _ in range(n)]
    for i in range(n):
        target[i][i] += share[i]
        target[i][partner[i]] += 1 - share[i]
    for i in range(n):
        for j in range(n):
            over_columns = log_p([cosine(rows[i], each) / t for each in y], j)
            over_rows = log_p([cosine(each, y[j]) / t for each in rows], i)
            total = total - target[i][j] * (over_columns + over_rows) / (2 * n)
    return total


def soft(x: list[Tensor], y: list[Tensor], t: float) -> Tensor:
    n, total = len(x), torch.zeros(())
    for i in range(n):
        target = torch.stack([cosine(y[i], each) / t for each in y]).softmax(0)
        for j in range(n):
            there = log_p([cosine(x[i], each) / t for each in y], j)
            back = log_p([cosine(y[i], each) / t for each in x], j)
            total = total - target[j] * (there + back) / (2 * n)
    return total


@pytest.mark.parametrize("progress", [0.1, 0.9])
@pytest.mark.parametrize("names", [2, 3])
@pytest.mark.parametrize("missing", [False, True])
def test_equals_the_loops(progress: float, names: int, missing: bool) -> None:
    draw = torch.Generator().manual_seed(3)
    z = {name: torch.randn(6, 4, dtype=torch.float64, generator=draw).requires_grad_() for name in "abc"[:names]}
    present = {name: torch.ones(6, dtype=torch.bool) for name in z}
    if missing:
        present["a"][2] = present["b"][4] = False
    loss = M3CoL(temperature=T, soft_temperature=SOFT, alpha=2.0)
    value = loss(z, present=present, progress=progress, generator=torch.Generator().manual_seed(9))
    again, expected, every = torch.Generator().manual_seed(9), torch.zeros(()), list(z)
    for k, a in enumerate(every):
        b = every[(k + 1) % names]
        both = (present[a] & present[b]).nonzero()[:, 0].tolist()
        x, y = [z[a][i] for i in both], [z[b][i] for i in both]
        if progress < 0.33:
            partner = permutation(len(x), z[a], again)
            share = beta(2.0, 2.0, (len(x),), z[a], again)
            share = torch.where(uniform((len(x),), z[a], again) < 0.5, share, 1)
            expected = expected + mixed(x, y, partner.tolist(), share.tolist(), T)
        else:
            expected = expected + soft(x, y, SOFT)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    ours, theirs = (torch.autograd.grad(each, list(z.values())) for each in (value, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)


def test_draws_of_beta_have_its_mean_and_variance() -> None:
    draws = beta(0.5, 1.5, (20000,), torch.zeros(1), torch.Generator().manual_seed(0))
    assert draws.mean().item() == pytest.approx(0.25, abs=0.01)
    assert draws.var().item() == pytest.approx(0.25 * 0.75 / 3, abs=0.005)
