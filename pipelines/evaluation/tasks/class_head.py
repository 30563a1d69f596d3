"""The task `classification`: the class heads that a run was trained with; `clx predict` uses the first."""

from typing import Any

from clx.pipelines.config.usual_tasks import CLASS_HEADS
from clx.pipelines.evaluation.task_context import (
    Lines,
    TaskContext,
    Unfit,
    classified,
    named,
    need_known_classes,
    need_label,
    nonempty,
    task,
)
from clx.pipelines.evaluation.units import units_of
from clx.pipelines.measures.bootstrap import means, together
from clx.pipelines.measures.prediction import calibration_gap, macro_auc, macro_f1
from clx.pipelines.model.scoring import head_says

CELLS = 2**27
"""Most classes x rows x resamples that the area under the curve has an interval of: it ranks all rows for each."""


@task("classification")
def classification(context: TaskContext) -> Lines:
    """What the head says of the rows that have a class of its own and an input that it looks at."""
    need_label(context)
    run, embedded = context.run, context.embedded
    if run.model.predictor is None or run.config.data.target or run.forecasts:
        raise Unfit(f"needs a class head, which {', '.join(CLASS_HEADS)} train")
    classes = run.facts.classes
    need_known_classes(classes, named(embedded))
    found = {}
    for by in run.model.heads:
        line = _by(context, by)
        if line is not None:
            found["+".join(name for name in embedded.z if name in run.model.heads[by])] = line
    return nonempty(found, "no row has both an input that the head looks at and a class that it was trained on")


def _by(context: TaskContext, by: str) -> dict[str, Any] | None:
    """The figures of one head; None where it has nothing to look at."""
    run, embedded = context.run, context.embedded
    classes = run.facts.classes
    labelled = run.model.predictable(embedded.present, by) & (embedded.labels >= 0)
    unknown = int((labelled & (embedded.labels >= len(classes))).sum())
    rows = (labelled & (embedded.labels < len(classes))).nonzero()[:, 0]
    if not len(rows):
        return None
    here = embedded.take(rows)
    logs = head_says(run, here.z, here.present, by).double().log_softmax(1)
    order, truth = logs.topk(min(5, len(classes)), dim=1).indices, here.labels
    sure, right = logs.amax(1).exp(), order[:, 0] == truth
    units = units_of(context, rows, [*run.model.heads[by]])
    line = classified(context, order, truth, classes, units)
    matrix = {key: line.pop(key) for key in ("confusion", "rows") if key in line}
    losses = means({"log_loss": -logs.gather(1, truth[:, None])[:, 0].numpy()})
    line |= context.figures(len(rows), together(macro_f1(order[:, 0], truth, len(classes)), losses), groups=units)
    resamples = context.settings.resamples
    with_interval = len(classes) * len(rows) * resamples <= CELLS
    drawn = resamples if with_interval else 0
    line |= context.figures(len(rows), macro_auc(logs, truth), groups=units, resamples=drawn)
    line |= context.figures(len(rows), calibration_gap(sure, right), resamples=0)
    return line | matrix | ({"unknown_class": unknown} if unknown else {})
