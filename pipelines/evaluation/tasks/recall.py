"""The task `recall`: whether the rows of a class are each other's nearest, classes that training never saw, too."""

import torch

from clx.pipelines.evaluation.task_context import Lines, TaskContext, need_label, nonempty, task
from clx.pipelines.evaluation.tasks.classification import learnable
from clx.pipelines.measures.bootstrap import means
from clx.pipelines.measures.same_class import same_class


@task("recall")
def recall(context: TaskContext) -> Lines:
    """Each labelled row asks all others of the same input, of several together by their embeddings side by side."""
    need_label(context)
    embedded, found = context.embedded, {}
    for group, name in learnable(context):
        here = torch.stack([embedded.present[each] for each in group]).all(0) & (embedded.labels >= 0)
        (rows,) = here.nonzero(as_tuple=True)
        unit = [torch.nn.functional.normalize(embedded.z[each][rows].float(), dim=1) for each in group]
        asking, figures = same_class(torch.cat(unit, 1).to(context.device), embedded.labels[rows].to(context.device))
        if figures:
            counts = {"queries": len(asking), "candidates": len(rows), "classes": len(embedded.labels[rows].unique())}
            found[name] = context.figures(len(asking), means(figures)) | counts
    return nonempty(found, "no two rows with the same input have one class")
