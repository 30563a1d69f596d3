"""Figures of rows whose inputs are damaged, beside those of the rows as they are."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from clx.pipelines.batches.cells import holds_lists
from clx.pipelines.batches.corrupted import damage_of
from clx.pipelines.config.task_names import Task
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.evaluation.embeddings import Embedded
from clx.pipelines.evaluation.task_context import LEARNING, RUNS, Lines, TaskContext, Unfit
from clx.pipelines.model.build import Run
from clx.pipelines.system.errors import BadInput

READ_ANEW: tuple[Task, ...] = ("forecast", "forgetting")
"""Tasks that read rows for themselves, as they are: they have no figures of damaged ones."""


def by_corruption(
    whole: TaskContext,
    apart: TaskContext,
    tasks: Sequence[Task],
    embed: Callable[[str], Embedded],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The key `corrupted` of a result: the tasks' lines for each of the settings' corruptions of the rows that are
    asked about. What is learned from stays as it is.

    Args:
        whole, apart: what tasks look at, and those that learn.
        embed: embeds the rows with a corruption.
    """
    found: dict[str, dict[str, Lines]] = {}
    for spec in whole.settings.corrupt:
        damaged = embed(spec)
        asks = damaged
        if apart is not whole:  # a part of the rows is learned from, as it is
            asks = damaged.take(torch.isin(damaged.rows, apart.embedded.rows).nonzero()[:, 0])
        both = replace(whole, embedded=damaged, captions={}), replace(apart, embedded=asks, captions={})
        for task in tasks:
            if task in READ_ANEW:
                say(f"{task} reads rows for itself, and has no figures with {spec}")
            else:
                say(f"{task}, with {spec}")
                with suppress(Unfit):
                    found.setdefault(spec, {})[task] = RUNS[task](both[task in LEARNING])
    return {"corrupted": found} if found else {}


def check_corruptions(run: Run, rows: Manifest, corrupt: Sequence[str], tasks: Sequence[Task]) -> None:
    """Raise `BadInput` for a corruption that no input has, for rows with several cells, of which tasks read each by
    itself, and where no task has figures of damaged rows."""
    for spec in corrupt:
        for name in damage_of(spec, run.scored()):
            if run.modalities[name].draws_one and holds_lists(rows, name, run.modalities[name]):
                raise BadInput(f"--corrupt {spec}: rows have several cells of {name}, which are not corrupted")
    if corrupt and {*tasks} <= {*READ_ANEW}:
        raise BadInput(
            f"--corrupt: {' and '.join(tasks)} read rows for themselves, and have no figures of damaged ones"
        )
