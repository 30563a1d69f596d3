"""What a row of logits is to be, by how alike it is to each column: softmax, sigmoid, decoupled softmax, soft top-k."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from clx.losses.primitives.functional import softplus

HALVINGS, NEWTONS = 16, 6
"""Steps that look for the threshold of `soft_top_k`: of 80 in logits the former leave 0.001, the latter no digit."""

NEVER = -1e30
"""A logit of which no exponential is left, and of which alone a softmax has no NaN."""

Form = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""Of logits `[b, M]`, how alike each pair is `[b, M]`, 0 where it is left out, and which are left out, None for none:
the term of each row `[b]` and whether it has one, None where all have."""


def shares(w: Tensor, out: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """`w` over the sum of its row, and whether that is more than 0; None for all: where nothing is left out, a row is
    wholly alike to its own partner."""
    mass = w.sum(1, keepdim=True)
    if out is None:
        return w / mass, None
    return w / torch.where(mass > 0, mass, 1), mass[:, 0] > 0


def kept(term: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Terms, 0 for rows that have none."""
    return (term if valid is None else torch.where(valid, term, 0)), valid


def soft_choice(s: Tensor, w: Tensor, out: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Cross-entropy of choosing among all columns in the proportions of `w`: lse_j s_j - sum_j w_j s_j / sum_j w_j."""
    q, valid = shares(w, out)
    return kept(without(s, out, NEVER).logsumexp(1) - torch.linalg.vecdot(q, s), valid)


def each_pair(s: Tensor, w: Tensor, out: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Binary cross-entropy of each pair with `w` as its chance, the mean over columns: softplus(s_j) - w_j s_j."""
    terms = functional.binary_cross_entropy_with_logits(s, w, reduction="none")
    if out is None:
        return terms.mean(1), None
    count = columns(s, out)
    return without(terms, out, 0).sum(1) / count.clamp(min=1), count > 0


def decoupled(s: Tensor, w: Tensor, out: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Each positive against the negatives alone: sum_p w_p log(1 + sum_{n: w_n = 0} exp(s_n - s_p)) / sum_p w_p.

    Reference:
        Gupta et al. 2024, DEXML, arXiv 2310.10636.
    """
    q, valid = shares(w, out)
    positive = w > 0
    negative = s.masked_fill(positive if out is None else out | positive, NEVER).logsumexp(1)
    return kept(torch.linalg.vecdot(q, softplus(negative[:, None] - s)), valid)


def top_k(s: Tensor, w: Tensor, out: Tensor | None, k: int, slope: float = 1.0) -> tuple[Tensor, Tensor | None]:
    """Each positive is to be among the k best: -sum_p w_p log p_p / sum_p w_p, `p` the `chances` of `soft_top_k`.

    A row of at most k columns has no term.

    Reference:
        Gupta et al. 2024, DEXML, arXiv 2310.10636.
    """
    q, valid = shares(w, out)
    enough = columns(s, out) > k
    x = soft_top_k(s, out, k, slope)
    return kept(torch.linalg.vecdot(q, softplus(-x)), enough if valid is None else enough & valid)


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
