"""PG-RANK: exact expectations over all rankings, and an estimate that is unbiased and steadier for its baseline."""

import itertools
import json

import numpy as np
import pytest
import torch
from torch import Tensor

from clx.losses.base import LOSSES
from clx.losses.pgrank import discounted, gumbel, log_probabilities, weights_of
from golden_case import GOLDEN

CASES = sorted(GOLDEN.glob("pgrank_*.npz"))


def parts(gains: Tensor, ranking: Tensor, count: int) -> Tensor:
    """What each of the first places adds to nDCG."""
    ideal = discounted(gains.sort(descending=True).values[None, :count]).sum()
    return discounted(gains[ranking][:, :count]) / ideal


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_equals_the_exact_utility_and_its_gradient(path) -> None:  # type: ignore[no-untyped-def]
    data = np.load(path)
    count = json.loads(str(data["hyper"]))["k"]
    scores = torch.tensor(data["in_scores"]).requires_grad_()
    gains = 2 ** torch.tensor(data["in_gains"]) - 1
    rankings = torch.tensor(list(itertools.permutations(range(len(scores)))))
    utility = parts(gains, rankings, count).sum(1)
    p = log_probabilities(scores.expand(len(rankings), -1), rankings).sum(1).exp()
    torch.testing.assert_close(p.sum(), torch.ones((), dtype=p.dtype))
    value = (p * utility).sum()
    torch.testing.assert_close(value, torch.tensor(data["expected"]))
    torch.testing.assert_close(torch.autograd.grad(value, [scores])[0], torch.tensor(data["grad_scores"]))


def test_estimates_are_unbiased_and_the_baseline_makes_them_steadier() -> None:
    data = np.load(CASES[0])
    count, exact = json.loads(str(data["hyper"]))["k"], torch.tensor(data["grad_scores"])
    gains = 2 ** torch.tensor(data["in_gains"]) - 1
    scores = torch.tensor(data["in_scores"]).repeat(4000, 1).requires_grad_()
    seeds = torch.randint(1 << 62, (8,), generator=torch.Generator().manual_seed(0))
    logs, found = [], []
    for seed in seeds:
        noise = gumbel(seed, torch.arange(4000), scores.shape[1], scores.dtype)
        ranking = (scores.detach() + noise).topk(count, 1).indices
        logs.append(log_probabilities(scores, ranking))
        found.append(parts(gains, ranking, count))
    spread = {}
    for baseline, credit in itertools.product(("none", "leave-one-out"), ("whole", "gain-to-go")):
        weights = weights_of(torch.stack(found), baseline, credit)
        value = (weights * torch.stack(logs)).sum() / len(seeds)
        (each,) = torch.autograd.grad(value, [scores], retain_graph=True)
        spread[baseline, credit] = float(each.std(0).norm() / exact.norm())
        torch.testing.assert_close(each.mean(0), exact, rtol=0, atol=4 * float(each.std(0).max()) / 4000**0.5)
    assert spread["none", "whole"] > 2 * spread["leave-one-out", "whole"] > 2 * spread["leave-one-out", "gain-to-go"]


def test_noise_is_gumbels_and_follows_from_places() -> None:
    seed = torch.tensor(1234567890123456789)
    noise = gumbel(seed, torch.arange(300), 300, torch.float64)
    assert torch.equal(noise[7:9], gumbel(seed, torch.arange(7, 9), 300, torch.float64))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert noise.var().item() == pytest.approx(np.pi**2 / 6, abs=0.03)
    assert abs(np.corrcoef(noise[:-1].flatten(), noise[1:].flatten())[0, 1]) < 0.01
    assert not torch.equal(noise, gumbel(seed + 1, torch.arange(300), 300, torch.float64))


def test_steps_down_the_estimate_better_the_rankings() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(16, 6, generator=g, requires_grad=True)
    y, loss, seen = torch.randn(16, 6, generator=g), LOSSES["pg-rank"](temperature=0.2), []
    adam = torch.optim.Adam([x], 0.05)
    for _ in range(60):
        adam.zero_grad()
        value = loss({"a": x, "b": y}, generator=g)
        value.backward()
        adam.step()
        seen.append(value.item())
    assert np.mean(seen[-5:]) < 0.6 * np.mean(seen[:5])
