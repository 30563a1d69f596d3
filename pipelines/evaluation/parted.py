"""Rows without splits in two parts, those to learn from and those to ask; and what two parts share."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from clx.pipelines.batches.columns import column_of
from clx.pipelines.data.builtin import is_builtin
from clx.pipelines.data.draw import drawn_rows
from clx.pipelines.data.leaks import found_leaks, groups_of, told_at_once
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.shared_content import FILES, Sharing, sharing
from clx.pipelines.evaluation.evaluated_rows import Source
from clx.pipelines.evaluation.task_context import Learning, TaskContext
from clx.pipelines.measures import probes
from clx.pipelines.model.build import Run


def parted(context: TaskContext, seed: int) -> TaskContext:
    """The same where a fifth of the rows, drawn with `seed`, is asked and the others are learned from.

    Rows that share a picture, a recording, a text or a group are in one part.
    """
    embedded = context.embedded
    if len(embedded) < 2:
        return context
    groups = together(context.run, embedded.manifest.take(embedded.rows.numpy())).groups
    learn, held = probes.hold_out(len(embedded), seed)
    if len(np.unique(groups)) < len(groups):
        drawn = torch.from_numpy(drawn_rows(groups, None, len(held), seed))
        if drawn.any() and not drawn.all():
            learn, held = (~drawn).nonzero()[:, 0], drawn.nonzero()[:, 0]
    known, asks = embedded.take(learn), embedded.take(held)
    train = known.manifest.take(known.rows.numpy())
    return replace(context, embedded=asks, learn=lambda: Learning(known, None), train=train, things={})


def together(run: Run, manifest: Manifest) -> Sharing:
    """Which rows share what an input reads, or a group that val and test rows of the run's data are drawn by."""
    return sharing(manifest, dict.fromkeys(groups_of(run.config), True) | inputs_read(run))


def inputs_read(run: Run) -> dict[str, bool]:
    """As `shared_content.inputs_of`, of a model whose columns may be told by nothing but its modalities; without
    those of windows of series, which may be equal by nature."""
    windows = run.config.data.windows
    found: dict[str, bool] = {}
    for name, modality in run.scored().items():
        if modality.kind in FILES:
            told = column_of(name, modality)
            found |= dict.fromkeys([told] if isinstance(told, str) else told, FILES[modality.kind])
    return {column: files for column, files in found.items() if windows is None or column != windows.column}


def tell_of_parts(run: Run, source: Source, given: bool, say: Callable[[str], None]) -> None:
    """Say how rows without splits are parted, and of `given` ones which have what a row that is learned from has."""
    if source.drawn:
        columns = together(run, source.rows).columns
        kept = f"; rows that share their {' or '.join(columns)} stay together" if columns else ""
        say(
            f"{source.rows.name} has no training rows: four fifths of its rows, drawn at random, are learned from{kept}"
        )
    elif given and source.train is not None and not is_builtin(source.train.name):
        asked = "asked" if source.split in ("all", "train") else source.split
        splits = {"train": source.train, asked: source.rows}
        if found := list(found_leaks(splits, inputs_read(run), groups_of(run.config))):
            say(told_at_once(found))
