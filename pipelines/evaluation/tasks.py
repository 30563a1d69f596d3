"""The tasks of an evaluation by name. Here are those that ask the space itself: zero-shot, retrieval, its geometry.

A task is a function of `Asked` that returns `{input: line}` as `clx.pipelines.evaluation.results` describes it, or raises `Unfit`.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clx.pipelines.config.schema import Task
from clx.pipelines.evaluation.classification import fewshot, knn, probe, svm
from clx.pipelines.evaluation.forecast import forecast
from clx.pipelines.evaluation.regression import regression
from clx.pipelines.evaluation.task_context import Asked, Lines, Unfit, classified, need_label, nonempty
from clx.pipelines.measures import geometry as shape
from clx.pipelines.measures.bootstrap import means
from clx.pipelines.measures.prediction import (
    Relevant,
    best_classes,
    discounted,
    gains_by_label,
    gains_by_target,
    rank,
    retrieved,
)
from clx.pipelines.system.errors import BadInput, nearest
from clx.pipelines.use.zeroshot import alone_and_together, class_embeddings


def zeroshot(asked: Asked) -> Lines:
    """Accuracy of each modality, and of all together, against the label's words."""
    need_label(asked)
    run, embedded, text = asked.run, asked.embedded, asked.text
    if text is None:
        raise Unfit(f"needs a text modality to read the labels; this run has {', '.join(run.modalities)}")
    phrasings = phrasings_for(embedded.classes, asked.settings.phrasings)
    classes = class_embeddings(run, phrasings, asked.settings.templates)
    found = {}
    for group in alone_and_together([name for name in embedded.z if name != text]):
        here = (torch.stack([embedded.present[name] for name in group]).any(0) & (embedded.labels >= 0)).nonzero()[:, 0]
        if len(here):
            order = best_classes(asked.ask(group, here, text), classes)
            found["+".join(group)] = classified(asked, order, embedded.labels[here], embedded.classes)
    return nonempty(found, "no row has both a label and an input to classify")


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


def retrieval(asked: Asked) -> Lines:
    """The partners of every ordered pair of modalities, and of all others together for each."""
    names = list(asked.embedded.z)
    if len(names) < 2:
        raise Unfit(f"needs two modalities, the data have {names[0]}")
    found = {}
    for candidate in names:
        for group in alone_and_together([name for name in names if name != candidate]):
            every = [asked.embedded.present[name] for name in (*group, candidate)]
            rows = torch.stack(every).all(0).nonzero()[:, 0]
            if len(rows):
                found[f"{'+'.join(group)}->{candidate}"] = _retrieve(asked, rows, group, candidate)
    return nonempty(found, "no row has two modalities")


def _retrieve(asked: Asked, rows: Tensor, group: list[str], candidate: str) -> dict[str, Any]:
    """The figures of one direction.

    Cells of equal content are one thing: it stands among the candidates once, and every partner of an equal query
    is right. So equal queries are asked once; their figures count for each of their rows.
    """
    same = torch.stack([asked.contents(name)[rows] for name in group], 1)
    query, asks = _distinct(same)
    thing, kept = _distinct(asked.contents(candidate)[rows][:, None])
    relevant = Relevant.of(query, thing, len(asks))
    answers = F.normalize(asked.embedded.z[candidate][rows[kept]], dim=-1).to(asked.device)
    ranking = rank(asked.ask(group, rows[asks], candidate).to(asked.device), answers, relevant)
    per_row = retrieved(ranking.first[query], ranking.precision[query], ranking.auc[query])
    line = asked.figures(len(rows), per_row)
    labels, targets = asked.embedded.labels[rows], asked.embedded.targets[rows]
    aimed = ~targets.isnan().any(1) if targets.shape[1] else torch.zeros(len(rows), dtype=torch.bool)
    if aimed[kept].any():
        gains, best = gains_by_target(ranking.top, query[aimed], targets[aimed], targets[kept])
    else:
        gains, best = gains_by_label(ranking.top, query, labels, labels[kept], relevant)
    graded = "target" if aimed[kept].any() else "label" if bool((labels >= 0).any()) else "pair"
    line |= asked.figures(len(gains), means({"NDCG@10": discounted(gains, best)}))
    if (known := labels >= 0).any():
        hits = labels[kept][ranking.top[query, 0]] == labels
        line |= asked.figures(int(known.sum()), means({"label@1": hits[known]}))
    return line | {"graded_by": graded, "queries": len(rows), "candidates": len(answers)}


def _distinct(values: Tensor) -> tuple[Tensor, Tensor]:
    """The number of each line of `[n, k]` among the different ones, `[n]`, and the first line of each number."""
    _, number = torch.unique(values, dim=0, return_inverse=True)
    first = torch.full((int(number.max()) + 1,), len(number)).scatter_reduce(
        0, number, torch.arange(len(number)), "amin"
    )
    return number, first


def geometry(asked: Asked) -> Lines:
    """The shape of each modality's rows, over distinct contents, and of every ordered pair's."""
    embedded, found = asked.embedded, {}
    tau = getattr(asked.run.objective.leading, "tau", None)
    warmth = {} if tau is None else {"temperature": tau.item() if isinstance(tau, Tensor) else float(tau)}
    unit = {name: F.normalize(value, dim=-1) for name, value in embedded.z.items()}
    seed = asked.settings.seed
    for name, z in unit.items():
        rows = embedded.present[name].nonzero()[:, 0]
        rows = rows[_distinct(asked.contents(name)[rows][:, None])[1]] if len(rows) else rows
        if len(rows) > 1:
            some = z[rows[shape.sample(len(rows), seed)]]
            line = asked.figures(len(some), shape.uniformity(some))
            line |= {"effective_rank": shape.effective_rank(z[rows])} | shape.hubness(some, some, itself=True)
            found[name] = line | warmth | {"rows": len(rows)}
    for name in unit:
        for other in unit:
            rows = (embedded.present[name] & embedded.present[other]).nonzero()[:, 0]
            if name != other and len(rows):
                found[f"{name}->{other}"] = _between(asked, unit, rows, name, other) | warmth | {"rows": len(rows)}
    return nonempty(found, "no two different rows")


def _between(asked: Asked, unit: dict[str, Tensor], rows: Tensor, name: str, other: str) -> dict[str, Any]:
    x, y = unit[name][rows], unit[other][rows]
    line = asked.figures(len(rows), means({"alignment": shape.alignment(x, y)}))
    line |= asked.figures(len(rows), shape.modality_gap(x, y))
    few = rows[shape.sample(len(rows), asked.settings.seed)]
    things = few[_distinct(asked.contents(other)[few][:, None])[1]]
    return line | shape.hubness(unit[name][few], unit[other][things])


RUNS: dict[Task, Callable[[Asked], Lines]] = {
    "zeroshot": zeroshot,
    "retrieval": retrieval,
    "probe": probe,
    "knn": knn,
    "svm": svm,
    "fewshot": fewshot,
    "regression": regression,
    "forecast": forecast,
    "geometry": geometry,
}
LEARNING: tuple[Task, ...] = ("probe", "knn", "svm", "fewshot", "regression")
"""Tasks that learn from training rows, or from a part of the rows where there are none."""
