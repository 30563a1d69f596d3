"""Unit rows, and softplus, log-sum-exp and mean that stay exact where those of torch overflow or lose digits."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from clx.losses.primitives import tiles
from clx.losses.primitives.autograd import at_least_float32, first_order_only, without_autocast


def unit(x: Tensor) -> Tensor:
    """Rows of `x` `[B, D]` at length 1; a row of zeros stays zero and receives no gradient."""
    return _Units.apply(at_least_float32(x))[0]  # type: ignore[no-any-return, no-untyped-call]


def unit_steps(x: Tensor) -> Tensor:
    """As `unit`, of `[B, T, D]`."""
    return unit(x.flatten(0, 1)).view(x.shape)


def units(z: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`unit` of every input: one node in the graph, or with many rows one for each input, which needs less memory."""
    if any(len(x) > tiles.small_side for x in z.values()):
        return {name: unit(x) for name, x in z.items()}
    return dict(zip(z, _Units.apply(*map(at_least_float32, z.values())), strict=True))  # type: ignore[no-untyped-call]


def paired_similarity(x: Tensor, y: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
    """Similarity of each row of `x` with the same row of `y`, over the temperature: `[B]`."""
    similarity: Tensor = torch.linalg.vecdot(x, y)
    return similarity if isinstance(temperature, float) and temperature == 1 else similarity / temperature


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), exact to float64 (torch's default threshold of 20 is not); at -inf 0 without gradient."""
    return torch.nn.functional.softplus(x, threshold=40)


def lse(x: Tensor, dim: int) -> Tensor:
    """Log-sum-exp over one dimension. Where all entries are -inf the result is too, with gradient 0 instead of NaN."""
    none = (x.detach() == -math.inf).all(dim, keepdim=True)
    if x.is_cpu and not none.any():  # a look costs less than masks there
        return x.logsumexp(dim)
    return x.masked_fill(none, 0).logsumexp(dim).masked_fill(none.squeeze(dim), -math.inf)


def held_between(log: Tensor, low: float, high: float) -> Tensor:
    """A learned scalar above 0, `[]`, of which `log` `[1]` is the logarithm, held between two limits.

    The parameter itself is clamped: a clamp in the graph would hold it at the limit, without gradient.
    """
    if not (log.is_cpu and math.log(low) <= log.item() <= math.log(high)):  # on CPU, looking is faster than clamping
        with torch.no_grad():
            log.clamp_(math.log(low), math.log(high))
    return log.exp().squeeze()


def weighted_mean(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of all entries, each times its weight if given, over their number; 0 of no entries."""
    return (x if weights is None else x * weights.to(x.dtype)).sum() / max(1, x.numel())


class _Units(Function):
    """Unit rows of several inputs of one shape, in one operation on their concatenation."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        u = torch.cat(inputs)
        norm = torch.linalg.vector_norm(u, dim=1, keepdim=True)
        inverse = torch.threshold_(norm, 1e-12, math.inf).reciprocal_()
        ctx.save_for_backward(u.mul_(inverse), inverse)
        return u.chunk(len(inputs))

    @staticmethod
    @first_order_only
    @without_autocast
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        u, inverse = ctx.saved_tensors
        g = torch.cat(grads)
        return g.addcmul_(u, torch.linalg.vecdot(g, u).unsqueeze(1), value=-1).mul_(inverse).chunk(len(grads))
