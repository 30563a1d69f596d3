"""SCT's queue and predictor; its formula is held against the authors' numbers in test_golden_batch.py."""

import torch
from torch import Tensor

from clx.losses.sct import SCT


def made() -> SCT:
    torch.manual_seed(0)
    loss = SCT(queue=7, layers=2, hidden=3)
    loss.setup(["a", "b"], 4)
    return loss.double()


def steps(seed: int = 1) -> list[dict[str, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [{n: torch.randn(3, 4, generator=g, dtype=torch.float64) for n in ("a", "b")} for _ in range(4)]


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def test_equals_the_loop_step_by_step_and_the_queue_is_first_in_first_out() -> None:
    loss = made()
    queues = {n: list(loss.queues[k].clone()) for k, n in enumerate("ab")}
    for z in steps():
        leaves = {n: x.clone().requires_grad_() for n, x in z.items()}
        value = loss(leaves)
        rows, total = {n: unit(x) for n, x in leaves.items()}, torch.zeros((), dtype=torch.float64)
        for own, other in ("ab", "ba"):
            columns = torch.stack([*queues[own], *rows[own].detach()])
            queues[own] = list(columns[-7:])
            x = leaves[other]
            for part in loss.predictor:
                x = part(x)
            for r, p in zip(rows[own].detach(), unit(x), strict=True):
                teacher, student = (columns @ r / 0.04).softmax(0), (columns @ p / 0.05).softmax(0)
                total = total + (teacher * (teacher / student).log()).sum() / 3
        torch.testing.assert_close(value, total, rtol=1e-7, atol=1e-9)
        parameters = [*leaves.values(), *loss.parameters()]
        got, wanted = (torch.autograd.grad(v, parameters) for v in (value, total))
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
        for k, n in enumerate("ab"):
            torch.testing.assert_close(loss.queues[k], torch.stack(queues[n]))


def test_the_queue_is_saved_and_stays_in_evaluation_and_after_a_spoiled_step() -> None:
    loss, other = made(), made()
    first, second, *_ = steps()
    loss(first)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.queues, loss.queues)
    assert torch.equal(other(second), loss(second))
    before = loss.queues.clone()
    loss.eval()(first)
    assert torch.equal(loss.queues, before)
    loss.train()
    first["a"][1, 1] = torch.nan
    assert loss(first).isnan()
    assert torch.equal(loss.queues[0], before[0])


def test_rows_that_lack_an_input_are_not_queued() -> None:
    loss = made()
    (z, *_), before = steps(), loss.queues.clone()
    there = torch.tensor([True, False, True])
    z["b"][1] = torch.nan
    loss(z, present={"a": torch.ones(3, dtype=torch.bool), "b": there})
    torch.testing.assert_close(loss.queues[1, -2:], unit(z["b"][there]))
    torch.testing.assert_close(loss.queues[1, :-2], before[1, 2:].double())
