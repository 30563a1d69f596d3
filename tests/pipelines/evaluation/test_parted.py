"""Rows that are learned from and those that are asked share nothing, or it is said."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clx.pipelines.evaluation.embeddings import embed_manifest
from clx.pipelines.evaluation.evaluated_rows import Source, evaluated_rows
from clx.pipelines.evaluation.parted import parted, tell_of_parts
from clx.pipelines.evaluation.results import Settings
from clx.pipelines.evaluation.task_context import TaskContext
from clx.use import load


def test_rows_of_one_picture_are_learned_from_or_asked(copy: Path) -> None:
    run = load(copy)
    once = embed_manifest(run, evaluated_rows(run.config.data, 0, None, None, None).rows)
    nothing: Any = None

    def parts(repeats: int) -> tuple[torch.Tensor, torch.Tensor]:
        three_times = once.take(torch.arange(len(once)).repeat(repeats))
        apart = parted(TaskContext(run, three_times, nothing, Settings()), 0)
        return apart.learn().train.rows, apart.embedded.rows

    learned, asked = parts(3)
    assert not {*learned.tolist()} & {*asked.tolist()}
    assert len(learned) + len(asked) == 3 * len(once)
    assert abs(len(asked) - 0.6 * len(once)) <= 3
    assert len(parts(1)[1]) == round(0.2 * len(once))


def test_it_is_said_what_stays_together_and_what_leaks(copy: Path) -> None:
    run, said = load(copy), list[str]()
    rows = evaluated_rows(run.config.data, 0, None, None, None).rows
    twice = rows.take(np.arange(len(rows)).repeat(2))
    tell_of_parts(run, Source("all", twice, drawn=True), True, said.append)
    assert said[-1].endswith("learned from; rows that share their image stay together")
    named = [replace(part, name="mine.csv") for part in (twice, rows)]
    for given in (True, False):
        tell_of_parts(run, Source("test", named[1], named[0]), given, said.append)
    assert len(said) == 2
    assert said[-1].startswith(f"{len(rows)} of {len(rows)} test rows have the image of a training row: ")
