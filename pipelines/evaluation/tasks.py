"""The tasks of an evaluation by name. Here are those that ask the space itself: zero-shot, retrieval, its geometry.

A task is a function of `TaskContext` that returns `{input: line}` as results.py describes it, or raises `Unfit`.
"""

from collections.abc import Callable

from clx.pipelines.config.schema import Task
from clx.pipelines.evaluation.classification import fewshot, knn, probe, svm
from clx.pipelines.evaluation.forecast import forecast
from clx.pipelines.evaluation.geometry import geometry
from clx.pipelines.evaluation.regression import regression
from clx.pipelines.evaluation.retrieval import retrieval
from clx.pipelines.evaluation.task_context import Lines, TaskContext
from clx.pipelines.evaluation.zeroshot import zeroshot

RUNS: dict[Task, Callable[[TaskContext], Lines]] = {
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
