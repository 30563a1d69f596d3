"""Who asks and answers in the task `recall`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clx.pipelines.evaluation.embeddings import embed_manifest
from clx.pipelines.evaluation.evaluated_rows import evaluated_rows
from clx.pipelines.evaluation.results import Settings
from clx.pipelines.evaluation.task_context import TaskContext
from clx.pipelines.evaluation.tasks.recall import recall
from clx.use import load


def test_a_picture_in_several_rows_does_not_find_itself(copy: Path) -> None:
    run = load(copy)
    once = embed_manifest(run, evaluated_rows(run.config.data, 0, None, None, None).rows)
    nothing: Any = None

    def line(embedded: Any) -> dict[str, Any]:
        return recall(TaskContext(run, embedded, nothing, Settings(resamples=0)))["image"]

    three_times = once.take(torch.arange(len(once)).repeat(3))
    assert line(three_times) == pytest.approx(line(once))
    labels = three_times.labels.clone()
    labels[0] = (labels[0] + 1) % 10
    assert line(replace(three_times, labels=labels))["queries"] == len(once) - 1, "it has two classes"
