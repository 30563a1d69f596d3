"""The criterion of learned views against sums over pairs, and where its gradient points."""

import math

import pytest
import torch
from torch import Tensor

from clx.losses.view_criterion import CONSISTENCY, consistency, discrepancy, relevance


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_discrepancy_is_the_sum_over_pairs() -> None:
    x, y = draw(5, 3), draw(4, 3, seed=1) + 0.5
    both = [*x, *y]
    s = sum(float((a - b).square().sum()) for a in both for b in both) / len(both) ** 2

    def k(a: Tensor, b: Tensor) -> float:
        return math.exp(-float((a - b).square().sum()) / s)

    def mean(p: Tensor, q: Tensor) -> float:
        return sum(k(a, b) for a in p for b in q) / (len(p) * len(q))

    assert discrepancy(x, y).item() == pytest.approx(mean(x, x) + mean(y, y) - 2 * mean(x, y), rel=1e-10)


def test_discrepancy_knows_equal_samples_and_bears_collapsed_ones() -> None:
    x = draw(6, 4)
    assert discrepancy(x, x.flip(0)).item() == pytest.approx(0, abs=1e-12)
    assert discrepancy(x, x + 100).item() > 0.5
    same = torch.ones(6, 4, requires_grad=True)
    discrepancy(same, same.detach()).backward()  # type: ignore[no-untyped-call]
    assert same.grad is not None
    assert same.grad.isfinite().all()


@pytest.mark.parametrize("lengths", [[7, 7], [7, 3], [2, 1], [1, 1], [0, 5]])
def test_consistency_is_the_mean_over_all_draws(lengths: list[int]) -> None:
    kept = draw(2, 7).sigmoid()
    real = torch.arange(7) < torch.tensor(lengths)[:, None]
    real[0] = real[0].flip(0)  # the mask need not come first
    rows = []
    for h in (row[there].tolist() for row, there in zip(kept, real, strict=True)):
        n = len(h)
        if n > 1:
            near = sum(abs(h[t] - h[t + 1]) for t in range(n - 1)) / (n - 1)
            far = sum(abs(a - b) for i, a in enumerate(h) for j, b in enumerate(h) if i != j) / (n * (n - 1))
            rows.append(near - far)
    expected = sum(rows) / len(rows) if rows else 0
    assert consistency(kept, real).item() == pytest.approx(expected, abs=1e-12)
    loose = kept.clone().requires_grad_()
    consistency(loose, real).backward()  # type: ignore[no-untyped-call]
    assert loose.grad is not None
    assert loose.grad.isfinite().all()
    assert (loose.grad[~real] == 0).all()


def test_relevance_weighs_its_three_parts() -> None:
    x, v, kept, real = draw(4, 3), draw(4, 3, seed=1), draw(4, 9, seed=2).sigmoid(), torch.ones(4, 9).bool()
    real[1, 4:] = False
    parts = discrepancy(x, v) + CONSISTENCY * consistency(kept, real)
    assert relevance(x, v, kept, real, 0.0).item() == pytest.approx(parts.item())
    assert relevance(x, v, kept, real, 0.7).item() == pytest.approx((parts + 0.7 * kept[real].mean()).item())
    assert relevance(x, v, kept, torch.zeros(4, 9).bool(), 0.7).isfinite()
