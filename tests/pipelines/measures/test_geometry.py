"""The shape of a space, against brute force and spaces of known shape."""

import itertools
import math

import pytest
import torch
from scipy import stats
from torch.nn.functional import normalize

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
