"""Measures of embeddings. Functions of tensors alone."""

from collections.abc import Sequence

import torch
from torch import Tensor


def ranks(queries: Tensor, candidates: Tensor, groups: Tensor, chunk: int = 1024) -> Tensor:
    """Rank, from 0, of the best relevant candidate of each query, `[Q]`.

    Query i's relevant candidates are those of its own group. Chunked: no `[Q, C]` matrix is held.

    Args:
        queries: `[Q, D]`; a query's dot product with a candidate is its score.
        candidates: `[C, D]`, with C = Q: candidate i is paired with query i.
        groups: `[C]` int64; candidates of one group are the same thing (equal captions, say).
    """
    found = []
    for start in range(0, len(queries), chunk):
        scores = queries[start : start + chunk] @ candidates.T
        relevant = groups[start : start + chunk, None] == groups[None, :]
        best = scores.masked_fill(~relevant, -torch.inf).amax(1, keepdim=True)
        # A tie with an irrelevant candidate counts against the query, so that a collapsed space scores 0.
        found.append(((scores >= best) & ~relevant).sum(1))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.long)


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
