"""One evaluation in progress: what its tasks look at, and what they have in common."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from clx.losses.base import Loss
from clx.pipelines.config.task_names import Task
from clx.pipelines.config.usual_tasks import CANDIDATE_SCORING, scores_pairs
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.evaluation.captions import Captions
from clx.pipelines.evaluation.embeddings import Embedded, Report, contents, ignore_bad_rows, queries_of
from clx.pipelines.evaluation.results import MOST_CLASSES, Settings
from clx.pipelines.measures.bootstrap import Statistic, figures
from clx.pipelines.measures.prediction import accuracies, confusion
from clx.pipelines.model.build import Run
from clx.pipelines.model.scoring import text_modality
from clx.pipelines.system.errors import BadInput

Lines = dict[str, dict[str, Any]]


class Unfit(Exception):
    """A task that these data or this model do not allow."""


@dataclass
class Learning:
    """The rows that probe, knn, svm, fewshot and regression learn from."""

    train: Embedded
    val: Embedded | None
    """Rows that choose a penalty."""


@dataclass
class TaskContext:
    """One evaluation in progress: what its tasks look at."""

    run: Run
    embedded: Embedded
    learn: Callable[[], Learning]
    """Embeds the training rows at the first call. Raises `Unfit` when there are none."""
    settings: Settings
    train: Manifest | None = None
    """The training rows, where there are any."""
    val: Manifest | None = None
    """Rows that choose a penalty, where there are any."""
    on_bad: Literal["fail", "skip"] = "fail"
    report: Report = ignore_bad_rows
    things: dict[str, Tensor] = field(default_factory=dict)
    """Numbers of contents by modality, as far as they were asked for."""

    captions: dict[str, Captions] = field(default_factory=dict)
    """Captions by modality, as far as they were asked for."""

    def narrowed(self, width: int) -> "TaskContext":
        """The same of the first `width` columns of the embeddings, which are also what is learned from."""

        def learn() -> Learning:
            known = self.learn()
            return Learning(known.train.narrowed(width), None if known.val is None else known.val.narrowed(width))

        return replace(
            self,
            run=self.run.narrowed(width),
            embedded=self.embedded.narrowed(width),
            learn=learn,
            settings=replace(self.settings, features="head"),
            captions={},
        )

    def contents(self, name: str) -> Tensor:
        if name not in self.things:
            self.things[name] = contents(self.run, self.embedded, name)
        return self.things[name]

    def figures(
        self, rows: int, statistic: Statistic, *, groups: Tensor | None = None, resamples: int | None = None
    ) -> dict[str, Any]:
        """With intervals as the settings want them, or of so many `resamples`; whole `groups` are drawn where given."""
        settings = self.settings
        count = settings.resamples if resamples is None else resamples
        return figures(rows, statistic, count, settings.confidence, settings.seed, groups, keep=True)

    @cached_property
    def text(self) -> str | None:
        """The modality that reads labels, if there is one."""
        try:
            return text_modality(self.run)
        except BadInput:
            return None

    @cached_property
    def device(self) -> torch.device:
        """Where to compute on embeddings; Apple's has no float64."""
        device = self.run.device
        return device if device.type == "cuda" else torch.device("cpu")

    def ask(self, group: list[str], rows: Tensor, candidate: str) -> Tensor:
        """Queries `[n, D]` of the rows at `rows` by the modalities of `group` together."""
        return queries_of(self.run, self.embedded, group, rows, candidate)


def need_label(context: TaskContext) -> None:
    label, manifest = context.run.config.data.label_column, context.embedded.manifest
    if not label:
        raise Unfit("needs data.label, the column with the class")
    if label not in manifest.columns:
        raise Unfit(f"{manifest.name} has no column {label!r} with the class")
    if context.embedded.label_sets is not None:
        raise Unfit(f"{context.run.config.data.label_named!r} are sets of labels, which the task multilabel asks about")


def named(embedded: Embedded) -> set[str]:
    """The classes that rows have."""
    return {embedded.classes[k] for k in embedded.labels.unique().tolist() if k >= 0}


def need_known_classes(learned: Collection[str], asked: Collection[str]) -> None:
    """Raise `Unfit` where none of the classes that rows have is one that was learned: every answer would be wrong."""
    if learned and asked and not {*learned} & {*asked}:
        said = [", ".join(map(repr, sorted(names)[:8])) for names in (learned, asked)]
        raise Unfit(f"none of the classes asked about is learned: learned are {said[0]}; asked {said[1]}")


def is_scored_pair(context: TaskContext, one: str, other: str) -> bool:
    """Whether the one target of a row is the score of its pair of these inputs, and not a number about one thing.

    So it is for an objective on scores of pairs, where it weighs the pairs (`data.weight`), and where both inputs are
    of one kind, unless an objective learns the target from rows, as that of the price of a house in two photographs
    does.
    """
    config, modalities = context.run.config, context.run.modalities
    scoring = [term for term in config.objective if scores_pairs(term)]
    if any(term.inputs is None or {one, other} <= {*term.inputs} for term in scoring):
        return True
    alike = modalities[one].kind == modalities[other].kind
    of_pairs = not learns_target_of_rows(context) and not learns_scores_of_candidates(context)
    weighs = config.data.target == [config.data.weight]
    return (alike or weighs) and len(config.data.target) == 1 and of_pairs


def learns_target_of_rows(context: TaskContext) -> bool:
    """Whether a term learns the target as a number about a row."""
    terms = zip(context.run.config.objective, context.run.objective.losses, strict=True)
    return any(
        "targets" in loss.requires()
        for term, loss in terms
        if isinstance(loss, Loss) and not scores_pairs(term) and term.name != CANDIDATE_SCORING
    )


def learns_scores_of_candidates(context: TaskContext) -> bool:
    """Whether a term takes the target for what is said of a query's candidates."""
    return any(term.name == CANDIDATE_SCORING for term in context.run.config.objective)


def classified(
    context: TaskContext, order: Tensor, labels: Tensor, classes: list[str], units: Tensor | None
) -> dict[str, Any]:
    """Accuracies of the best classes `[n, 5]` of each row, and the confusion matrix; intervals draw `units` `[n]`."""
    line = context.figures(len(labels), accuracies(order, labels, len(classes)), groups=units) | {"rows": len(labels)}
    return line | ({"confusion": confusion(order[:, 0], labels, classes)} if len(classes) <= MOST_CLASSES else {})


def nonempty(found: Lines, what: str) -> Lines:
    """The lines; where there are none, `what` says why the task is `Unfit`."""
    if not found:
        raise Unfit(what)
    return found


TaskFunction = Callable[[TaskContext], Lines]
RUNS: dict[Task, TaskFunction] = {}
"""Tasks by name."""
LEARNING: set[Task] = set()
"""Tasks that learn from training rows, or from a part of the rows where there are none."""


def task(name: Task, *, learns: bool = False) -> Callable[[TaskFunction], TaskFunction]:
    """Make a task known by its name; `learns` for one that learns from training rows."""

    def add(run: TaskFunction) -> TaskFunction:
        RUNS[name] = run
        if learns:
            LEARNING.add(name)
        return run

    return add
