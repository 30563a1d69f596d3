"""The task `retrieval`: how well each modality finds its partners in the others."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clx.pipelines.evaluation.task_context import Lines, TaskContext, Unfit, nonempty, task
from clx.pipelines.measures.bootstrap import means
from clx.pipelines.measures.ranking import Relevant, discounted, gains_by_label, gains_by_target, rank, retrieved
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
    is right. So equal queries are asked once; their figures count for each of their rows.
    """
    same = torch.stack([context.contents(name)[rows] for name in group], 1)
    query, asks = distinct_lines(same)
    thing, kept = distinct_lines(context.contents(candidate)[rows][:, None])
    relevant = Relevant.of(query, thing, len(asks))
    answers = F.normalize(context.embedded.z[candidate][rows[kept]], dim=-1).to(context.device)
    ranking = rank(context.ask(group, rows[asks], candidate).to(context.device), answers, relevant)
    per_row = retrieved(ranking.first[query], ranking.precision[query], ranking.auc[query])
    line = context.figures(len(rows), per_row)
    labels, targets = context.embedded.labels[rows], context.embedded.targets[rows]
    aimed = ~targets.isnan().any(1) if targets.shape[1] else torch.zeros(len(rows), dtype=torch.bool)
    if aimed[kept].any():
        gains, best = gains_by_target(ranking.top, query[aimed], targets[aimed], targets[kept])
    else:
        gains, best = gains_by_label(ranking.top, query, labels, labels[kept], relevant)
    graded = "target" if aimed[kept].any() else "label" if bool((labels >= 0).any()) else "pair"
    line |= context.figures(len(gains), means({"NDCG@10": discounted(gains, best)}))
    if (known := labels >= 0).any():
        hits = labels[kept][ranking.top[query, 0]] == labels
        line |= context.figures(int(known.sum()), means({"label@1": hits[known]}))
    return line | {"graded_by": graded, "queries": len(rows), "candidates": len(answers)}


def distinct_lines(values: Tensor) -> tuple[Tensor, Tensor]:
    """The number of each line of `[n, k]` among the different ones, `[n]`, and the first line of each number."""
    _, number = torch.unique(values, dim=0, return_inverse=True)
    first = torch.full((int(number.max()) + 1,), len(number)).scatter_reduce(
        0, number, torch.arange(len(number)), "amin"
    )
    return number, first
