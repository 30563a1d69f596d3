"""The task `zeroshot`: accuracy against the words of the labels."""

import torch
from torch import Tensor

from clx.pipelines.evaluation.task_context import Lines, TaskContext, Unfit, classified, need_label, nonempty, task
from clx.pipelines.evaluation.units import units_of
from clx.pipelines.measures.ranking import best_classes
from clx.pipelines.model.scoring import alone_and_together, class_embeddings, of_classes
from clx.pipelines.system.errors import BadInput, nearest


@task("zeroshot")
def zeroshot(context: TaskContext) -> Lines:
    """Accuracy of each modality, and of all together, against the label's words."""
    need_label(context)
    run, embedded, text = context.run, context.embedded, context.text
    if context.settings.absent:
        raise Unfit("one class of all applies here, so words for that it does not are of no use: multilabel takes them")
    if text is None:
        raise Unfit(f"needs a text modality to read the labels; this run has {', '.join(run.modalities)}")
    words, labels = among(embedded.classes, embedded.labels, context.settings.phrasings)
    classes = class_embeddings(run, phrasings_for(words, context.settings.phrasings), context.settings.templates)
    found = {}
    for group in alone_and_together([name for name in embedded.z if name != text]):
        here = (torch.stack([embedded.present[name] for name in group]).any(0) & (labels >= 0)).nonzero()[:, 0]
        if len(here):
            order = best_classes(of_classes(run, context.ask(group, here, text), text), classes)
            found["+".join(group)] = classified(context, order, labels[here], words, units_of(context, here, group))
    return nonempty(found, "no row has both a label and an input to classify")


def among(classes: list[str], labels: Tensor, given: dict[str, list[str]]) -> tuple[list[str], Tensor]:
    """The classes that rows are asked among, and labels `[N]` into these, -1 staying as it is.

    Words that are `given` for some classes leave out the others, unless rows are of them: then words are missing.
    """
    if not set(classes) & set(given):
        return classes, labels
    used = set(labels.tolist())
    kept = [k for k, name in enumerate(classes) if name in given or k in used]
    place = torch.full((len(classes) + 1,), -1, dtype=labels.dtype)
    place[kept] = torch.arange(len(kept), dtype=labels.dtype)
    return [classes[k] for k in kept], place[labels]


def phrasings_for(classes: list[str], given: dict[str, list[str]]) -> dict[str, list[str]]:
    """Words for each class: those given under its name, or at its place where the classes are numbers from 0.

    Without any given a class is called by its name. Raises `BadInput` for a class that is left without words.
    """
    if not given:
        return {name: [name] for name in classes}
    if not set(classes) & set(given) and all(name.isdecimal() and int(name) < len(given) for name in classes):
        listed = list(given.values())
        return {name: listed[int(name)] for name in classes}
    for name in classes:
        if name not in given:
            raise BadInput(f"the labels have no words for class {name!r} of the data{nearest(name, given)}")
    return {name: given[name] for name in classes}
