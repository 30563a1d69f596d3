"""Random numbers of losses: drawn where the generator is, and then brought to the rows."""

import torch
from torch import Tensor


def place_of(generator: torch.Generator | None, like: Tensor) -> torch.device:
    """Where to draw, so that a generator on the CPU gives the same on any device."""
    return like.device if generator is None else generator.device


def permutation(n: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """The numbers below `n` in a random order, on the device of `like`."""
    where = place_of(generator, like)
    return torch.randperm(n, generator=generator, device=where).to(like.device, non_blocking=True)


def beta(a: float, b: float, shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws of Beta(a, b), of the type and device of `like`."""
    where = place_of(generator, like)
    x, y = (
        torch._standard_gamma(torch.full(shape, k, dtype=torch.float64, device=where), generator=generator)
        for k in (a, b)
    )
    return (x / (x + y).clamp(min=torch.finfo(torch.float64).tiny)).to(like.device, like.dtype, non_blocking=True)


def uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws from [0, 1), of the device of `like`, in float32."""
    where = place_of(generator, like)
    return torch.rand(shape, generator=generator, device=where).to(like.device, non_blocking=True)


def normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws from the normal distribution, of the type and device of `like`; the same of any type."""
    where = place_of(generator, like)
    return torch.randn(shape, generator=generator, device=where).to(like.device, like.dtype, non_blocking=True)
