"""Whitened rows have unit covariance in each group; the loss against a loop with another road to the inverse root."""

import itertools

import pytest
import torch
from torch import Tensor

from clx.losses.base import LOSSES
from clx.losses.whitening import grouped, inverse_roots, ungrouped


def white(x: Tensor, order: Tensor, size: int, eps: float) -> Tensor:
    """Group by group, the inverse root by Newton's iteration."""
    done = torch.zeros_like(x)
    for start in range(0, x.shape[1], size):
        places = order[start : start + size]
        part = x[:, places] - x[:, places].mean(0)
        c, one = part.T @ part / len(x), torch.eye(len(places), dtype=x.dtype)
        c = c + eps * c.trace() / size * one
        scale = c.norm()
        a, b = c / scale, one
        for _ in range(40):
            step = (3 * one - b @ a) / 2
            a, b = a @ step, step @ b
        done = done.index_add(1, places, part @ b / scale.sqrt())
    return done


@pytest.mark.parametrize("missing", [False, True])
def test_equals_the_loop(missing: bool) -> None:
    g = torch.Generator().manual_seed(2)
    z = {n: torch.randn(9, 5, generator=g, dtype=torch.float64).requires_grad_() for n in ("a", "b", "c")}
    present = {n: torch.ones(9, dtype=torch.bool) for n in z}
    present["b"][:3] = not missing
    loss = LOSSES["whitened"](temperature=0.4, channels=3, shuffles=2, eps=0.01)
    value = loss(z, present=present, generator=torch.Generator().manual_seed(7))
    again, terms = torch.Generator().manual_seed(7), []
    for a, b in itertools.combinations(z, 2):
        both = present[a] & present[b]
        x, *others = (white(z[n][both], torch.randperm(5, generator=again), 3, 0.01) for n in (a, b, b))
        for y in others:
            s = torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=2) / 0.4
            terms.append((s.logsumexp(1) - s.diagonal()).mean())
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(value, expected)
    for a, b in zip(*(torch.autograd.grad(v, list(z.values())) for v in (value, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_groups_have_unit_covariance_and_equal_variances_a_gradient() -> None:
    g = torch.Generator().manual_seed(2)
    x, order = torch.randn(50, 8, generator=g, dtype=torch.float64), torch.randperm(8, generator=g)
    groups, covariances = grouped(x, order, 4)
    rows = ungrouped(groups @ inverse_roots(covariances, 0.0), order)
    for places in order.split(4):
        torch.testing.assert_close(rows[:, places].T @ rows[:, places] / 50, torch.eye(4, dtype=x.dtype))
    same = torch.eye(3, dtype=torch.float64)[None].requires_grad_()  # eigenvectors have no gradient here
    assert torch.autograd.gradcheck(lambda c: inverse_roots((c + c.mT) / 2, 0.1), [same])
