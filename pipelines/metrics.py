"""Measures of embeddings. Functions of tensors alone."""

from collections.abc import Sequence

import torch
from torch import Tensor


def ranks(queries: Tensor, candidates: Tensor, relevant: Sequence[Sequence[int]], chunk: int = 1024) -> Tensor:
    """Rank, from 0, of the best relevant candidate of each query, `[Q]`. No `[Q, C]` matrix is held.

    A tie with an irrelevant candidate counts against the query, so that a collapsed space scores nothing.

    Args:
        queries: `[Q, D]`; a query's dot product with a candidate is its score.
        candidates: `[C, D]`, each a different thing.
        relevant: for each query the numbers of the candidates that answer it, one or more.
    """
    found = []
    for start in range(0, len(queries), chunk):
        scores = queries[start : start + chunk] @ candidates.T
        answers = torch.zeros_like(scores, dtype=torch.bool)
        for row, numbers in enumerate(relevant[start : start + chunk]):
            answers[row, list(numbers)] = True
        best = scores.masked_fill(~answers, -torch.inf).amax(1, keepdim=True)
        found.append(((scores >= best) & ~answers).sum(1))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.long)


def first_answers(queries: Tensor, candidates: Tensor, chunk: int = 1024) -> Tensor:
    """Number of the best-scored candidate of each query, `[Q]`."""
    parts = [(queries[start : start + chunk] @ candidates.T).argmax(1) for start in range(0, len(queries), chunk)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)


def recall_at(rank: Tensor, ks: Sequence[int]) -> dict[str, float]:
    """Share of queries whose best relevant candidate is among the first k, for each k."""
    return {f"R@{k}": (rank < k).float().mean().item() for k in ks}


def accuracies(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Top-1, top-5 (from six classes on) and mean per-class accuracy of `scores` `[N, C]` against `labels` `[N]`."""
    order = scores.topk(min(5, scores.shape[1]), dim=1).indices
    hit = order == labels[:, None]
    first = hit[:, 0].double()
    per_class = [first[labels == c].mean().item() for c in labels.unique()]
    found = {"top1": first.mean().item()}
    if scores.shape[1] > 5:
        found["top5"] = hit.any(1).double().mean().item()
    return found | {"mean_per_class": sum(per_class) / len(per_class)}
