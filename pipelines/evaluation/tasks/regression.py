"""The task `regression`: errors of the trained predictor, or of linear regressors on frozen features."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clx.pipelines.data.imbalance import Floats, readable_targets, shots, width_of
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.evaluation.embeddings import Embedded
from clx.pipelines.evaluation.task_context import Lines, TaskContext, Unfit, nonempty, task
from clx.pipelines.evaluation.tasks.classification import inputs, learnable
from clx.pipelines.evaluation.units import part_of, units_of
from clx.pipelines.measures import probes
from clx.pipelines.measures.bootstrap import together
from clx.pipelines.measures.prediction import correlation, errors, regressed
from clx.pipelines.model.scoring import head_says


@task("regression", learns=True)
def regression(context: TaskContext) -> Lines:
    """Errors of the trained predictor, or of a linear regressor on frozen features where there is none."""
    run, embedded = context.run, context.embedded
    if not run.config.data.target:
        raise Unfit("needs data.target, the columns with the numbers")
    if not embedded.target:
        raise Unfit(f"{embedded.manifest.name} has no column {run.config.data.target[0]!r} with the numbers")
    found: Lines = {}
    for place, target in enumerate(embedded.target):
        known = None if context.train is None else training_targets(context.train, target)
        for name, rows, predictions, about in (predicted if run.model.predictor is None else headed)(context, target):
            aims = embedded.targets[rows, place]
            units = units_of(context, rows, name.split("+"))
            line = context.figures(len(rows), regressed(predictions, aims), groups=units)
            line |= {"rows": len(rows), **about}
            groups = {} if known is None else {"groups": by_density(context, known, predictions, aims, units)}
            found[f"{name}->{target}"] = line | groups
    return nonempty(found, "no row has both a target and an input")


Prediction = tuple[str, Tensor, Tensor, dict[str, Any]]
"""The input, the rows, their predictions in the target's units, and what made these."""


def headed(context: TaskContext, target: str) -> Iterator[Prediction]:
    """What each head of the model says of one target."""
    run, embedded = context.run, context.embedded
    known = ~embedded.targets[:, embedded.target.index(target)].isnan()
    for by, seen in run.model.heads.items():
        rows = (run.model.predictable(embedded.present, by) & known).nonzero()[:, 0]
        if len(rows):
            here = embedded.take(rows)
            every = head_says(run, here.z, here.present, by)
            place = run.config.data.target.index(target)
            names = "+".join(name for name in embedded.z if name in seen)
            yield names, rows, every[:, place], {"regressor": "predictor"}


def training_targets(manifest: Manifest, target: str) -> Floats:
    """A target of the training rows, NaN where there is none; nothing of a manifest without that column."""
    return readable_targets(manifest, target) if target in manifest.columns else np.zeros(0)


def predicted(context: TaskContext, target: str) -> Iterator[Prediction]:
    """What linear regressors on frozen features say of one target."""
    learning = context.learn()
    kind, train, val = context.settings.regressor, learning.train, learning.val
    if target not in train.target:
        raise Unfit(f"{train.manifest.name}, to learn from, has no column {target!r}")

    def known(embedded: Embedded, group: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        values = embedded.targets[:, embedded.target.index(target)]
        x, rows = inputs(context, embedded, group, ~values.isnan())
        return x, values[rows].to(context.device), rows

    for group, name in learnable(context):
        x, y, _ = known(train, group)
        query, _, rows = known(context.embedded, group)
        if len(rows) and len(y) > 2:
            kept = None
            if val is not None and target in val.target:
                some = known(val, group)
                kept = some[:2] if len(some[1]) else None
            fitted = probes.regressor(x, y, kind, kept, context.settings.seed)
            path = [{"penalty": penalty, "val_mae": value} for penalty, value in fitted.path]
            about = {"train_rows": len(x), "features": context.settings.features, "regressor": kind}
            predictions = fitted.model(query)[:, 0].cpu()
            yield name, rows, predictions, about | {"penalty": fitted.penalty, "path": path}


def by_density(
    context: TaskContext, known: Floats, predictions: Tensor, targets: Tensor, units: Tensor | None
) -> Lines:
    """Errors where the bins of the training targets `known` have many rows, a median number and few."""
    settings = context.settings
    width = settings.bin_width or width_of(known)
    level = torch.from_numpy(shots(known, targets.double().numpy(), width, settings.many, settings.few))
    found = {}
    for number, name in ((2, "many"), (1, "median"), (0, "few")):
        here = level == number
        if here.any():
            p, y = predictions[here], targets[here]
            statistic = together(errors(p, y), correlation(p, y)) if len(y) > 2 else errors(p, y)
            line = context.figures(len(y), statistic, groups=part_of(units, here))
            found[name] = {"rows": int(here.sum()), **line}
    return found
