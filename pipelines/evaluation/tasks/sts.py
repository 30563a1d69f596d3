"""The task `sts`, semantic textual similarity and its like: whether near embeddings are pairs of a high score."""

from itertools import combinations

import torch
from torch.nn.functional import normalize

from clx.pipelines.evaluation.task_context import (
    Lines,
    TaskContext,
    Unfit,
    is_scored_pair,
    learns_target_of_rows,
    nonempty,
    task,
)
from clx.pipelines.measures.prediction import correlations, macro_auc


@task("sts")
def sts(context: TaskContext) -> Lines:
    """Correlations of the cosine of a row's two inputs with the row's score; of a flag also how well it is told."""
    run, embedded = context.run, context.embedded
    if not run.config.data.target:
        raise Unfit("needs data.target, the column with the score of a pair")
    if not embedded.target:
        raise Unfit(f"{embedded.manifest.name} has no column {run.config.data.target[0]!r} with the score of a pair")
    pairs = [pair for pair in combinations(embedded.z, 2) if is_scored_pair(context, *pair)]
    if not pairs and learns_target_of_rows(context):
        raise Unfit(f"{embedded.target[0]} is learned as a number about each row: cosent learns the score of a pair")
    if not pairs:
        raise Unfit(f"needs two inputs of one kind, such as two sentences; the data have {', '.join(embedded.z)}")
    found: Lines = {}
    for one, other in pairs:
        for place, target in enumerate(embedded.target):
            scores = embedded.targets[:, place]
            rows = (embedded.present[one] & embedded.present[other] & scores.isfinite()).nonzero()[:, 0]
            if len(rows) > 2:
                z, w = (normalize(embedded.z[name][rows].double(), dim=1) for name in (one, other))
                cosines, (values, flag) = (z * w).sum(1), scores[rows].unique(return_inverse=True)
                line = context.figures(len(rows), correlations(cosines, scores[rows]))
                if len(values) == 2:
                    line |= context.figures(len(rows), macro_auc(torch.stack([-cosines, cosines], 1), flag))
                found[f"{one}+{other}->{target}"] = line | {"rows": len(rows)}
    return nonempty(found, "no three rows have both inputs and a score")
