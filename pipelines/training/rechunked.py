"""Another `train.chunk` for a run that goes on: it changes memory and time, and is to change nothing else."""

import torch
from torch import nn

from clx.modalities.base import Input
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import batches, once
from clx.pipelines.config.schema import Train
from clx.pipelines.model.chunks import batch_norms
from clx.pipelines.model.towers import Embedder
from clx.pipelines.runs.checkpoint import random_state, restore_random
from clx.pipelines.system.errors import BadInput
from clx.pipelines.training.buffers import buffers_kept

ROWS = 2


def check_rechunked(model: Embedder, rows: BatchDataset, before: Train, now: Train) -> None:
    """Raise `BadInput` where the new chunk would make another run: with batch norms or dropout in an encoder."""
    old, new = (None if isinstance(c := t.chunk, int) and c >= t.batch_size else c for t in (before, now))
    if old == new:
        return
    few, reasons = min(ROWS, len(rows)), dict[str, str]()
    batch, streams = next(batches(rows, [once(few, few)[0]])), random_state()
    model.train()
    with buffers_kept(model):
        for name, value in batch.to(next(model.parameters()).device).inputs.items():
            tower, kept_whole = model.tower(name), now.chunk_statistics == "batch" and not isinstance(new, int)
            if batch_norms(tower.encoder) and not kept_whole:
                reasons[name] = "batch norms, whose statistics are those of a chunk"
            elif draws(tower, value):
                reasons[name] = "dropout or the like, which draws other numbers for other chunks"
    restore_random(streams)
    for name, reason in reasons.items():
        raise BadInput(
            f"train.chunk: this run had {before.chunk or 'none'} and cannot go on with {now.chunk or 'none'} as if "
            f"nothing had changed: the encoder of {name} has {reason}"
        )


def draws(tower: nn.Module, value: Input) -> bool:
    """Whether a tower draws at random when it encodes while it is trained."""
    before = random_state()
    with torch.no_grad():
        tower.features(value)  # type: ignore[operator]
    after = random_state()
    pairs = [(before["torch"], after["torch"]), *zip(before["cuda"] or [], after["cuda"] or [], strict=True)]
    return not all(torch.equal(a, b) for a, b in pairs)
