"""The greatest scores of some queries, kept while blocks of candidates pass. Functions of tensors alone."""

import torch
from torch import Tensor


class Top:
    """For each of Q queries the candidates of greatest score so far, greatest first, of equal ones the first.

    top = Top(len(queries), 10)
    for start, rows in blocks:  # in the order of their numbers
        top.add(start, queries @ rows.T)
    top.places  # [Q, 10]
    """

    def __init__(self, queries: int, count: int, device: torch.device | str = "cpu") -> None:
        self.count = count
        self.scores = torch.zeros(queries, 0, device=device)
        """`[Q, k]`, k up to `count`; -inf where a query has fewer answers."""
        self.places = torch.zeros(queries, 0, dtype=torch.long, device=device)
        """`[Q, k]`: the candidates' numbers."""

    def add(self, start: int, scores: Tensor) -> None:
        """Scores `[Q, n]` of the candidates from number `start` on; NaN and -inf for what is no answer. They are
        changed."""
        scores = scores.nan_to_num_(nan=-torch.inf, neginf=-torch.inf, posinf=torch.inf)
        at = first_of_best(scores, self.count)
        # what came before stands first, and a stable sort leaves it so
        both = torch.cat([self.scores, scores.gather(1, at)], 1)
        kept, order = both.sort(dim=1, descending=True, stable=True)
        self.scores = kept[:, : self.count]
        self.places = torch.cat([self.places, at + start], 1).gather(1, order[:, : self.count])


def first_of_best(scores: Tensor, count: int) -> Tensor:
    """Columns `[Q, count]` of the greatest of `scores` `[Q, n]`, in order of the columns, all where there are fewer.

    Where equal scores stand on both sides of the edge, the first columns are taken; `topk` takes any, as here of -inf.
    """
    values, at = scores.topk(min(count, scores.shape[1]))
    edge = values[:, -1:]
    cut = ((scores == edge).sum(1) > (values == edge).sum(1)) & (edge[:, 0] > -torch.inf)
    for row in cut.nonzero().flatten().tolist():
        on_edge = values[row] == edge[row]
        at[row, on_edge] = (scores[row] == edge[row]).nonzero().flatten()[: int(on_edge.sum())]
    return at.sort(1).values
