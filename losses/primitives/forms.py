"""What a row of logits is to be, by how alike it is to each column: softmax, sigmoid, decoupled softmax, soft top-k."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from clx.losses.primitives.functional import lse, softplus

HALVINGS, NEWTONS = 16, 6
"""Steps that look for the threshold of `soft_top_k`: of 80 in logits the former leave 0.001, the latter no digit."""

Form = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""Of logits `[b, M]`, how alike each pair is `[b, M]`, 0 where it is left out, and which are left out, None for none:
the term of each row `[b]` and whether it has one."""


def soft_choice(s: Tensor, w: Tensor, out: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cross-entropy of choosing among all columns in the proportions of `w`: lse_j s_j - sum_j w_j s_j / sum_j w_j."""
    mass = w.sum(1)
    term = lse(without(s, out, -torch.inf), 1) - torch.linalg.vecdot(w, s) / torch.where(mass > 0, mass, 1)
    return torch.where(mass > 0, term, 0), mass > 0


def each_pair(s: Tensor, w: Tensor, out: Tensor | None) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of each pair with `w` as its chance, the mean over columns: softplus(s_j) - w_j s_j."""
    count = columns(s, out)
    term = without(softplus(s) - w * s, out, 0).sum(1) / count.clamp(min=1)
    return term, count > 0


def decoupled(s: Tensor, w: Tensor, out: Tensor | None) -> tuple[Tensor, Tensor]:
    """Each positive against the negatives alone: sum_p w_p log(1 + sum_{n: w_n = 0} exp(s_n - s_p)) / sum_p w_p.

    Reference:
        Gupta et al. 2024, DEXML, arXiv 2310.10636.
    """
    mass, positive = w.sum(1), w > 0
    negative = lse(s.masked_fill(positive if out is None else out | positive, -torch.inf), 1)
    term = torch.linalg.vecdot(w, softplus(negative[:, None] - s)) / torch.where(mass > 0, mass, 1)
    return torch.where(mass > 0, term, 0), mass > 0


def top_k(s: Tensor, w: Tensor, out: Tensor | None, k: int, slope: float = 1.0) -> tuple[Tensor, Tensor]:
    """Each positive is to be among the k best: -sum_p w_p log p_p / sum_p w_p, `p` the `chances` of `soft_top_k`.

    A row of at most k columns has no term.

    Reference:
        Gupta et al. 2024, DEXML, arXiv 2310.10636.
    """
    mass = w.sum(1)
    valid = (mass > 0) & (columns(s, out) > k)
    x = soft_top_k(s, out, k, slope)
    term = torch.linalg.vecdot(w, softplus(-x)) / torch.where(mass > 0, mass, 1)
    return torch.where(valid, term, 0), valid


def soft_top_k(s: Tensor, out: Tensor | None, k: int, slope: float) -> Tensor:
    """slope (s_j + t), with t such that the sigmoids of a row add up to k over the columns that count: `[b, M]`.

    The gradient is that of the sigmoids at their exact t: dt/ds_j = -v_j / sum v, v the slopes of the sigmoids. Where
    no more than k columns count, the result means nothing.
    """
    with torch.no_grad():
        reach = (10 + math.log(max(1, s.shape[1]))) / slope
        high = reach - without(s, out, torch.inf).amin(1, keepdim=True)
        low = -reach - without(s, out, -torch.inf).amax(1, keepdim=True)
        low, high = low.masked_fill(low == torch.inf, 0), high.masked_fill(high == -torch.inf, 0)  # no column counts
        t = (low + high) / 2
        for step in range(HALVINGS + NEWTONS):
            p = without((slope * (s + t)).sigmoid(), out, 0)
            missing, v = k - p.sum(1, keepdim=True), slope * p * (1 - p)
            share = v / v.sum(1, keepdim=True).clamp(min=1e-30)
            low, high = torch.where(missing > 0, t, low), torch.where(missing > 0, high, t)
            newton = t + missing / v.sum(1, keepdim=True).clamp(min=1e-30)
            t = (low + high) / 2 if step < HALVINGS else torch.minimum(torch.maximum(newton, low), high)
    return slope * (s + t - (share * (s - s.detach())).sum(1, keepdim=True))


def without(x: Tensor, out: Tensor | None, value: float) -> Tensor:
    """`x` with a value in place of what is left out."""
    return x if out is None else x.masked_fill(out, value)


def columns(s: Tensor, out: Tensor | None) -> Tensor:
    """How many columns of each row count, `[b]`."""
    return torch.full_like(s[:, 0], s.shape[1], dtype=torch.long) if out is None else (~out).sum(1)
