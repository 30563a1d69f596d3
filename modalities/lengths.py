"""How long rows are, known on the host also where they are on a GPU, so that nobody waits to learn it."""

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_KNOWN = WeakTensorKeyDictionary()
"""Lengths on the CPU, by the mask on a GPU that they are of; they go when it goes."""


def lengths_of(mask: Tensor) -> Tensor:
    """The last step `[N]` int64 of each row that a mask `[N, T]` keeps, from 1; 0 where it keeps none. On the CPU."""
    known: Tensor | None = _KNOWN.get(mask)
    return known if known is not None else (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1).cpu()


def remember(moved: Tensor, mask: Tensor) -> None:
    """That `moved` is this mask `[N, T]` of the CPU, on a GPU."""
    _KNOWN[moved] = lengths_of(mask)
