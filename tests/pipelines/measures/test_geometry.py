"""The shape of a space, against brute force and spaces of known geometry."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn.functional import cross_entropy, normalize

from clx.losses.geometry import alignment as align_loss
from clx.losses.geometry import uniformity as uniform_loss
from clx.pipelines.measures import geometry
from clx.pipelines.measures.bootstrap import figures, means


def some(rows: int = 60, width: int = 5, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_alignment_and_uniformity_are_the_papers() -> None:
    x, y = some(), some(seed=1)
    line = figures(60, means({"alignment": geometry.alignment(x, y)}), resamples=0)
    assert line["alignment"] == pytest.approx(align_loss(x, y).item(), rel=1e-5)
    found = figures(60, geometry.uniformity(x), resamples=200)
    assert found["uniformity"] == pytest.approx(uniform_loss(x).item(), rel=1e-4)
    pairs = [math.exp(-2 * float((a - b).square().sum())) for a, b in itertools.combinations(x, 2)]
    assert found["uniformity"] == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-4)
    low, high = found["uniformity_ci"]
    assert low < found["uniformity"] < high
    assert figures(9, geometry.uniformity(torch.ones(9, 1)), resamples=0)["uniformity"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 5, 16])
def test_effective_rank_counts_directions(rank: int) -> None:
    """Points on both ends of `rank` axes vary in that many directions, equally."""
    axes = torch.eye(16)[:rank]
    assert geometry.effective_rank(torch.cat([axes, -axes]) * 7) == pytest.approx(rank)
    assert geometry.effective_rank(torch.randn(1, 8).repeat(50, 1)) == 0
    line = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).repeat(5, 1)
    assert geometry.effective_rank(line) == pytest.approx(1)


def test_modality_gap() -> None:
    x, y = some(), some(seed=1)
    assert figures(60, geometry.modality_gap(x, y), resamples=0)["modality_gap"] == pytest.approx(
        (x.mean(0) - y.mean(0)).norm().item(), rel=1e-4
    )


def test_hubness_is_the_skewness_of_occurrences() -> None:
    x, y = some(90), some(70, seed=1)
    for queries, candidates, itself in ((x, y, False), (x, x, True)):
        counts = [0] * len(candidates)
        for k, query in enumerate(queries):
            order = (candidates @ query).argsort(descending=True).tolist()
            for number in [each for each in order if not (itself and each == k)][:10]:
                counts[number] += 1
        found = geometry.hubness(queries, candidates, itself)["hubness"]
        assert found == pytest.approx(stats.skew(counts), rel=1e-4)
    assert geometry.hubness(x, x[:20]) == {}


def test_tolerance_is_the_mean_cosine_within_classes() -> None:
    x = normalize(torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 1, 0, 3, 0])
    pairs = [x[i] @ x[j] for i in range(12) for j in range(12) if i != j and labels[i] == labels[j]]
    found = geometry.tolerance(x, labels)(np.ones((1, 12)))["tolerance"]
    assert found[0] == pytest.approx(torch.stack(pairs).mean().item(), abs=1e-6)


def test_hardest_tenth_is_that_of_the_gradient() -> None:
    """By autograd of the softmax loss; at a high temperature it is a tenth."""
    draw = torch.Generator().manual_seed(0)
    queries, candidates = (normalize(torch.randn(n, 5, generator=draw), dim=1) for n in (4, 21))
    partner = torch.tensor([3, 0, 20, 7])
    scores = (queries @ candidates.T / 0.1).requires_grad_()
    cross_entropy(scores, partner).backward()
    assert scores.grad is not None
    slopes = scores.grad.scatter(1, partner[:, None], 0)
    expected = slopes.topk(2, dim=1).values.sum(1) / slopes.sum(1)
    torch.testing.assert_close(geometry.hardest_tenth(queries, candidates, 0.1, partner).float(), expected)
    even = geometry.hardest_tenth(queries, candidates, 1e6, partner)
    torch.testing.assert_close(even, torch.full((4,), 0.1, dtype=torch.float64), rtol=1e-4, atol=0)
    assert geometry.hardest_tenth(queries, candidates[:10], 0.1, partner.clamp(max=9)).isnan().all()
