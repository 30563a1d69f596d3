"""The tester itself: `pretend_cuda` finds what CUDA would refuse, counts what the host waits for, and nothing else."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from pretend_cuda import Mismatch, Pretence, Pretended, pretending


class Doubled(Function):
    """Twice its input, with a constant of the given device in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, where: str) -> tuple[Tensor, Tensor]:
        ctx.where = where
        return 2 * x, 3 * y

    @staticmethod
    def backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor | None, ...]:
        return g * torch.full((3,), 2.0, device=ctx.where), h * 3, None


class ReturnsFromCpu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return torch.full((3,), 2.0)


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, device="cuda").requires_grad_()


def test_a_constant_of_the_cpu_is_found_in_forward() -> None:
    with pretending():
        x = torch.ones(3, device="cuda")
        assert isinstance(x + 1, Pretended)
        assert isinstance(x + torch.tensor(1.0), Pretended), "a scalar of the CPU may meet any tensor"
        for other in (lambda: x + torch.ones(3), lambda: torch.stack([x[0], torch.tensor(1.0)])):
            with pytest.raises(Mismatch):
                other()
        with pytest.raises(Mismatch):
            nn.Linear(3, 2)(x)
        with pytest.raises(Mismatch):
            torch.randperm(3, device="cuda", generator=torch.Generator())
        with pytest.raises(TypeError):
            x.numpy()


def test_a_constant_of_the_cpu_is_found_in_a_custom_backward() -> None:
    with pretending():
        for where, caught in (("cuda", False), ("cpu", True)):
            x, y = rows(3), rows(3)
            value = Doubled.apply(x, y, where)[0].sum()  # type: ignore[no-untyped-call]
            if caught:
                with pytest.raises(Mismatch):
                    value.backward()
            else:
                value.backward()  # the gradient of the other output is made by C++
                assert isinstance(x.grad, Pretended)
                assert x.grad.cpu().tolist() == [2, 2, 2]
        with pytest.raises(Mismatch, match="gradient 0"):
            ReturnsFromCpu.apply(rows(3)).sum().backward()  # type: ignore[no-untyped-call]


def test_gradients_that_cplusplus_makes_are_no_alarm() -> None:
    with pretending():
        x = rows(4, 6)
        parts = x.split(2, 1)
        one, *_ = x.unbind(0)
        value = parts[0].sum() + one.square().sum() + x[1:, ::2].amax(0).sum() + x.sort(0).values[0].sum()
        value = value + checkpoint(lambda z: torch.sin(z).cumsum(0).sum(), x, use_reentrant=False)
        value.backward()
        assert isinstance(x.grad, Pretended)
        assert x.grad.isfinite().all()


def test_a_module_moves_learns_and_comes_back() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.GELU(), nn.LayerNorm(8), nn.Dropout(0.5), nn.Linear(8, 2)
    )
    with pretending() as pretence:
        layers.to("cuda")
        optimizer = torch.optim.AdamW(layers.parameters(), lr=0.1, fused=True)
        assert all(p.device.type == "cuda" for p in layers.parameters())
        before, pretence.reads = layers[0].weight.detach().cpu(), type(pretence.reads)()
        for _ in range(2):
            optimizer.zero_grad()
            layers(torch.ones(5, 4, device="cuda")).square().mean().backward()
            nn.utils.clip_grad_norm_(layers.parameters(), 1.0)
            optimizer.step()
        assert not pretence.waits
        assert (layers[0].weight.cpu() != before).all()
        assert not isinstance(layers.cpu()[0].weight, Pretended)


@pytest.mark.parametrize(
    ("read", "waits"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: bool(x.any()), 1),
        (lambda x: float(x[0, 0]), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x.masked_select(x > 0), 1),
        (lambda x: x.unique(), 1),
        (lambda x: torch.tensor([1.0, 2.0], device="cuda"), 1),
        (lambda x: torch.bincount(x.long().flatten()), 1),
        (lambda x: torch.repeat_interleave(x.long()[0]), 1),
        (lambda x: x.masked_fill(x > 0, 1.0), 0),
        (lambda x: x[x.argmax(0)], 0),
        (lambda x: x.clone().__setitem__(x > 0, 1.0), 0),
        (lambda x: torch.ones(3).to("cuda", non_blocking=True), 0),
        (lambda x: x.new_full((2,), 0.5) + torch.zeros(2, device=x.device), 0),
    ],
)
def test_what_the_host_waits_for_is_counted(read: Any, waits: int) -> None:
    with pretending() as pretence:
        x = torch.ones(2, 2, device="cuda")
        pretence.reads.clear()
        read(x)
        assert pretence.waits == waits, pretence.reads


def test_it_ends() -> None:
    with pretending():
        pass
    assert Pretence.active is None
    assert not torch.cuda.is_available() or torch.version.cuda
    assert torch.ones(2, requires_grad=True).sum().backward() is None
