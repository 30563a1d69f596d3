"""What is drawn for an interval: rows, or the things that several rows are about."""

import torch
from torch import Tensor

from clx.pipelines.data.groups import shared_keys
from clx.pipelines.data.leaks import groups_of
from clx.pipelines.data.shared_content import keys_of
from clx.pipelines.evaluation.task_context import TaskContext

DRAWN = ("image", "audio", "series")
"""Kinds of which a repeated cell is one thing told of several times; a repeated text may be the name of a class."""

FEWEST = 5
"""Things that are drawn at least: of fewer an interval would be far too narrow."""


def units_of(context: TaskContext, rows: Tensor, names: list[str]) -> Tensor | None:
    """What is drawn for an interval, as a number for each row; None for the rows themselves.

    Five captions of one image are no five witnesses: images are drawn, and patients where `data.val.by` holds their
    rows together. Looked at are the inputs `names`, where none of them is of such a kind all others; of several things
    those are drawn of which there are fewest, but `FEWEST`: of fewer, rows are drawn.
    """
    embedded, modalities = context.embedded, context.run.modalities
    media = [name for name in embedded.z if modalities[name].kind in DRAWN]
    media = [name for name in media if name in names] or media
    numbers = [alone(context.contents(name)[rows], embedded.present[name][rows]) for name in media]
    for column in groups_of(context.run.config):
        if column in embedded.manifest.columns:
            keys = keys_of(embedded.manifest.take(embedded.rows[rows].numpy()), column)
            group = torch.from_numpy(shared_keys(keys)).long()
            numbers.append(alone(group, group >= 0))
    counts = [len(each.unique()) for each in numbers]
    least = min((count for count in counts if count >= FEWEST), default=len(rows))
    return numbers[counts.index(least)] if least < len(rows) else None


def part_of(units: Tensor | None, here: Tensor) -> Tensor | None:
    """The units of some of the rows, where these are of enough."""
    some = None if units is None else units[here]
    return some if some is not None and len(some.unique()) >= FEWEST else None


def alone(number: Tensor, known: Tensor) -> Tensor:
    """The numbers, and one of its own for each that is not known."""
    if bool(known.all()):
        return number
    return torch.where(known, number, int(number.max()) + 1 + torch.arange(len(number)))
