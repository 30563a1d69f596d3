"""Losses with networks of their own against loops: Hydra's gates, AMCL's heads and temperatures."""

import itertools
import math

import torch
from torch import Tensor

from clx.losses.amcl import AMCL
from clx.losses.hydra import Hydra

B, D = 6, 4


def rows(names: str) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(4)
    return {n: torch.randn(B, D, generator=g, dtype=torch.float64).requires_grad_() for n in names}


def same_gradients(loss: torch.nn.Module, z: dict[str, Tensor], value: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(value, expected)
    leaves = [*z.values(), *loss.parameters()]
    got, wanted = (torch.autograd.grad(v, leaves, retain_graph=True) for v in (value, expected))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_hydra_equals_the_loop() -> None:
    torch.manual_seed(0)
    loss, z = Hydra(embedding=3, hidden=5).double(), rows("ab")
    loss.setup(["a", "b"], D, ["x", "y", "z"])
    loss.double()
    labels = torch.tensor([0, 1, 1, 2, -1, 0])
    value = loss(z, labels=labels, generator=torch.Generator().manual_seed(3))
    drawn = labels[torch.randperm(B, generator=torch.Generator().manual_seed(3))]
    partners = torch.where(drawn < 0, labels, drawn)
    assert (partners != labels).any()
    every = [(i, x[i]) for x in z.values() for i in range(B) if labels[i] >= 0]
    terms = []
    for i, u in every:
        x = (loss.classes.weight[labels[i]] + loss.classes.weight[partners[i]]) / 2
        for layer in loss.layers:
            x = x.relu()
            x = layer((x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt())
        gate = x.sigmoid()
        logits = [torch.cosine_similarity(gate * u, gate * v, dim=0) / 0.1 for _, v in every]
        negative = [s for s, (j, _) in zip(logits, every, strict=True) if labels[j] not in (labels[i], partners[i])]
        for s, (j, _) in zip(logits, every, strict=True):
            if labels[j] == partners[i]:
                terms.append(torch.log1p(sum((torch.exp(n - s) for n in negative), torch.zeros(()))))
    same_gradients(loss, z, value, torch.stack(terms).mean())


def test_amcl_equals_the_loop() -> None:
    torch.manual_seed(0)
    loss, z = AMCL(heads=2, nearest=3, beta=0.01, min_temperature=0.05).double(), rows("abc")
    loss.setup(["a", "b", "c"], D)
    loss.double()

    def through(network: torch.nn.ModuleList, x: Tensor) -> Tensor:
        out: Tensor = network[1](network[0](x).relu())
        return out

    def temperature(a: Tensor, b: Tensor) -> Tensor:
        return 0.05 + 1.95 * torch.sigmoid(-through(loss.phi, a) @ through(loss.phi, b))

    terms = []
    for pair in itertools.combinations(z.values(), 2):
        total = torch.zeros((), dtype=torch.float64)
        for head in loss.projections:
            u = [torch.nn.functional.normalize(through(head, x), dim=1) for x in pair]
            every = [(i, x[i]) for x in u for i in range(B)]
            for k, (i, a) in enumerate(every):
                partner = every[(k + B) % (2 * B)][1]
                t = temperature(a, partner)
                one = -(a @ partner) / t + 0.01 * (D / 2 * t.log() + 1 / t)
                near = sorted((v for j, v in every if j != i), key=lambda v, a=a: -(a @ v).item())[:3]
                for v in near:
                    t = temperature(a, v)
                    one = one + a @ v / t / 3 - 0.01 * (t.log() + 1 / t)
                total = total + one / (2 * B)
        terms.append(total)
    same_gradients(loss, z, loss(z), torch.stack(terms).mean())
    assert math.isfinite(loss(z).item())
