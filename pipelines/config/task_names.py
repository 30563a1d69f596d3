"""The tasks of an evaluation by name, in the order in which they run; `evaluation/tasks/` has a function for each."""

import typing
from typing import Literal

Task = Literal[
    "zeroshot",
    "classification",
    "forgetting",
    "multilabel",
    "sts",
    "retrieval",
    "probe",
    "knn",
    "svm",
    "recall",
    "fewshot",
    "regression",
    "forecast",
    "geometry",
    "analogies",
    "similarity",
]
TASKS: tuple[Task, ...] = typing.get_args(Task)
