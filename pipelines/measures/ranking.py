"""What each query finds among candidates: ranks, precision, gains. Functions of tensors alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clx.pipelines.measures.bootstrap import Statistic, means, median, together

CELLS = 2**24  # of a block of scores: 64 MiB
PASSES = 8  # up to so many right answers are counted one by one, more by sorting
DEPTH = 10  # answers that are kept of each query


@dataclass(frozen=True)
class Relevant:
    """Which candidates answer each query: those of query q are `numbers[starts[q] : starts[q + 1]]`, ascending."""

    starts: Tensor
    """`[Q + 1]`."""
    numbers: Tensor
    """`[P]`, one for each pair of a query and an answer."""

    @classmethod
    def of(cls, queries: Tensor, candidates: Tensor, count: int) -> "Relevant":
        """From pairs `[P]`, `[P]` of query and candidate numbers in any order, doubles allowed; `count` queries."""
        pairs = torch.unique(torch.stack([queries, candidates], 1), dim=0)
        starts = torch.zeros(count + 1, dtype=torch.long)
        starts[1:] = torch.bincount(pairs[:, 0], minlength=count).cumsum(0)
        return cls(starts, pairs[:, 1].contiguous())

    @property
    def counts(self) -> Tensor:
        """Answers of each query, `[Q]`."""
        return self.starts.diff()

    @property
    def queries(self) -> Tensor:
        """The query of each pair, `[P]`."""
        return torch.arange(len(self.counts)).repeat_interleave(self.counts)

    def padded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The answers of some queries as `[b, R]`, and where these are real."""
        counts = self.counts[rows]
        place = torch.arange(int(counts.max()))[None]
        real = place < counts[:, None]
        return self.numbers[torch.where(real, self.starts[rows][:, None] + place, 0)], real


@dataclass(frozen=True)
class Ranking:
    """What each query finds."""

    first: Tensor
    """Rank, from 0, of its best right answer, `[Q]`."""
    precision: Tensor
    """Average precision, `[Q]`."""
    auc: Tensor
    """Share of wrong candidates below a right one, ties counting half; NaN where none is wrong. `[Q]`."""
    top: Tensor
    """Its best candidates, best first, `[Q, min(10, C)]`."""


def rank(queries: Tensor, candidates: Tensor, relevant: Relevant, cells: int = CELLS) -> Ranking:
    """As `rank_by`, of queries `[Q, D]` whose dot products with candidates `[C, D]` are the scores."""
    return rank_by(lambda rows: queries[rows.to(queries.device)] @ candidates.T, len(candidates), relevant, cells)


