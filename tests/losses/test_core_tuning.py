"""Core-tuning against loops over its formula, with the draws that it makes."""

import pytest
import torch
from torch import Tensor, nn

from clx.losses.core_tuning import CoreTuning, hardest
from clx.losses.primitives.draws import beta, permutation
from clx.losses.primitives.functional import unit

Mixed = tuple[Tensor, dict[int, float]]


def made(f: Tensor, labels: list[int], generator: torch.Generator) -> list[Mixed]:
    """Rows and mixtures, each with the shares of its classes."""
    n = len(f)
    order = permutation(n, f, generator).tolist()
    shares = beta(1.0, 1.0, (2, n), f, generator)
    found: list[Mixed] = [(f[i].detach(), {labels[i]: 1.0}) for i in range(n)]

    def mix(i: int, j: int, share: float) -> Mixed:
        of = {labels[i]: share}
        of[labels[j]] = of.get(labels[j], 0.0) + 1 - share
        return share * f[i] + (1 - share) * f[j], of

    for i in range(n):
        found.append(mix(order[i], i, max(0.8, shares[0, i].item())))
    u = unit(f.detach())
    cosine = [[float(u[i] @ u[j]) for j in range(n)] for i in range(n)]
    for i in range(n):
        same = [j for j in range(n) if labels[j] == labels[i] and j != i] or [i]
        other = [j for j in range(n) if labels[j] != labels[i]]
        if other:
            p, q = min(same, key=lambda j: cosine[i][j]), max(other, key=lambda j: cosine[i][j])
            found.append(mix(p, q, shares[1, i].item()))
    return found


def loops(found: list[Mixed], weight: Tensor, project: nn.Module, t: float, eta: float) -> Tensor:
    n, ce = len(found), torch.zeros(())
    for row, of in found:
        logs = (row @ weight).log_softmax(0)
        ce = ce - sum(share * logs[k] for k, share in of.items()) / n
    z = unit(project(torch.stack([row for row, _ in found])))
    total, anchors = torch.zeros(()), 0
    for i in range(n):
        others = torch.stack([z[i] @ z[j] / t for j in range(n) if j != i]).logsumexp(0)

        def same(a: dict[int, float], b: dict[int, float]) -> bool:
            return a.keys() == b.keys() and all(abs(a[k] - b[k]) < 1e-12 for k in a)

        positives = [j for j in range(n) if j != i and same(found[i][1], found[j][1])]
        anchors += bool(positives)
        for j in positives:
            log = z[i] @ z[j] / t - others
            total = total - (1 - log.exp()) * log / n
    return ce + eta * total / max(1, anchors)


@pytest.mark.parametrize("labels", [[0, 1, 0, 2, 1, 0], [1] * 6, [0, 1, 2, 0, 1, -1]])
@pytest.mark.parametrize("blocks", [False, True])
def test_equals_the_loops(labels: list[int], blocks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if blocks:
        monkeypatch.setattr("clx.losses.core_tuning.tile_side", lambda x: 4)
    torch.manual_seed(0)
    f = torch.randn(6, 5, dtype=torch.float64).requires_grad_()
    weight = torch.randn(5, 3, dtype=torch.float64).requires_grad_()
    loss = CoreTuning(temperature=0.3, contrast=2.0, projection=4)
    loss.setup(["image"], 5)
    loss.double()
    drawn = torch.Generator().manual_seed(1)
    value = loss({"image": f}, labels=torch.tensor(labels), head=lambda rows: rows @ weight, generator=drawn)
    known = [i for i in range(6) if labels[i] >= 0]
    found = made(f[known], [labels[i] for i in known], torch.Generator().manual_seed(1))
    expected = loops(found, weight, loss.head_of_contrast, 0.3, 2.0)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    learned = [f, weight, *loss.parameters()]
    ours, theirs = (torch.autograd.grad(each, learned) for each in (value, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)


def test_the_hardest_positive_is_another_row_wherever_there_is_one() -> None:
    """0 of the rows: in the authors' code nine in ten are their own."""
    x = unit(torch.rand(64, 16, generator=torch.Generator().manual_seed(0)))
    labels = torch.arange(64) % 10
    positive, negative, apart = hardest(x, labels)
    assert bool((positive != torch.arange(64)).all())
    assert bool(apart.all())
    assert torch.equal(labels[positive], labels)
    assert bool((labels[negative] != labels).all())
