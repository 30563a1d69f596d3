"""One weight made of those that trainings from one start arrived at. Functions of tensors alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

ALIKE = 0.9995
"""Cosine of two tensors from which on the arc between them is a straight line."""


def average(found: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_k w_k theta_k, with weights that sum to 1 (model soups, Wortsman et al. 2022, arXiv 2203.05482)."""
    return sum((w * each.double() for w, each in zip(weights, found, strict=True)), torch.zeros(())).to(found[0])


def by_delta(base: Tensor, found: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """theta_0 + sum_k w_k d_k with d_k = theta_k - theta_0 and, for each number by itself, w_k = l_k |d_k| / sum_j l_j
    |d_j|: the one that moved further counts for more; a number that none moved stays.

    The idea of CoDiEmb's merging (Zhang et al. 2025, arXiv 2508.11442), whose formula is not public: this is our own.

    Args:
        base: where the trainings began.
        weights: the l_k.
    """
    moved = [each.double() - base.double() for each in found]
    sizes = [weight * each.abs() for weight, each in zip(weights, moved, strict=True)]
    total = torch.stack(sizes).sum(0)
    share = [torch.where(total > 0, size / total.where(total > 0, 1), 0) for size in sizes]
    return (base.double() + sum(w * d for w, d in zip(share, moved, strict=True))).to(base)


def slerp(first: Tensor, second: Tensor, t: float) -> tuple[Tensor, bool]:
    """The tensor at share `t` of the way from `first` to `second` along an arc, and whether the way is straight.

    sin((1 - t) a) / sin(a) first + sin(t a) / sin(a) second, with the angle a between the two, each flattened;
    (1 - t) first + t second where they are `ALIKE` up to sign, or one is 0 (Shoemake 1985, as FusionSent merges,
    Schopf et al. 2024, arXiv 2410.05770).
    """
    a, b = first.double(), second.double()
    lengths = a.norm() * b.norm()
    cosine = (a * b).sum() / lengths if lengths > 0 else torch.ones(())
    if cosine.abs() > ALIKE:
        return ((1 - t) * a + t * b).to(first), True
    angle = torch.arccos(cosine)
    return ((((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()).to(first), False
