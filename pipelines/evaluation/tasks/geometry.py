"""The task `geometry`: how spread out, aligned and apart the modalities' embeddings are."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clx.pipelines.evaluation.task_context import Lines, TaskContext, nonempty, task
from clx.pipelines.evaluation.tasks.retrieval import distinct_lines
from clx.pipelines.measures import geometry as shape
from clx.pipelines.measures.bootstrap import means


@task("geometry")
def geometry(context: TaskContext) -> Lines:
    """The shape of each modality's rows, over distinct contents, and of every ordered pair's."""
    embedded, found = context.embedded, {}
    temperature = context.run.objective.leading.scale()[0]
    warmth = {} if temperature is None else {"temperature": temperature}
    unit = {name: F.normalize(value, dim=-1) for name, value in embedded.z.items()}
    seed = context.settings.seed
    for name, z in unit.items():
        rows = embedded.present[name].nonzero()[:, 0]
        rows = rows[distinct_lines(context.contents(name)[rows][:, None])[1]] if len(rows) else rows
        if len(rows) > 1:
            some = z[rows[shape.sample(len(rows), seed)]]
            line = context.figures(len(some), shape.uniformity(some))
            labels = embedded.labels[rows][shape.sample(len(rows), seed)]
            if (known := labels >= 0).any() and (labels[known].bincount() > 1).any():
                line |= context.figures(int(known.sum()), shape.tolerance(some[known], labels[known]))
            line |= _hardest(context, some, some, temperature, torch.arange(len(some)))
            line |= {"effective_rank": shape.effective_rank(z[rows])} | shape.hubness(some, some, itself=True)
            found[name] = line | warmth | {"rows": len(rows)}
    for name in unit:
        for other in unit:
            rows = (embedded.present[name] & embedded.present[other]).nonzero()[:, 0]
            if name != other and len(rows):
                found[f"{name}->{other}"] = (
                    _between(context, unit, rows, name, other, temperature) | warmth | {"rows": len(rows)}
                )
    return nonempty(found, "no two different rows")


def _between(
    context: TaskContext, unit: dict[str, Tensor], rows: Tensor, name: str, other: str, temperature: float | None
) -> dict[str, Any]:
    x, y = unit[name][rows], unit[other][rows]
    line = context.figures(len(rows), means({"alignment": shape.alignment(x, y)}))
    line |= context.figures(len(rows), shape.modality_gap(x, y))
    few = rows[shape.sample(len(rows), context.settings.seed)]
    things = few[distinct_lines(context.contents(other)[few][:, None])[1]]
    here = distinct_lines(context.contents(other)[few][:, None])[0]
    line |= _hardest(context, unit[name][few], unit[other][things], temperature, here)
    return line | shape.hubness(unit[name][few], unit[other][things])


def _hardest(
    context: TaskContext, queries: Tensor, candidates: Tensor, temperature: float | None, partner: Tensor
) -> dict[str, Any]:
    """The share of the hardest tenth of negatives, where the objective has a temperature and there are ten."""
    if temperature is None or len(candidates) < 11:
        return {}
    shares = shape.hardest_tenth(queries, candidates, temperature, partner)
    return context.figures(len(shares), means({"hardest_tenth": shares}))
