"""Tasks that learn classes from labelled training rows: what they learn from, and their lines."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clx.pipelines.batches.columns import column_of
from clx.pipelines.evaluation.embeddings import Embedded
from clx.pipelines.evaluation.task_context import (
    Lines,
    TaskContext,
    classified,
    named,
    need_known_classes,
    need_label,
    nonempty,
    task,
)
from clx.pipelines.evaluation.units import units_of
from clx.pipelines.measures import probes
from clx.pipelines.measures.bootstrap import means
from clx.pipelines.measures.episodes import aligned_episodes, episodes


def learnable(context: TaskContext) -> Iterator[tuple[list[str], str]]:
    """Groups of modalities to learn from, with their names: each alone, and together those that no label names.

    A modality that reads the label's own column gives the answer away.
    """
    names = [
        n for n in context.embedded.z if column_of(n, context.run.modalities[n]) != context.run.config.data.label_column
    ]
    others = [name for name in names if name != context.text]
    for group in [[name] for name in names] + ([others] if len(others) > 1 else []):
        yield group, "+".join(group)


def inputs(context: TaskContext, embedded: Embedded, group: list[str], wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Features `[n, W]` of the rows that have every modality of a group and are `wanted`, and these rows."""
    have = [embedded.present[name] for name in group if name in embedded.present]
    if len(have) < len(group):
        return torch.zeros(0, 1), torch.zeros(0, dtype=torch.long)
    rows = (torch.stack(have).all(0) & wanted).nonzero()[:, 0]
    source = embedded.features if context.settings.features == "encoder" else embedded.z
    return torch.cat([source[name][rows] for name in group], 1).to(context.device), rows


@dataclass
class Labelled:
    """Labelled features of one group, to learn from and to ask."""

    x: Tensor
    labels: Tensor
    val: tuple[Tensor, Tensor] | None
    queries: Tensor
    truth: Tensor
    """Labels of the queries."""
    classes: list[str]
    units: Tensor | None
    """What intervals draw, a number for each query."""


def labelled(context: TaskContext) -> Iterator[tuple[str, Labelled]]:
    """The labelled features of every group that has some to learn from and some to ask."""
    need_label(context)
    learning = context.learn()
    classes = max((learning.train.classes, context.embedded.classes), key=len)
    need_known_classes(named(learning.train), named(context.embedded))
    for group, name in learnable(context):
        x, learned = inputs(context, learning.train, group, learning.train.labels >= 0)
        query, here = inputs(context, context.embedded, group, context.embedded.labels >= 0)
        labels = learning.train.labels[learned]
        if len(here) and len(labels.unique()) > 1:
            val = None
            if learning.val is not None:
                kept, rows = inputs(context, learning.val, group, learning.val.labels >= 0)
                val = (kept, learning.val.labels[rows].to(context.device)) if len(rows) else None
            truth, units = context.embedded.labels[here], units_of(context, here, group)
            yield name, Labelled(x, labels.to(context.device), val, query, truth, classes, units)


TOO_FEW = "needs labelled rows of two classes to learn from, and rows to ask with the same inputs"


@task("probe", learns=True)
def probe(context: TaskContext) -> Lines:
    """A linear classifier on frozen features."""
    found = {}
    for name, known in labelled(context):
        fitted = probes.probe(known.x, known.labels, len(known.classes), known.val, context.settings.seed)
        order = fitted.model(known.queries).topk(min(5, len(known.classes)), dim=1).indices.cpu()
        means_of = probes.class_means(known.x, known.labels, len(known.classes))
        nearest = probes.to_means(known.queries, means_of).argmax(1).cpu()
        mean = context.figures(len(known.truth), means({"mean_top1": nearest == known.truth}), groups=known.units)
        found[name] = (
            classified(context, order, known.truth, known.classes, known.units)
            | mean
            | {
                "train_rows": len(known.x),
                "features": context.settings.features,
                "l2": fitted.penalty,
                "path": [{"l2": l2, "val_top1": value} for l2, value in fitted.path],
            }
        )
    return nonempty(found, TOO_FEW)


@task("knn", learns=True)
def knn(context: TaskContext) -> Lines:
    """The vote of the nearest training rows."""
    settings, found = context.settings, {}
    for name, known in labelled(context):
        k = min(settings.k or probes.usual_k(known.labels), len(known.x))
        votes = probes.neighbours(known.x, known.labels, known.queries, len(known.classes), k, settings.weights)
        # the first of equal votes, as scikit-learn decides; further places of so few votes would mean nothing
        answers = torch.from_numpy(votes.cpu().numpy().argmax(1))[:, None]
        found[name] = classified(context, answers, known.truth, known.classes, known.units) | {
            "train_rows": len(known.x),
            "features": settings.features,
            "k": k,
            "weights": settings.weights,
        }
    return nonempty(found, TOO_FEW)


@task("svm", learns=True)
def svm(context: TaskContext) -> Lines:
    """Support vectors with an RBF kernel, by TS2Vec's protocol."""
    found = {}
    for name, known in labelled(context):
        answers, cost, path = probes.svm(known.x, known.labels, known.queries, context.settings.seed)
        found[name] = classified(context, answers[:, None], known.truth, known.classes, known.units) | {
            "train_rows": len(known.x),
            "features": context.settings.features,
            "C": cost,
            "path": [{"C": c, "cv_top1": value} for c, value in path],
        }
    return nonempty(found, TOO_FEW)


@task("fewshot", learns=True)
def fewshot(context: TaskContext) -> Lines:
    """Episodes in which each class is known by a few training rows."""
    settings, found = context.settings, {}
    for name, known in labelled(context):
        line: dict[str, Any] = {}
        ways = min(settings.ways, len(set(known.labels.tolist()) & set(known.truth.tolist())))
        about = (known.x, known.labels, known.queries, known.truth)
        for shots in settings.shots:
            how: dict[str, Any] = {"ways": ways, "shots": shots, "count": settings.episodes, "seed": settings.seed}
            right = episodes(*about, **how, even=settings.align == "transport")
            if right is not None:
                line |= context.figures(len(right), means({f"{shots}-shot": right}))
            if right is not None and settings.align == "transport":
                aligned = aligned_episodes(*about, **how)
                assert aligned is not None
                names = f"{shots}-shot_aligned", f"{shots}-shot_aligned_uneven"
                line |= context.figures(len(right), means(dict(zip(names, aligned, strict=True))))
        if line:
            told = {"ways": ways, "episodes": settings.episodes, "features": settings.features}
            found[name] = line | told | {"rows": len(known.truth), "train_rows": len(known.x)}
    return nonempty(found, "no two classes have enough labelled training rows and a row to ask")
