"""How the rows of a class rank one another among all rows. Functions of tensors alone."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clx.pipelines.measures.top import Top

RANKS = (1, 5, 10)
BLOCK = 1 << 24
"""Scores at a time."""


def same_class(x: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Each row asks all others by cosine; right are those of its class, R of them.

    Args:
        x: `[N, D]`.
        labels: `[N]`, at least 0.

    Returns:
        Which rows ask, `[Q]`: those whose class another row has; and of each of them, `[Q]` float64, on the CPU: `R@k`,
        1 where one of the first k is right; `R-precision`, the share of the first R that is right; and `MAP@R`,
        1/R sum_{i <= R, the i-th is right} of the share of the first i that is right.

    Reference:
        Musgrave et al. 2020, arXiv 2003.08505, section 3.2.
    """
    u, sizes = normalize(x.float(), dim=1), labels.unique(return_inverse=True, return_counts=True)
    others = sizes[2][sizes[1]] - 1
    asking = (others > 0).nonzero()[:, 0]
    if not len(asking):
        return asking.cpu(), {}
    most = max(int(others.max()), *RANKS)
    parts = [_of_rows(u, labels, others, rows, most) for rows in asking.split(max(1, BLOCK // len(u)))]
    return asking.cpu(), {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _of_rows(u: Tensor, labels: Tensor, others: Tensor, rows: Tensor, most: int) -> dict[str, Tensor]:
    scores = u[rows] @ u.T
    top = Top(len(rows), min(most, len(u) - 1), u.device)
    top.add(0, scores.scatter_(1, rows[:, None], -torch.inf))
    right = (labels[top.places] == labels[rows, None]).double()
    place = torch.arange(1, right.shape[1] + 1, device=u.device)
    relevant = right * (place <= others[rows, None])
    total = others[rows].double()
    found = {f"R@{k}": right[:, :k].amax(1) for k in RANKS}
    found["R-precision"] = relevant.sum(1) / total
    found["MAP@R"] = (relevant * right.cumsum(1) / place).sum(1) / total
    return {name: value.cpu() for name, value in found.items()}
