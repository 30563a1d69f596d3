"""Encoding a batch some rows at a time: rows of like length together, and no more of them than memory holds.

A chunk keeps nothing for backward but its input: `torch.utils.checkpoint` encodes it again there, with its own random
state, just before its gradient is taken. As each encoder's rows are its own affair, loss and gradients are those of the
whole batch at once (GradCache, Gao et al. 2021, arXiv 2101.06983), for any objective, and one backward pass gives them.
"""

import itertools
import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from clx.modalities.base import Encoder, Input
from clx.modalities.lengths import lengths_of
from clx.pipelines.system.errors import out_of_memory
from clx.pipelines.system.memory import give_back_freed

RATIOS = (1.05, 1.1, 1.15, 1.2, 1.3, 1.5, 2.0, 4.0, 16.0, math.inf)
"""Of the longest row of a group to its shortest: those that are tried."""
ON_A_GPU = 50
"""A group costs so many times more of a row's steps on a GPU: there the steps are cheap and the starts are not."""
AT_A_TIME = 1 << 22
"""Bytes of input that evaluation encodes at a time on a CPU: six pictures of 224 pixels. EfficientNet-Lite0 took more
than twice the processor time for 128 of them at once, two thirds of it the system's for memory that comes and goes."""
TRIM_EVERY = 4
"""Groups after which the C library is asked for the memory that they have freed. It keeps that between what stays, such
as the groups' results: a batch of 32 groups had 1.58 times the memory of a batch of one, with this 1.12, in 1.08 of the
time; after each group it takes 1.5 of the time."""

Encode = Callable[[Input], tuple[Tensor, ...]]
"""Results `[N, ...]` of N rows."""


def encode(
    encoder: Encoder,
    run: Encode,
    value: Input,
    chunk: int | None,
    short: Callable[[], None] | None = None,
    trimmed: bool = True,
) -> tuple[Tensor, ...]:
    """What `run` gives for all rows, in their order, computed group by group.

    Args:
        encoder: whose parameters `run` uses.
        run: applied to a part of the rows at a time.
        value: an `Input` of N rows.
        chunk: the most rows of a group. Where there are more, each group is computed again in backward.
        short: told that memory ran out, which then is no error: the result is that of rows that say nothing.
        trimmed: whether groups are of like length, and have no more steps than their longest row.
    """
    try:
        return _encode(encoder, run, value, chunk, trimmed)
    except Exception as error:
        if short is None or not out_of_memory(error):
            raise
    short()
    rows, device = len(value["x"]), value["x"].device
    nothing = torch.zeros(rows, 1, encoder.width, dtype=next(encoder.parameters()).dtype, device=device)
    return nothing[:, 0], nothing, torch.zeros(rows, 1, dtype=torch.bool, device=device)


def _encode(encoder: Encoder, run: Encode, value: Input, chunk: int | None, trimmed: bool) -> tuple[Tensor, ...]:
    if torch.compiler.is_exporting():  # a graph is of any number of rows
        return run(value)
    again = chunk is not None and len(value["x"]) > chunk and torch.is_grad_enabled()
    groups = groups_of(value, chunk or few_rows(encoder, value), encoder.group_worth if trimmed else 0)
    if len(groups) == 1:
        return run(value)
    parts = [_again(encoder, run, part) if again else run(part) for part in (taken(value, *each) for each in groups)]
    back = torch.cat([rows for rows, _ in groups]).argsort()
    return tuple(torch.cat(each)[back] for each in zip(*parts, strict=True))


