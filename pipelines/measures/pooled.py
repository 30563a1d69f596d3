"""How well one threshold tells right from wrong pairs of all queries together. Functions of tensors alone."""

from collections.abc import Iterator

import torch
from torch import Tensor

from clx.pipelines.measures.ranking import Relevant

BINS = 2**16
"""Of the scores between the lowest and the highest; pairs in one bin count as ties."""
CELLS = 2**22
POINTS = 51
"""Of a curve at most."""


def pooled(queries: Tensor, candidates: Tensor, relevant: Relevant) -> tuple[float, list[list[float]]]:
    """The area under the curve of all pairs of a query and a candidate, and the curve, in blocks of scores.

    Args:
        queries: `[Q, D]`; a query's dot product with a candidate is its score.
        candidates: `[C, D]`.
        relevant: the answers of each query.

    Returns:
        The chance that a right pair scores above a wrong one, ties counting half, NaN where none is wrong; and
        `[share of wrong pairs, share of right pairs]` above falling thresholds.

    Reference:
        Bradley 1997, The use of the area under the ROC curve; pooled as by the Mann-Whitney statistic of all pairs.
    """
    ends = [(block.min(), block.max()) for block in _scores(queries, candidates)]
    low, high = torch.stack([a for a, _ in ends]).min(), torch.stack([b for _, b in ends]).max()
    step = ((high - low) / BINS).clamp(min=1e-30)

    def counted(scores: Tensor) -> Tensor:
        return torch.bincount(((scores.flatten() - low) / step).long().clamp(max=BINS - 1), minlength=BINS).cpu()

    every = torch.zeros(BINS, dtype=torch.long)
    for block in _scores(queries, candidates):
        every += counted(block)
    right = torch.zeros(BINS, dtype=torch.long)
    for query, number in zip(relevant.queries.split(CELLS // 64), relevant.numbers.split(CELLS // 64), strict=True):
        pair = queries[query.to(queries.device)] * candidates[number.to(queries.device)]
        right += counted(pair.sum(1).clamp(low, high))
    wrong = (every - right).clamp(min=0).flip(0).double()
    hits = right.flip(0).double()
    false, true = wrong.cumsum(0) / wrong.sum(), hits.cumsum(0) / hits.sum()
    area = ((wrong / wrong.sum()) * (true - hits / hits.sum() / 2)).sum().item()
    grid = torch.linspace(0, 1, POINTS, dtype=torch.float64)
    places = torch.searchsorted(false.contiguous(), grid).clamp(max=BINS - 1)
    points = torch.stack([false[places], true[places]], 1)
    return area, [[0.0, 0.0], *((points * 1e4).round() / 1e4).unique(dim=0).tolist()]


def _scores(queries: Tensor, candidates: Tensor) -> Iterator[Tensor]:
    """All scores, some queries at a time."""
    for block in queries.split(max(1, CELLS // max(1, len(candidates)))):
        yield block @ candidates.T
