"""The task `multilabel`: which labels of a set apply, by the trained head and by the words of the labels."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from clx.pipelines.batches.columns import column_of
from clx.pipelines.evaluation.results import MOST_CLASSES
from clx.pipelines.evaluation.task_context import Lines, TaskContext, Unfit, nonempty, task
from clx.pipelines.evaluation.tasks.zeroshot import phrasings_for
from clx.pipelines.evaluation.units import units_of
from clx.pipelines.measures.bootstrap import together
from clx.pipelines.measures.label_sets import decided_sets, each_set, ranked_sets
from clx.pipelines.model.build import Run
from clx.pipelines.model.scoring import alone_and_together, class_embeddings, head_says, of_classes

MOST = 2 * 10**9
"""Rows times classes times resamples: beyond, intervals would take minutes and are left out."""


@task("multilabel")
def multilabel(context: TaskContext) -> Lines:
    """Mean average precision, AUC, F1 and precision of the first labels, over what is known of the rows' labels."""
    run, embedded = context.run, context.embedded
    sets = embedded.label_sets
    if sets is None:
        raise Unfit("needs sets of labels: lists in data.label, text that data.several divides, or columns of 1 and 0")
    known = ~sets.isnan().all(1)
    found: Lines = {}
    if head := run.set_head:
        classes = len(run.facts.classes)
        if not bool((sets[known][:, :classes] > 0).any()):
            raise Unfit(f"none of the labels is one of the run's: {', '.join(run.facts.classes[:8])}")
        for by, inputs in run.model.heads.items():
            rows = (known & run.model.predictable(embedded.present, by)).nonzero()[:, 0]
            if len(rows):
                here = embedded.take(rows)
                chances = head.chances(head_says(run, here.z, here.present, by))
                units = units_of(context, rows, [*inputs])
                names = "+".join(name for name in embedded.z if name in inputs)
                unseen = int((sets[rows][:, classes:] > 0).sum())
                line = _figures(
                    context, chances, sets[rows][:, :classes], head.applying(chances), run.facts.classes, units
                )
                found[names] = line | ({"unseen_labels": unseen} if unseen else {})
    text = context.text
    reads = {head.by for head in run.model.words()}  # a label each, also where its cells are sets of them
    if text is not None and embedded.classes and (text in reads or labels_beside(run, text)):
        words = by_words(context)
        for group in alone_and_together([name for name in embedded.z if name != text]):
            rows = (torch.stack([embedded.present[name] for name in group]).any(0) & known).nonzero()[:, 0]
            if len(rows):
                scores = of_classes(run, context.ask(group, rows, text), text) @ words.T
                applies = scores > 0 if context.settings.absent else None
                found[f"{'+'.join(group)}->{text}"] = _figures(
                    context, scores, sets[rows], applies, embedded.classes, units_of(context, rows, group)
                )
    return nonempty(
        found, "needs a head of sets, as binary-cross-entropy trains it, or a text modality to read the labels"
    )


def labels_beside(run: Run, text: str) -> bool:
    """Whether a modality of texts reads another column than that of the labels."""
    return column_of(text, run.modalities[text]) != run.config.data.label_column


def by_words(context: TaskContext) -> Tensor:
    """Rows of the classes, less those of the words that a class does not apply, where there are any."""
    settings, classes = context.settings, context.embedded.classes
    both = [phrasings_for(classes, words) for words in (settings.phrasings, settings.absent)]
    rows = class_embeddings(context.run, both[0], settings.templates)
    return rows - class_embeddings(context.run, both[1], settings.templates) if settings.absent else rows


def _figures(
    context: TaskContext,
    scores: Tensor,
    sets: Tensor,
    answers: Tensor | None,
    classes: list[str],
    units: Tensor | None,
) -> dict[str, Any]:
    """The figures of one input: those of the order by `scores` `[n, C]`, and of `answers` where some are given; and of
    each class by itself, as far as there are not too many."""
    statistic = ranked_sets(scores, sets)
    if answers is not None:
        statistic = together(statistic, decided_sets(answers, sets))
    if sets.numel() * context.settings.resamples > MOST:
        context = replace(context, settings=replace(context.settings, resamples=0))
    line = context.figures(len(sets), statistic, groups=units) | {"labels": sets.shape[1], "rows": len(sets)}
    if unknown := int(sets.isnan().sum()):
        line["unknown"] = unknown
    if sets.shape[1] > MOST_CLASSES:
        return line
    return line | {"by_label": dict(zip(classes, each_set(scores, sets), strict=False))}
