"""The task `retrieval`: how well each modality finds its partners in the others."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clx.pipelines.evaluation.captions import captions_of, has_several
from clx.pipelines.evaluation.task_context import (
    Lines,
    TaskContext,
    Unfit,
    is_scored_pair,
    learns_scores_of_candidates,
    nonempty,
    task,
)
from clx.pipelines.evaluation.units import units_of
from clx.pipelines.measures.bootstrap import means, shared
from clx.pipelines.measures.pooled import pooled_by
from clx.pipelines.measures.ranking import (
    Relevant,
    discounted,
    gains_by_label,
    gains_by_score,
    gains_by_target,
    rank_by,
    retrieved,
)
from clx.pipelines.model.scoring import alone_and_together
from clx.pipelines.model.token_scores import TokenScores


@task("retrieval")
def retrieval(context: TaskContext) -> Lines:
    """The partners of every ordered pair of modalities, and of all others together for each."""
    names = list(context.embedded.z)
    if len(names) < 2:
        raise Unfit(f"needs two modalities, the data have {names[0]}")
    found = {}
    for candidate in names:
        for group in alone_and_together([name for name in names if name != candidate]):
            if len(rows_with(context, [*group, candidate])):
                asked, shares = by_caption(context, group, candidate)
                rows = rows_with(asked, [*group, candidate])
                shares = None if shares is None else shares[rows]
                found[f"{'+'.join(group)}->{candidate}"] = _retrieve(asked, rows, group, candidate, shares)
    return nonempty(found, "no row has two modalities")


def rows_with(context: TaskContext, names: list[str]) -> Tensor:
    """The rows that have all of these modalities."""
    return torch.stack([context.embedded.present[name] for name in names]).all(0).nonzero()[:, 0]


def by_caption(context: TaskContext, group: list[str], candidate: str) -> tuple[TaskContext, Tensor | None]:
    """The same evaluation with a row for each caption, as if the table had been written so: each asks for itself, and
    each is an answer. And what each row counts for, `[M]`, so that an item with five captions asks for them once; None
    where nothing has several. Several inputs ask together with the mean of their captions.
    """
    shares = None
    for name in [candidate, *(group if len(group) == 1 else [])]:
        if not has_several(context.run, context.embedded, name):
            continue
        if name not in context.captions:
            context.captions[name] = captions_of(context.run, context.embedded, name)
        each = context.captions[name]
        owner = torch.repeat_interleave(each.counts)
        things = {other: context.contents(other)[owner] for other in {*group, candidate} - {name}}
        rows = context.embedded.take(owner)
        rows.z = rows.z | {name: each.z}
        context = replace(context, embedded=rows, things=things | {name: each.content}, captions={})
        shares = 1 / each.counts[owner].double() if name == candidate else None if shares is None else shares[owner]
    return context, shares


def _retrieve(
    context: TaskContext, rows: Tensor, group: list[str], candidate: str, shares: Tensor | None
) -> dict[str, Any]:
    """The figures of one direction.

    Cells of equal content are one thing: it stands among the candidates once, and every partner of an equal query
    is right. So equal queries are asked once; their figures count for each of their rows. Where rows are pairs with a
    score, those of the upper half of the scores' range ask, and the others are candidates. Rows count for their
    `shares` `[N]`, or for one each.
    """

    def of(some: Tensor | None, these: Tensor) -> Tensor | None:
        return None if some is None else some[these]

    scores = scores_of(context, rows, group, candidate)
    number, _ = distinct_lines(torch.stack([context.contents(name)[rows] for name in group], 1))
    thing, kept = distinct_lines(context.contents(candidate)[rows][:, None])
    right = torch.arange(len(rows)) if scores is None else upper_half(scores)
    asked, query = number[right].unique(return_inverse=True)
    asks = torch.full((len(asked),), len(rows)).scatter_reduce(0, query, right, "amin")
    relevant = Relevant.of(query, thing[right], len(asks))
    score = scored(context, group, rows[asks], candidate, rows[kept])
    ranking = rank_by(score, len(kept), relevant)
    area, curve = pooled_by(score, len(kept), relevant)
    own = context.embedded.rows[rows[right]]
    units = units_of(context, rows[right], [*group, candidate])
    if units is None and len(own.unique()) < len(own):  # captions of one row
        units = own
    per_row = retrieved(ranking.first[query], ranking.precision[query], ranking.auc[query])
    line = context.figures(len(right), shared(per_row, of(shares, right)), groups=units)
    labels, targets = context.embedded.labels[rows], context.embedded.targets[rows]
    aimed = ~targets.isnan().any(1) if targets.shape[1] else torch.zeros(len(rows), dtype=torch.bool)
    graded, graded_rows = "pair", right
    if scores is not None:
        pairs = (torch.isin(number, asked) & ~scores.isnan()).nonzero()[:, 0]
        place = torch.searchsorted(asked, number[pairs])
        gains, best = gains_by_score(ranking.top, place, thing[pairs], scores[pairs], len(kept))
        graded, gains, best = "score", gains[query], best[query]
    elif aimed[kept].any() and not learns_scores_of_candidates(context):
        graded, graded_rows = "target", aimed.nonzero()[:, 0]
        gains, best = gains_by_target(ranking.top, query[aimed], targets[aimed], targets[kept])
    else:
        graded = "label" if bool((labels >= 0).any()) else "pair"
        gains, best = gains_by_label(ranking.top, query, labels, labels[kept], relevant)
    ordered = shared(means({"NDCG@10": discounted(gains, best)}), of(shares, graded_rows))
    line |= context.figures(len(gains), ordered, groups=of(units, aimed) if graded == "target" else units)
    if (known := labels[right] >= 0).any():
        hits = labels[kept][ranking.top[query, 0]] == labels[right]
        first = shared(means({"label@1": hits[known]}), of(shares, right[known]))
        line |= context.figures(int(known.sum()), first, groups=of(units, known))
    asking = len(right) if shares is None else round(shares[right].sum().item())
    line |= {"AUC_pooled": area, "roc": curve} if math.isfinite(area) else {}
    return line | {"graded_by": graded, "queries": asking, "candidates": len(kept)}


def scored(
    context: TaskContext, group: list[str], asks: Tensor, candidate: str, answers: Tensor
) -> Callable[[Tensor], Tensor]:
    """What gives the scores `[n, C]` of the rows at `answers` for some `[n]` of those at `asks`: by their steps where
    the objective compares these, summed over several inputs that ask."""
    embedded, device, by_steps = context.embedded, context.device, TokenScores.of_run(context.run)
    if by_steps is not None and (lacking := {*group, candidate} & {*by_steps.names} - {*embedded.steps}):
        raise Unfit(f"several cells a row of {min(lacking)} are not compared step by step")
    if by_steps is None or not {*group, candidate} <= {*by_steps.names}:
        vectors = F.normalize(embedded.z[candidate][answers], dim=-1).to(device)
        queries = context.ask(group, asks, candidate).to(device)
        return lambda part: queries[part.to(device)] @ vectors.T
    rows, sides = embedded.steps[candidate].take(answers), {n: embedded.steps[n].take(asks) for n in group}

    def score(part: Tensor) -> Tensor:
        each = [by_steps.scores(n, side.take(part), candidate, rows, device) for n, side in sides.items()]
        return torch.stack(each).sum(0)

    return score


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


def distinct_lines(values: Tensor) -> tuple[Tensor, Tensor]:
    """The number of each line of `[n, k]` among the different ones, `[n]`, and the first line of each number."""
    _, number = torch.unique(values, dim=0, return_inverse=True)
    first = torch.full((int(number.max()) + 1,), len(number)).scatter_reduce(
        0, number, torch.arange(len(number)), "amin"
    )
    return number, first