def few_rows(encoder: Encoder, value: Input) -> int | None:
    """On a CPU, in evaluation, the most rows at a time: the activations of more leave its caches, and are so large that
    their memory is handed back and fetched anew at every layer."""
    x = value["x"]
    if torch.is_grad_enabled() or encoder.training or x.device.type != "cpu" or not len(x):
        return None
    return max(1, AT_A_TIME // max(1, x[0].nbytes))


def groups_of(value: Input, chunk: int | None, worth: int) -> list[tuple[Tensor, int | None]]:
    """The numbers of the rows of each group, on the rows' device, and how many steps the group has; all when None.

    Rows are sorted by length, and cut where padding would cost more than another group does.

    Args:
        value: an `Input`; without `mask` all rows are of one length.
        chunk: the most rows of a group.
        worth: how many steps of one row cost as much as a group by itself; 0 for an encoder that cannot do with fewer
            steps than the batch has, or gains nothing by it.
    """
    x, mask = value["x"], value.get("mask")
    rows = len(x)
    most = chunk or rows or 1
    if not worth or mask is None or mask.dim() != 2 or rows < 2:
        return [(part, None) for part in torch.arange(rows, device=x.device).split(most)]
    lengths, order = lengths_of(mask).sort(stable=True)
    worth *= ON_A_GPU if x.is_cuda else 1
    edges = min((edges_of(lengths, ratio, most) for ratio in RATIOS), key=lambda found: cost(lengths, found, worth))
    sizes = [b - a for a, b in itertools.pairwise(edges)]
    longest = [max(1, int(lengths[edge - 1])) for edge in edges[1:]]
    return list(zip(order.to(x.device, non_blocking=True).split(sizes), longest, strict=True))


def edges_of(lengths: Tensor, ratio: float, most: int) -> list[int]:
    """Where groups begin and end in ascending `lengths` `[N]`, whose longest is at most `ratio` times their shortest,
    of at most `most` rows. Of the rows that a `ratio` lets into a group, equal parts are made."""
    edges = [0]
    while edges[-1] < len(lengths):
        start = edges[-1]
        stop = int(torch.searchsorted(lengths, lengths[start].clamp(min=1) * ratio, right=True))
        parts = -(-(stop - start) // most)
        edges += [start + (stop - start) * k // parts for k in range(1, parts + 1)]
    return edges


def cost(lengths: Tensor, edges: list[int], worth: int) -> int:
    """Steps that groups are padded to, and `worth` for each of them."""
    return sum((b - a) * int(lengths[b - 1]) + worth for a, b in itertools.pairwise(edges))


def taken(value: Input, rows: Tensor, longest: int | None) -> Input:
    """Some rows of an `Input`, and of their steps the first `longest`."""
    if longest is None:
        return {name: tensor[rows] for name, tensor in value.items()}
    return {name: tensor[rows, :longest] for name, tensor in value.items()}


def _again(encoder: Encoder, run: Encode, part: Input) -> tuple[Tensor, ...]:
    names, raised, begun = list(part), list[Exception](), list[bool]()

    def of_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
        value = dict(zip(names, tensors, strict=True))
        if begun:
            if value["x"].is_cpu:
                _trim()
            return run(value)
        begun.append(True)
        try:
            return run(value)
        except Exception as error:  # checkpoint's hooks would stay in force as long as anything holds on to the error
            raised.append(error)
            return ()

    def contexts() -> tuple[nullcontext[None], StatisticsCounted]:
        return nullcontext(), StatisticsCounted(encoder)

    if part["x"].is_cpu:
        _trim()

    made: tuple[Tensor, ...] = checkpoint(of_tensors, *part.values(), use_reentrant=False, context_fn=contexts)
    if raised:
        raise raised.pop()
    return made


_groups = itertools.count(1)


def _trim() -> None:
    """Called before each group, forward and backward."""
    if next(_groups) % TRIM_EVERY == 0:
        give_back_freed()


class StatisticsCounted:
    """Rows that are encoded again are in the running statistics of batch norms already."""

    def __init__(self, encoder: nn.Module) -> None:
        self.norms = batch_norms(encoder)

    def __enter__(self) -> None:
        numbers = [norm.num_batches_tracked for norm in self.norms]
        self.before = [
            (norm.momentum, None if n is None else n.clone()) for norm, n in zip(self.norms, numbers, strict=True)
        ]
        for norm in self.norms:
            norm.momentum = 0.0

    def __exit__(self, *_: object) -> None:
        for norm, (momentum, number) in zip(self.norms, self.before, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and number is not None:
                norm.num_batches_tracked.copy_(number)


def batch_norms(encoder: nn.Module) -> list[_BatchNorm]:
    """Those that take the statistics of the rows that they are given: the frozen ones do not."""
    return [m for m in encoder.modules() if isinstance(m, _BatchNorm) and m.training]
