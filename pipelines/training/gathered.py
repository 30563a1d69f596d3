"""Embeddings and extras of a batch's rows on all ranks, from those that each rank has; with gradients."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clx.losses.base import Embeddings, Steps
from clx.losses.primitives.autograd import at_least_float32
from clx.pipelines.batches.batch import Batch, Counts
from clx.pipelines.batches.columns import view_names
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.system.process_group import Group


def gather(group: Group, z: Embeddings, steps: Steps, batch: Batch) -> tuple[Embeddings, Steps, Batch]:
    """Embeddings, their time steps and extras of the rows of all ranks, in order; inputs stay where they are.

    Two all-gathers, of floats with their gradient and of bytes, and one of lengths where there are steps. Backward
    gives this rank's rows of the gradient, which is whole on every rank, and sends nothing.
    """
    counts: Counts = batch.counts  # type: ignore[assignment]
    long = {name: 0 for name in steps}
    if steps:
        by_rank = group.exchange([len(mask[0]) if len(mask) else 0 for _, mask in steps.values()])
        long = dict(zip(steps, map(max, zip(*by_rank, strict=True)), strict=True))
    masks = {name: _longer(mask, long[name]) for name, (_, mask) in steps.items()}
    parts = [at_least_float32(rows) for rows in z.values()]
    parts += [at_least_float32(_longer(rows, long[name]).flatten(1)) for name, (rows, _) in steps.items()]
    kind = max((part.dtype for part in parts), key=lambda dtype: dtype.itemsize)
    local = torch.cat([part.to(kind) for part in parts], 1)
    everyone = _with_gradient(local, group, counts.rows)
    split = everyone.split([part.shape[1] for part in parts], 1)
    every, moved = _extras(group, batch, counts, masks)
    found = dict(zip(z, split, strict=False))
    stepped = {
        name: (rows.unflatten(1, (long[name], -1)), moved[name])
        for name, rows in zip(steps, split[len(z) :], strict=True)
    }
    return found, stepped, every


def whole(group: Group, counts: list[int], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Of tensors `[N, W]` of this rank's rows, of which each has so many, the rows of all, with their gradient.

    Two collectives. The widths may be another on each rank: zeros are added behind.
    """
    widths = [max(each) for each in zip(*group.exchange([t.shape[1] for t in tensors]), strict=True)]
    local = torch.cat([_longer(at_least_float32(t), width) for t, width in zip(tensors, widths, strict=True)], 1)
    everyone = _with_gradient(local, group, counts)
    parts = everyone.split(widths, 1)
    return [part.to(t.dtype) if t.dtype == torch.bool else part for part, t in zip(parts, tensors, strict=True)]


def _extras(group: Group, batch: Batch, counts: Counts, masks: dict[str, Tensor]) -> tuple[Batch, dict[str, Tensor]]:
    """The extras of all ranks as one batch, and the masks of their time steps."""
    size = len(batch)
    fields: dict[str, Tensor | None] = {
        **{f"present {name}": here for name, here in batch.present.items()},
        **{f"content {name}": numbers.long() for name, numbers in (batch.contents or {}).items()},
        **{f"mask {name}": mask for name, mask in masks.items()},
        "labels": batch.labels,
        "targets": batch.targets.reshape(size, counts.targets),
        "sample_id": batch.sample_id,
        "label_sets": None if batch.label_sets is None else batch.label_sets.reshape(size, counts.sets),
        "repeats": batch.repeats,
        "groups": batch.groups,
        "weights": batch.weights,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    rows = [value.reshape(size, math.prod(value.shape[1:])).contiguous() for value in given.values()]
    total = sum(counts.rows)
    packed = group.gathered(torch.cat([each.view(torch.uint8) for each in rows], 1), counts.rows)
    split = packed.split([each.shape[1] * each.element_size() for each in rows], 1)
    known = {
        name: _as(each, value.dtype).reshape(total, *value.shape[1:])
        for (name, value), each in zip(given.items(), split, strict=True)
    }

    def of(kind: str) -> dict[str, Tensor]:
        return {name.partition(" ")[2]: v for name, v in known.items() if name.startswith(f"{kind} ")}

    plain = {name: known.get(name) for name in fields if " " not in name}
    contents = None if batch.contents is None else of("content")
    lacks = batch.sample_id.is_cpu or any(sum(here) < total for here in counts.present.values())
    return Batch({}, of("present"), contents=contents, bad=batch.bad, lacks=lacks, **plain), of("mask")  # type: ignore[arg-type]


def _with_gradient(local: Tensor, group: Group, counts: list[int]) -> Tensor:
    """The rows of all ranks. They need a gradient on every rank alike, whatever this one has encoded: backward is to
    call the same collectives everywhere."""
    found: Tensor = _Gathered.apply(local.new_zeros(()).requires_grad_(), local, group, counts)  # type: ignore[no-untyped-call]
    return found


class _Gathered(torch.autograd.Function):
    """The rows `[N_rank, W]` of all ranks; the anchor only makes them need a gradient."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, local: Tensor, group: Group, counts: list[int]) -> Tensor:
        start = sum(counts[: group.rank])
        ctx.mine = slice(start, start + counts[group.rank])
        return group.gathered(local, counts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, gradient[ctx.mine], None, None


def _longer(steps: Tensor, length: int) -> Tensor:
    """`[N, T, ...]` with zeros behind, to `length` steps."""
    missing = length - steps.shape[1]
    return torch.cat([steps, steps.new_zeros(len(steps), missing, *steps.shape[2:])], 1) if missing else steps


def _as(packed: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes `[N, W]` as numbers of a type; a copy, since these have to begin where such numbers may."""
    return packed.flatten().clone().view(dtype)


def views_of(data: BatchDataset) -> list[str]:
    """Names of what batches have, by each modality's views."""
    return [view for name, m in data.modalities.items() for view in (view_names(name, m) if data.augment else [name])]


def counted(batch: Batch, views: Sequence[str]) -> list[int]:
    """Rows, columns of targets and of sets, and of each view its rows and whether one has several samples."""
    wide = [
        value.shape[1] if value is not None and value.dim() > 1 else 0 for value in (batch.targets, batch.label_sets)
    ]
    shown = [(int(batch.present[view].sum()), int("of" in batch.inputs.get(view, {}))) for view in views]
    return [len(batch), *wide, *(number for each in shown for number in each)]
