"""Rows at the places of a batch that have them, and the mean of several that are of one row."""

import torch
from torch import Tensor


def mean_of_rows(samples: Tensor, of: Tensor) -> Tensor:
    """The mean `[N, ...]` of the samples `[M, ...]` of each row; `of` `[M]` has the number of every row."""
    counts = torch.bincount(of)
    sums = samples.new_zeros(len(counts), *samples.shape[1:]).index_add(0, of, samples)
    return sums / counts.view(-1, *[1] * (samples.dim() - 1)).to(samples.dtype)


def scatter_present(rows: Tensor, here: Tensor) -> Tensor:
    """Rows `[N, ...]` at the N True places of `here`, of any shape, zeros elsewhere."""
    if len(rows) == here.numel():
        return rows.view(*here.shape, *rows.shape[1:])
    if not here.is_cpu and len(rows):  # a mask as an index would make the host wait
        place = (here.flatten().cumsum(0) - 1).clamp(min=0)
        spread = rows.index_select(0, place).view(*here.shape, *rows.shape[1:])
        return torch.where(here.view(*here.shape, *[1] * (rows.dim() - 1)), spread, 0)
    full = rows.new_zeros(*here.shape, *rows.shape[1:])
    full[here] = rows
    return full
