"""The task `recall`: whether the rows of a class are each other's nearest, classes that training never saw, too."""

import torch
from torch import Tensor

from clx.pipelines.evaluation.task_context import Lines, TaskContext, need_label, nonempty, task
from clx.pipelines.evaluation.tasks.classification import learnable
from clx.pipelines.evaluation.tasks.retrieval import distinct_lines
from clx.pipelines.evaluation.units import units_of
from clx.pipelines.measures.bootstrap import means
from clx.pipelines.measures.same_class import same_class


@task("recall")
def recall(context: TaskContext) -> Lines:
    """Each labelled row asks all others of the same input, of several together by their embeddings side by side.

    Rows of equal content are one, which would else find itself; of more than one class it neither asks nor answers.
    """
    need_label(context)
    embedded, found = context.embedded, {}
    for group, name in learnable(context):
        here = torch.stack([embedded.present[each] for each in group]).all(0) & (embedded.labels >= 0)
        rows = one_of_each(context, group, here.nonzero()[:, 0])
        unit = [torch.nn.functional.normalize(embedded.z[each][rows].float(), dim=1) for each in group]
        asking, figures = same_class(torch.cat(unit, 1).to(context.device), embedded.labels[rows].to(context.device))
        if figures:
            counts = {"queries": len(asking), "candidates": len(rows), "classes": len(embedded.labels[rows].unique())}
            found[name] = (
                context.figures(len(asking), means(figures), groups=units_of(context, rows[asking], group)) | counts
            )
    return nonempty(found, "no two rows with the same input have one class")


def one_of_each(context: TaskContext, group: list[str], rows: Tensor) -> Tensor:
    """The first of the rows of each content of a group of inputs, of contents whose rows have one class."""
    if not len(rows):
        return rows
    labels = context.embedded.labels[rows]
    thing, first = distinct_lines(torch.stack([context.contents(name)[rows] for name in group], 1))
    doubtful = torch.zeros(len(first), dtype=torch.bool)
    doubtful[thing[labels != labels[first][thing]]] = True
    return rows[first[~doubtful].sort().values]
