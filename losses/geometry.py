"""Alignment and uniformity on the sphere."""

import itertools
import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from clx.losses.base import Embeddings, Loss, average, nothing, register, several
from clx.losses.streaming import lse, rows, units
from clx.losses.tiles import off_diagonal


def alignment(x: Tensor, y: Tensor, alpha: float = 2.0) -> Tensor:
    """Mean distance of positive pairs `[B, D]`, to the power `alpha`: mean_i |x_i - y_i|^alpha.

    Returns:
        Scalar, at least 0. Pairs that coincide have gradient 0, also where the power has a kink.

    Reference:
        Wang & Isola 2020, arXiv 2005.10242.
    """
    squares = (x - y).square().sum(1)
    if alpha == 2:
        return squares.mean()
    apart = squares > 0
    return torch.where(apart, torch.where(apart, squares, 1) ** (alpha / 2), 0).mean()


def uniformity(x: Tensor, kernel: float = 2.0) -> Tensor:
    """Log of the mean Gaussian potential of all pairs: log mean_{i < j} exp(-kernel |x_i - x_j|^2).

    Args:
        x: `[B, D]`, B >= 2.
        kernel: positive; the paper's t.

    Returns:
        Scalar in nats, at most 0.

    Reference:
        Wang & Isola 2020, arXiv 2005.10242.
    """
    pairs = len(x) * (len(x) - 1)
    if not x.is_cuda and x.numel() * len(x) <= 1 << 21:  # few enough that the fewest operations are fastest
        return (-kernel * torch.pdist(x).square()).logsumexp(0) - math.log(pairs / 2)
    # -|a - b|^2 as one inner product, so that the pairs can be streamed: (2a, -|a|^2, -1).(b, 1, |b|^2)
    squares = x.square().sum(1, keepdim=True)
    ones = torch.ones_like(squares)
    left, right = torch.cat([2 * x, -squares, -ones], 1), torch.cat([x, ones, squares], 1)
    return lse(rows(left, right, 1 / kernel, off_diagonal), 0) - math.log(pairs)


@register("align-uniform")
@dataclass(eq=False, kw_only=True)
class AlignUniform(Loss):
    """Alignment over all pairs of names plus the mean uniformity of all names."""

    family = "geometry"
    paper = "Wang & Isola 2020, arXiv 2005.10242"
    formula = "mean_i |x_i - y_i|^alpha + weight mean_{z in x, y} log mean_{i < j} exp(-kernel |z_i - z_j|^2)"
    cost = "time O(V B^2 D), memory O(B D)"
    use = "to weigh the two things that contrast does against each other directly"

    alpha: Annotated[float, Gt(0)] = 2.0
    kernel: Annotated[float, Gt(0)] = 2.0
    weight: Annotated[float, Ge(0)] = 1.0

    def forward(self, z: Embeddings, *, present: dict[str, Tensor] | None = None) -> Tensor:
        several(z)
        # what stands in absent rows may be anything, NaN too
        u = units(z if present is None else {n: torch.where(present[n][:, None], x, 0) for n, x in z.items()})
        pairs, spread = [], []
        for a, b in itertools.combinations(u, 2):
            both = slice(None) if present is None else present[a] & present[b]
            if len(x := u[a][both]):
                pairs.append(alignment(x, u[b][both], self.alpha))
        for name in u:
            x = u[name] if present is None else u[name][present[name]]
            if len(x) > 1:
                spread.append(uniformity(x, self.kernel))
        skipped = math.comb(len(z), 2) - len(pairs)
        if skipped:
            self.log["skipped_pairs"] = skipped
        total = average(pairs) if pairs else nothing(z)
        return total + self.weight * average(spread) if spread else total
