"""Validation: the mean loss over the validation rows, on the weights that would be used."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from clx.pipelines.batches.batch import BadRow
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import once
from clx.pipelines.data.row_groups import blocks_of
from clx.pipelines.measures.scores import histograms
from clx.pipelines.model.objective import Objective
from clx.pipelines.model.towers import modality_of
from clx.pipelines.runs.checkpoint import random_state, restore_random
from clx.pipelines.system.signals import Signals
from clx.pipelines.training import health
from clx.pipelines.training.step import Contrast, Learner


class Validated(NamedTuple):
    """What a validation found."""

    loss: float | None
    """Mean over the rows; None where no row could be read."""
    embeddings: dict[str, Tensor]
    """Of the first rows, by view name."""
    scores: dict[str, dict[str, list[int]]]
    """How cosines of partners and of others lie among the first rows, as `measures.scores.histograms` counts them."""


@torch.no_grad()
def validate(
    learner: Learner, rows: BatchDataset, signals: Signals | None, report: Callable[[list[BadRow]], None]
) -> Validated | None:
    """The objective on all `rows`, in batches of the training's size; None when a signal cut it short.

    The training's random streams are as they were, and what losses draw depends on the batch alone.
    """
    settings = learner.settings
    model, objective = learner.used
    streams = random_state()
    model.eval(), objective.eval()
    total, count = 0.0, 0
    first: list[Contrast] = []
    keys = once(len(rows), settings.batch_size, settings.seed, blocks_of(rows.manifest))
    for number, batch in enumerate(learner.batches(rows, keys, settings.workers, False, report)):
        found = learner.contrast(batch.to(learner.device), model, objective, number)
        total += found.loss.item() * len(found.batch)
        if count < health.ROWS:
            first.append(found)
        count += len(found.batch)
        if signals is not None and signals.stop:
            break
    learner.model.train(), learner.objective.train()
    restore_random(streams)
    if signals is not None and signals.stop:
        return None
    if learner.ranks is not None:
        total = learner.ranks.first(total)
    names = first[0].embeddings if first else {}
    z = {name: torch.cat([each.embeddings[name] for each in first]) for name in names}
    return Validated(total / count if count else None, z, scores_of(first, z, objective))


def scores_of(first: list[Contrast], z: dict[str, Tensor], objective: Objective) -> dict[str, dict[str, list[int]]]:
    """Histograms of the scores of `health.ROWS` rows at most; columns that are only negatives have no partners."""
    repeats = [each.batch.repeats for each in first if each.batch.repeats is not None]
    looked = {n: rows[: health.ROWS] for n, rows in z.items() if modality_of(n) not in objective.only_negatives}
    labels = [each.batch.labels for each in first]
    alike = torch.cat(repeats)[: health.ROWS] if repeats else None
    return histograms(looked, torch.cat(labels)[: health.ROWS], alike) if looked else {}
