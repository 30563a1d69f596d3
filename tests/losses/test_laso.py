"""LaSO against loops over its formula, with the pairs that it draws."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from clx.losses.laso import LaSO
from clx.losses.primitives.draws import permutation

B, D, C = 6, 5, 3


def made(**fields: float) -> LaSO:
    torch.manual_seed(0)
    loss = LaSO(**fields)
    loss.setup(["image", "text"], D, [str(k) for k in range(C)])
    return loss.double()


def run(loss: LaSO, operation: str, a: Tensor, b: Tensor) -> Tensor:
    """One of the networks, layer by layer, with batch norm written out."""

    def norm(x: Tensor, layer: Any) -> Tensor:
        return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() * layer.weight + layer.bias

    def linear(x: Tensor, layer: Any) -> Tensor:
        return x @ layer.weight.T + layer.bias

    network: Any = loss.operators[operation]
    h = functional.leaky_relu(norm(linear(torch.cat([a, b], 1), network.first[0]), network.first[1]))
    prior = {"difference": (a - b).clamp(min=0), "intersection": torch.min(a, b), "union": a + b}[operation]
    for layer in network.between:
        h = functional.leaky_relu(norm(linear(h, layer[0]), layer[1]) + prior)
    return linear(h, network.last).clamp(min=0)


def loops(loss: LaSO, a: Tensor, b: Tensor, of_a: list[set[int]], of_b: list[set[int]], laws: float) -> Tensor:
    def s(x: Tensor, y: Tensor) -> Tensor:
        return run(loss, "difference", x, y)

    def i(x: Tensor, y: Tensor) -> Tensor:
        return run(loss, "intersection", x, y)

    def u(x: Tensor, y: Tensor) -> Tensor:
        return run(loss, "union", x, y)

    def m(x: Tensor, sets: list[set[int]]) -> Tensor:
        total, logits = torch.zeros(()), loss.classifier(x)
        for row, wanted in zip(logits, sets, strict=True):
            for k, logit in enumerate(row):
                total = total + torch.log1p(torch.exp(-logit if k in wanted else logit)) / (len(sets) * C)
        return total

    def e(x: Tensor, y: Tensor) -> Tensor:
        return (x - y).square().mean()

    pairs = list(zip(of_a, of_b, strict=True))
    d, d2 = [p - q for p, q in pairs], [q - p for p, q in pairs]
    both, either = [p & q for p, q in pairs], [p | q for p, q in pairs]
    again, again_b = u(s(a, i(b, a)), i(a, b)), u(s(b, i(a, b)), i(b, a))
    total = m(a, of_a) + m(b, of_b) + m(again, of_a) + m(again_b, of_b)
    total = total + m(s(a, b), d) + m(s(b, a), d2) + m(u(a, b), either) + m(i(a, b), both)
    ways = [s(s(a, b), b), s(a, i(b, a)), s(a, i(a, b))]
    other_ways = [s(s(b, a), a), s(b, i(a, b)), s(b, i(b, a))]
    law = sum(m(x, d) + e(s(a, b), x) for x in ways) + sum(m(x, d2) + e(s(b, a), x) for x in other_ways)
    law = law + m(u(u(a, b), b), either) + m(u(u(b, a), a), either) + m(i(i(a, b), b), both) + m(i(i(b, a), a), both)
    law = law + m(u(b, a), either) + m(i(b, a), both) + e(u(a, b), u(b, a)) + e(i(a, b), i(b, a))
    return total + laws * (law + e(a, again) + e(b, again_b))


def test_equals_the_loops() -> None:
    draw = torch.Generator().manual_seed(3)
    z = {n: torch.randn(B, D, dtype=torch.float64, generator=draw).requires_grad_() for n in ("image", "text")}
    sets = (torch.rand(B, C, generator=draw) < 0.5).double()
    sets[4] = torch.nan  # not known
    present = {n: torch.ones(B, dtype=torch.bool) for n in z}
    present["text"][1] = False
    for fields in ({}, {"laws": 0.0, "layers": 0}, {"laws": 0.5, "layers": 2}):
        loss = made(**fields)
        value = loss(z, label_sets=sets, present=present, generator=torch.Generator().manual_seed(9))
        assert loss.log == {"dropped_labels": 2}
        rows = [(n, k) for n in z for k in range(B) if present[n][k] and k != 4]
        order = permutation(len(rows), z["text"], torch.Generator().manual_seed(9)).tolist()
        firsts = [rows[k] for k in order]
        a, b = (torch.stack([z[n][k].clamp(min=0) for n, k in each]) for each in (firsts, [firsts[-1], *firsts[:-1]]))
        of = [{c for c in range(C) if sets[k, c]} for _, k in firsts]
        expected = loops(loss, a, b, of, [of[-1], *of[:-1]], fields.get("laws", 1.0))
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
        leaves = [*z.values(), *loss.parameters()]
        ours, theirs = (torch.autograd.grad(each, leaves, allow_unused=True) for each in (value, expected))
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-10)


def test_of_fewer_columns_than_it_was_made_for() -> None:
    """As `dims` asks: the others count as 0."""
    loss, x, sets = made(), torch.randn(B, D, dtype=torch.float64), torch.eye(B, C, dtype=torch.float64)
    cut = torch.cat([x[:, :2], torch.zeros(B, D - 2, dtype=torch.float64)], 1)
    found = [
        loss({"image": rows}, label_sets=sets, generator=torch.Generator().manual_seed(1)) for rows in (x[:, :2], cut)
    ]
    assert torch.equal(*found)
