"""The shape of an embedding space, in figures. Functions of unit rows alone."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from clx.pipelines.measures.bootstrap import Array, Statistic

SAMPLED = 4096  # rows of what looks at all pairs
NEIGHBOURS = 10


def sample(rows: int, seed: int) -> Tensor:
    """Numbers of at most `SAMPLED` rows, drawn with `seed`, ascending."""
    if rows <= SAMPLED:
        return torch.arange(rows)
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed))[:SAMPLED].sort().values


def alignment(x: Tensor, y: Tensor) -> Tensor:
    """Squared distance of each pair of partners `[N]`: its mean is the alignment (Wang & Isola 2020, alpha = 2)."""
    return (x - y).square().sum(1)


def uniformity(x: Tensor) -> Statistic:
    """log mean exp(-2 |x_i - x_j|^2) over pairs of different rows `[N, D]` (Wang & Isola 2020, t = 2)."""
    kernel = torch.exp(4 * (x @ x.T).clamp(-1, 1) - 4).fill_diagonal_(0).numpy().astype(np.float32)

    def statistic(weights: Array) -> dict[str, Array]:
        pairs = weights.sum(1) ** 2 - (weights**2).sum(1)
        potential = (weights.astype(np.float32) @ kernel * weights).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return {"uniformity": np.log(potential / pairs)}

    return statistic


def tolerance(x: Tensor, labels: Tensor) -> Statistic:
    """Mean cosine over pairs of different rows `[N, D]` of one label `[N]`, by Wang & Liu 2021, arXiv 2012.09740."""
    rows = x.double().numpy()
    order = np.argsort(labels.numpy(), kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(labels.numpy()[order])) + 1)
    parts = [part for part in parts if len(part) > 1]

    def statistic(weights: Array) -> dict[str, Array]:
        cosines, pairs = np.zeros(len(weights)), np.zeros(len(weights))
        for part in parts:
            own = weights[:, part]
            own_square = (own**2).sum(1)
            cosines += ((own @ rows[part]) ** 2).sum(1) - own_square
            pairs += own.sum(1) ** 2 - own_square
        with np.errstate(divide="ignore", invalid="ignore"):
            return {"tolerance": cosines / pairs}

    return statistic


def hardest_tenth(queries: Tensor, candidates: Tensor, temperature: float, partner: Tensor) -> Tensor:
    """Share `[Q]` of each query's gradient on negatives that the tenth of them with the highest scores has.

    The gradient of a softmax loss by a negative's score is in proportion to exp(score / temperature). NaN for fewer
    than ten negatives.

    Args:
        queries, candidates: unit rows `[Q, D]`, `[C, D]`.
        partner: `[Q]`, the candidate that is no negative.
    """
    negatives = len(candidates) - 1
    if negatives < 10:
        return queries.new_full((len(queries),), torch.nan)
    found = []
    for start in range(0, len(queries), 1024):
        scores = queries[start : start + 1024] @ candidates.T
        scores.scatter_(1, partner[start : start + 1024, None], -torch.inf)
        part = torch.softmax(scores.double() / temperature, 1)
        found.append(part.topk(negatives // 10, dim=1).values.sum(1))
    return torch.cat(found)


def modality_gap(x: Tensor, y: Tensor) -> Statistic:
    """Distance between the means of two modalities' unit rows `[N, D]` (Liang et al. 2022)."""
    difference = (x - y).double().numpy()
    return lambda weights: {
        "modality_gap": np.linalg.norm(weights @ difference / weights.sum(1, keepdims=True), axis=1)
    }


def effective_rank(x: Tensor) -> float:
    """In how many directions rows `[N, D]` vary, 1 to D; 0 when they do not.

    The exponential of the entropy of the centred rows' singular values (Roy and Vetterli 2007).
    """
    centred = x.double() - x.double().mean(0)
    values = torch.linalg.eigvalsh(centred.T @ centred).clamp(min=0).sqrt()
    if values.sum() <= 1e-9 * len(x) ** 0.5:
        return 0.0
    return float(torch.special.entr(values / values.sum()).sum().exp())


def hubness(queries: Tensor, candidates: Tensor, itself: bool = False) -> dict[str, Any]:
    """Skewness of the number of queries that have a candidate among their 10 nearest (Radovanovic et al. 2010).

    Args:
        queries, candidates: `[Q, D]`, `[C, D]`; with `itself` they are the same rows, and none counts for itself.

    Returns:
        `{"hubness": skewness}`; nothing for fewer than 21 candidates, which have too little choice.
    """
    if len(candidates) <= 2 * NEIGHBOURS:
        return {}
    counts = torch.zeros(len(candidates))
    for start in range(0, len(queries), 1024):
        scores = queries[start : start + 1024] @ candidates.T
        if itself:
            scores.diagonal(start).fill_(-torch.inf)
        counts += torch.bincount(scores.topk(NEIGHBOURS, dim=1).indices.flatten(), minlength=len(candidates))
    spread = counts.std(correction=0)
    return {"hubness": float(((counts - counts.mean()) ** 3).mean() / spread**3) if spread else 0.0}
