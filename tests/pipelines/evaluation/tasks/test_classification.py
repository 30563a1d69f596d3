"""Tasks that learn classes."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from clx.pipelines.evaluation.task_context import Unfit
from clx.pipelines.evaluation.tasks.classification import need_known_classes


@dataclass
class Rows:
    classes: list[str]
    labels: Tensor


def test_rows_none_of_whose_classes_is_learned_are_refused_with_both_lists() -> None:
    every = ["cat", "dog", "Cats"]
    train, asked = Rows(every[:2], torch.tensor([0, 1, -1])), Rows(every, torch.tensor([2, 2, -1]))
    with pytest.raises(Unfit, match="learned are 'cat', 'dog'; asked 'Cats'"):
        need_known_classes(train, asked)  # type: ignore[arg-type]
    need_known_classes(train, Rows(every, torch.tensor([2, 1])))  # type: ignore[arg-type]
    need_known_classes(train, Rows(every, torch.tensor([-1])))  # type: ignore[arg-type]