def rank_by(score: Callable[[Tensor], Tensor], count: int, relevant: Relevant, cells: int = CELLS) -> Ranking:
    """Rank all candidates for each query, in blocks of `cells` scores: no `[Q, C]` matrix is held.

    Where a wrong candidate ties with a right one, it stands before it: a collapsed space finds nothing.

    Args:
        score: gives the scores `[n, C]` of all candidates, each a different thing, for the queries at `[n]`.
        count: of the candidates.
        relevant: one answer or more for each query.
    """
    queries, depth = len(relevant.counts), min(DEPTH, count)
    first, top = torch.zeros(queries, dtype=torch.long), torch.zeros(queries, depth, dtype=torch.long)
    precision, auc = torch.zeros(queries), torch.zeros(queries)
    order = relevant.counts.argsort(descending=True, stable=True)  # alike queries together
    for rows in order.split(max(1, cells // max(1, count))):
        scores = score(rows)
        top[rows] = scores.topk(depth, dim=1).indices.cpu()
        numbers, real = (each.to(scores.device) for each in relevant.padded(rows))
        right = scores.gather(1, numbers).masked_fill(~real, torch.inf)
        right, place = right.sort(1, descending=True)
        real = real.gather(1, place)
        blank = torch.where(real, numbers.gather(1, place), numbers[:, :1])  # every query has one answer at least
        scores.scatter_(1, blank, -torch.inf)
        above, level = _above(scores, right)
        total = real.sum(1)
        begin = (~real).sum(1, keepdim=True)  # padding is infinite and stands first
        hits = real.cumsum(1).double()
        precision[rows] = (torch.where(real, hits / (hits + level), 0).sum(1) / total).float().cpu()
        first[rows] = level.gather(1, begin)[:, 0].cpu()
        wrong = (count - total).double()
        lost = torch.where(real, (above + level) / 2, 0.0).sum(1) / total
        auc[rows] = (1 - lost / wrong).float().cpu()
    return Ranking(first, precision, auc, top)


def _above(scores: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    """How many of `scores` `[b, C]` are above, and how many at or above, each of `limits` `[b, R]`."""
    if limits.shape[1] <= PASSES:
        columns = limits.split(1, dim=1)
        counts = [(_count(scores > each), _count(scores >= each)) for each in columns]
        return torch.stack([each[0] for each in counts], 1), torch.stack([each[1] for each in counts], 1)
    ascending = scores.sort(1).values
    limits = limits.contiguous()
    count = scores.shape[1]
    above = count - torch.searchsorted(ascending, limits, right=True)
    return above, count - torch.searchsorted(ascending, limits)


def _count(mask: Tensor) -> Tensor:
    """True places of each line of `[b, C]`; as bytes they add up twice as fast."""
    return mask.view(torch.uint8).sum(1, dtype=torch.int32).long()


def discounted(gains: Tensor, best: Tensor) -> Tensor:
    """Normalised discounted cumulative gain `[N]` of the gains `[N, K]` in the order found and in the best order.

    Linear gains over log2(1 + place) (Jarvelin & Kekalainen 2002), as scikit-learn's `ndcg_score` has it; NaN where
    no candidate gains anything.
    """
    places = 1 / torch.log2(torch.arange(2, gains.shape[1] + 2, dtype=torch.float64))
    return (gains.double() @ places) / (best.double() @ places)


def gains_by_label(
    top: Tensor, query: Tensor, labels: Tensor, candidates: Tensor, relevant: Relevant
) -> tuple[Tensor, Tensor]:
    """Gains of the answers and the best possible: 2 for a partner, 1 for another candidate of the row's label.

    Args:
        top: `[Q, K]`, answers of each distinct query.
        query: `[N]`, the distinct query that each row asks.
        labels: `[N]`, of the rows, -1 for none.
        candidates: `[C]`, their labels.
    """
    answers = top[query]
    count = len(candidates)
    partners = relevant.queries * count + relevant.numbers
    found = torch.isin(top + torch.arange(len(top))[:, None] * count, partners)[query]
    same = (candidates[answers] == labels[:, None]) & (labels[:, None] >= 0)
    gains = torch.where(found, 2, same.long())
    kinds = int(max(labels.max(), candidates.max())) + 2
    both, times = torch.unique(relevant.queries * kinds + candidates[relevant.numbers] + 1, return_counts=True)
    asked = query * kinds + labels + 1
    place = torch.searchsorted(both, asked).clamp(max=len(both) - 1)
    shared = torch.where((both[place] == asked) & (labels >= 0), times[place], 0)
    alike = torch.bincount(candidates + 1, minlength=kinds)[labels + 1]
    twos = relevant.counts[query]
    ones = torch.where(labels >= 0, alike - shared, 0)
    places = torch.arange(top.shape[1])[None]
    best = (places < twos[:, None]).long() + (places < (twos + ones)[:, None]).long()
    return gains, best


def gains_by_target(top: Tensor, query: Tensor, targets: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Gains exp(-d) of the answers and the best possible, d the distance of a row's target from a candidate's.

    Distances are in standard deviations of the candidates' targets, root mean square over the columns. Both are
    given in units of the nearest candidate's gain, which no share of theirs depends on: far from all candidates
    every exp(-d) would be zero.

    Args:
        targets: `[N, K]`, of the rows, finite.
        candidates: `[C, K]`, of the candidates; NaN for none, which gains nothing.
    """
    from scipy.spatial import cKDTree

    known = ~candidates.isnan().any(1)
    spread = candidates[known].double().std(0, correction=min(1, int(known.sum()) - 1))
    scale = spread.clamp(min=1e-12) * candidates.shape[1] ** 0.5
    there, asked = candidates.double() / scale, targets.double() / scale
    nearest = min(top.shape[1], int(known.sum()))
    found, _ = cKDTree(there[known].numpy()).query(asked.numpy(), k=list(range(1, nearest + 1)))
    distance = torch.from_numpy(found)
    apart = (there[top[query]] - asked[:, None]).norm(dim=2)
    gains = torch.exp(distance[:, :1] - apart).nan_to_num(0)
    best = torch.zeros_like(gains)
    best[:, :nearest] = torch.exp(distance[:, :1] - distance)
    return gains, best


def gains_by_score(top: Tensor, query: Tensor, thing: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Gains of the answers `[Q, K]` and the best possible: the mean score of the pair of a query and an answer.

    A pair without a score gains nothing, and so does the lowest score where that is below 0.

    Args:
        top: `[Q, K]`, answers of each distinct query.
        query: `[P]`, the query of each scored pair, and `thing` `[P]` its candidate; `scores` `[P]`.
        count: of all candidates.
    """
    keys, place = torch.unique(query * count + thing, return_inverse=True)
    raised = scores.double() - min(0.0, scores.min().item())
    value = torch.zeros(len(keys), dtype=torch.float64).index_add(0, place, raised) / torch.bincount(place)
    asked = torch.arange(len(top))[:, None] * count + top
    at = torch.searchsorted(keys, asked).clamp(max=len(keys) - 1)
    gains = torch.where(keys[at] == asked, value[at], 0.0)
    order = value.argsort(descending=True, stable=True)
    order = order[(keys[order] // count).argsort(stable=True)]  # by query, the highest first
    owner = keys[order] // count
    first = torch.searchsorted(owner, torch.arange(len(top)))
    rank = torch.arange(len(keys)) - first[owner]
    best, kept = torch.zeros_like(gains), rank < top.shape[1]
    best[owner[kept], rank[kept]] = value[order][kept]
    return gains, best


def best_classes(queries: Tensor, classes: Tensor, cells: int = CELLS) -> Tensor:
    """The best-scored classes of each row, best first, `[N, min(5, C)]`."""
    depth = min(5, len(classes))
    blocks = queries.split(max(1, cells // len(classes)))
    return torch.cat([(block @ classes.T).topk(depth, dim=1).indices for block in blocks])


def retrieved(first: Tensor, precision: Tensor, auc: Tensor) -> Statistic:
    """Recall at 1, 5 and 10, median rank from 1, mean average precision and AUC of one line per query."""
    shares = {f"R@{k}": (first < k).numpy() for k in (1, 5, 10)}
    parts = [means(shares), median("median_rank", first.numpy() + 1), means({"mAP": precision.numpy()})]
    return together(*parts, *([] if bool(auc.isnan().any()) else [means({"AUC": auc.numpy()})]))
