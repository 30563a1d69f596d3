"""The principle of relevant information: a criterion for networks that make views, not an objective of encoders."""

import torch
from torch import Tensor

from clx.losses.primitives.autograd import at_least_float32
from clx.losses.primitives.masks import mean_where

CONSISTENCY = 0.1  # lambda


def relevance(x: Tensor, v: Tensor, kept: Tensor, real: Tensor, sparsity: float) -> Tensor:
    """AutoTCL's criterion for the augmentation network that makes views of series. It is low if

    - the mask keeps few steps, so that the view has low entropy H(V);
    - features of views are distributed as those of the series;
    - the mask is smooth in time.

    sparsity mean ||h||_0 / T + MMD^2(X, V) + lambda consistency(h)

    Args:
        x, v: `[N, D]`, features of the series and of their views.
        kept: `[N, T]`, the probability that the mask keeps a step.
        real: `[N, T]`, where there is a step.
        sparsity: at least 0; the paper's beta.

    Returns:
        Scalar.

    Reference:
        Zheng et al. 2024, arXiv 2402.10434.
    """
    return sparsity * mean_where(real, kept) + discrepancy(x, v) + CONSISTENCY * consistency(kept, real)


def discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of two samples `[N, D]` and `[M, D]`, 0 to 2, all pairs counted:

    mean k(x_i, x_j) + mean k(y_i, y_j) - 2 mean k(x_i, y_j), k(a, b) = exp(-|a - b|^2 / s)

    s is the mean of |a - b|^2 over all pairs of both samples together, a constant to the gradient.

    Reference:
        Gretton et al. 2012, equation 5.
    """
    both = torch.cat([at_least_float32(x), at_least_float32(y)])
    squares = both.square().sum(1)
    apart = (squares[:, None] + squares - 2 * both @ both.T).clamp(min=0)
    kernel = torch.exp(-apart / apart.detach().mean().clamp(min=1e-12))
    sign = torch.cat([both.new_full((len(x),), 1 / len(x)), both.new_full((len(y),), -1 / len(y))])
    return sign @ kernel @ sign


def consistency(kept: Tensor, real: Tensor) -> Tensor:
    """Difference of the mask between neighbouring steps, minus that between any two steps; mean over series of

    mean_t |h_t - h_(t + 1)| - mean_(a != b) |h_a - h_b|

    The paper draws a step, a neighbour and a distant one at random; this is the mean over all draws.

    Args:
        kept, real: `[N, T]`.
    """
    count = real.sum(1)
    long = count > 1
    n = count.clamp(min=2)[:, None]
    order = (~real).byte().argsort(dim=1, stable=True)
    h = at_least_float32(kept).gather(1, order)
    at = torch.arange(h.shape[1], device=h.device)
    near = ((h[:, 1:] - h[:, :-1]).abs() * (at[1:] < n)).sum(1) / (n[:, 0] - 1)
    ascending = h.masked_fill(at >= n, torch.inf).sort(1).values
    # of n sorted values, the one at place k is the larger in k pairs and the smaller in n - 1 - k
    share = torch.where(at < n, (2 * at - n + 1) * ascending.masked_fill(at >= n, 0), 0)
    far = 2 * share.sum(1) / (n * (n - 1))[:, 0]
    return mean_where(long, near - far)
