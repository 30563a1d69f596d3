"""The task `retrieval`: how well each modality finds its partners in the others."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clx.pipelines.evaluation.task_context import Lines, TaskContext, Unfit, is_scored_pair, nonempty, task
from clx.pipelines.measures.bootstrap import means
from clx.pipelines.measures.ranking import (
    Relevant,
    discounted,
    gains_by_label,
    gains_by_score,
    gains_by_target,
    rank,
    retrieved,
)
from clx.pipelines.model.scoring import alone_and_together


@task("retrieval")
def retrieval(context: TaskContext) -> Lines:
    """The partners of every ordered pair of modalities, and of all others together for each."""
    names = list(context.embedded.z)
    if len(names) < 2:
        raise Unfit(f"needs two modalities, the data have {names[0]}")
    found = {}
    for candidate in names:
        for group in alone_and_together([name for name in names if name != candidate]):
            every = [context.embedded.present[name] for name in (*group, candidate)]
            rows = torch.stack(every).all(0).nonzero()[:, 0]
            if len(rows):
                found[f"{'+'.join(group)}->{candidate}"] = _retrieve(context, rows, group, candidate)
    return nonempty(found, "no row has two modalities")


def _retrieve(context: TaskContext, rows: Tensor, group: list[str], candidate: str) -> dict[str, Any]:
    """The figures of one direction.

    Cells of equal content are one thing: it stands among the candidates once, and every partner of an equal query
    is right. So equal queries are asked once; their figures count for each of their rows. Where rows are pairs with a
    score, those of the upper half of the scores' range ask, and the others are candidates.
    """
    scores = scores_of(context, rows, group, candidate)
    number, _ = distinct_lines(torch.stack([context.contents(name)[rows] for name in group], 1))
    thing, kept = distinct_lines(context.contents(candidate)[rows][:, None])
    right = torch.arange(len(rows)) if scores is None else upper_half(scores)
    asked, query = number[right].unique(return_inverse=True)
    asks = torch.full((len(asked),), len(rows)).scatter_reduce(0, query, right, "amin")
    relevant = Relevant.of(query, thing[right], len(asks))
    answers = F.normalize(context.embedded.z[candidate][rows[kept]], dim=-1).to(context.device)
    ranking = rank(context.ask(group, rows[asks], candidate).to(context.device), answers, relevant)
    units = units_of(context, rows[right], [*group, candidate])
    per_row = retrieved(ranking.first[query], ranking.precision[query], ranking.auc[query])
    line = context.figures(len(right), per_row, groups=units)
    labels, targets = context.embedded.labels[rows], context.embedded.targets[rows]
    aimed = ~targets.isnan().any(1) if targets.shape[1] else torch.zeros(len(rows), dtype=torch.bool)
    graded, of_gains = "pair", units
    if scores is not None:
        pairs = (torch.isin(number, asked) & ~scores.isnan()).nonzero()[:, 0]
        place = torch.searchsorted(asked, number[pairs])
        gains, best = gains_by_score(ranking.top, place, thing[pairs], scores[pairs], len(answers))
        graded, gains, best = "score", gains[query], best[query]
    elif aimed[kept].any():
        graded, of_gains = "target", None if units is None else units[aimed]
        gains, best = gains_by_target(ranking.top, query[aimed], targets[aimed], targets[kept])
    else:
        graded = "label" if bool((labels >= 0).any()) else "pair"
        gains, best = gains_by_label(ranking.top, query, labels, labels[kept], relevant)
    line |= context.figures(len(gains), means({"NDCG@10": discounted(gains, best)}), groups=of_gains)
    if (known := labels[right] >= 0).any():
        hits = labels[kept][ranking.top[query, 0]] == labels[right]
        some = None if units is None else units[known]
        line |= context.figures(int(known.sum()), means({"label@1": hits[known]}), groups=some)
    return line | {"graded_by": graded, "queries": len(right), "candidates": len(answers)}


def scores_of(context: TaskContext, rows: Tensor, group: list[str], candidate: str) -> Tensor | None:
    """The score of each row's pair, NaN for none, `[N]`; None where rows are no pairs with a score that differs."""
    embedded = context.embedded
    if embedded.targets.shape[1] != 1 or len(group) > 1 or not is_scored_pair(context, group[0], candidate):
        return None
    scores = embedded.targets[rows, 0]
    known = scores[scores.isfinite()]
    return scores if len(known) and known.min() < known.max() else None


def upper_half(scores: Tensor) -> Tensor:
    """Rows whose score is nearer to the highest than to the lowest, or as near."""
    known = scores[scores.isfinite()]
    return (scores >= (known.min() + known.max()) / 2).nonzero()[:, 0]


DRAWN = ("image", "audio", "series")
"""Kinds of which a repeated cell is one thing told of several times; a repeated text may be the name of a class."""


def units_of(context: TaskContext, rows: Tensor, names: list[str]) -> Tensor | None:
    """What is drawn for an interval, as a number for each row; None for the rows themselves.

    Five captions of one image are no five witnesses: images are drawn, of several such inputs that with the fewest.
    """
    modalities = context.run.modalities
    numbers = [context.contents(name)[rows] for name in names if modalities[name].kind in DRAWN]
    counts = [len(each.unique()) for each in numbers]
    return numbers[counts.index(min(counts))] if counts and min(counts) < len(rows) else None


def distinct_lines(values: Tensor) -> tuple[Tensor, Tensor]:
    """The number of each line of `[n, k]` among the different ones, `[n]`, and the first line of each number."""
    _, number = torch.unique(values, dim=0, return_inverse=True)
    first = torch.full((int(number.max()) + 1,), len(number)).scatter_reduce(
        0, number, torch.arange(len(number)), "amin"
    )
    return number, first
