"""How many rows a tower encodes at a time: as `train.chunk` says, or as many as memory holds."""

import torch
from torch import Tensor

from clx.pipelines.batches.batch import Batch
from clx.pipelines.config.schema import Train
from clx.pipelines.model.chunks import batch_norms
from clx.pipelines.model.towers import Embedder
from clx.pipelines.runs.checkpoint import random_state, restore_random
from clx.pipelines.system.memory import free_memory

ROWS, SHARE = 4, 0.4
"""Rows whose activations are measured, and the share of free memory that those of a batch may fill."""


class Chunks:
    """Sets how many rows the towers of some models encode at a time."""

    def __init__(self, settings: Train, *models: Embedder) -> None:
        self.settings, self.models = settings, models
        self.automatic = settings.chunk == "auto"
        self.size: int | None = None
        """Rows; None for the whole batch."""
        self.planned = not self.automatic
        self.set(None if isinstance(settings.chunk, str) else settings.chunk)

    def set(self, size: int | None) -> None:
        """Rows at a time from now on. With `auto`, towers that look across rows go on as they are.

        With a batch or more all are encoded at once, also where a row is a pair, or several samples.
        """
        size = None if size is None or size >= self.settings.batch_size else size
        self.size = size
        for model in self.models:
            for name in model.towers:
                tower = model.tower(name)
                whole = self.automatic and self.settings.chunk_statistics == "batch" and batch_norms(tower.encoder)
                tower.chunk = None if whole else size

    def plan(self, batch: Batch, processes: int = 1) -> None:
        """Before the first step, on a CPU, where more memory than there is ends a process without a word: as many rows
        as fit where so many processes plan at once. A GPU refuses, and `halve` heeds that."""
        if self.planned:
            return
        self.planned = True
        found = free_memory() if batch.sample_id.device.type == "cpu" else None
        if found is None:
            return
        needed, room = bytes_a_row(self.models[0], batch), SHARE * found[0] / processes
        if needed * len(batch) > room:
            self.set(2 ** max(0, int(room / needed).bit_length() - 1))

    def halve(self, rows: int) -> bool:
        """Half as many rows at a time after memory ran out with a batch of `rows`; False where one is the most."""
        before = min(self.size or rows, rows)
        if before < 2:
            return False
        self.set(before // 2)
        return True


def bytes_a_row(model: Embedder, batch: Batch) -> int:
    """Bytes that autograd keeps for a row of a batch, of all its inputs, from a few rows of the batch's lengths."""
    kept: dict[int, int] = {}
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    few = {
        name: {key: tensor[:ROWS] for key, tensor in value.items() if key != "of"}
        for name, value in batch.inputs.items()
    }
    samples = {name: len(value["of"]) / len(batch) for name, value in batch.inputs.items() if "of" in value}  # a row
    training, streams = model.training, random_state()
    model.train()  # as what is computed again in backward keeps less only then
    for norms in batch_norms(model):
        norms.eval()  # which counts nothing
    held = 0.0
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        for name, value in few.items():
            kept.clear()
            features = model.tower(name).features(value)
            sizes = sum(size for pointer, size in kept.items() if pointer not in known)
            held += sizes / len(features) * samples.get(name, 1)
            del features
    model.train(training)
    restore_random(streams)
    return max(1, int(held))
