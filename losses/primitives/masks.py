"""Rows chosen by masks, and means over them, for which the host waits for a GPU once or not at all."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def chosen(masks: Sequence[Tensor]) -> list[Tensor]:
    """Numbers of the rows that each mask `[B]` keeps, in order; how many they are is read once for all masks."""
    if masks[0].is_cpu:
        return [mask.nonzero()[:, 0] for mask in masks]
    stacked = torch.stack(list(masks))
    order = (~stacked).byte().argsort(dim=1, stable=True)
    return [row[:count] for row, count in zip(order, stacked.sum(1).tolist(), strict=True)]


def all_known(x: Tensor) -> bool:
    """Whether there is no NaN, where a look takes less time than masks: on a CPU; False elsewhere and of none."""
    return x.is_cpu and x.numel() > 0 and not math.isnan(x.sum().item())


def mean_where(mask: Tensor, terms: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of the terms that the mask keeps, each times its weight if given, over their number; 0 of none.

    The others may hold what they like but NaN or infinity, whose gradient would be NaN.
    """
    terms = terms if weights is None else terms * weights.to(terms.dtype)
    return torch.where(mask, terms, 0).sum() / mask.sum().clamp(min=1)


def group_sizes(ids: Tensor) -> tuple[Tensor, Tensor]:
    """For each of `[N]`, how many have its id, and a number below N that those of its id share; both `[N]`."""
    ordered = ids.sort().values
    first = torch.searchsorted(ordered, ids)
    return torch.searchsorted(ordered, ids, right=True) - first, first


def stack_present(z: Mapping[str, Tensor], present: Mapping[str, Tensor] | None) -> tuple[Tensor, Tensor]:
    """The present rows of all names, concatenated `[N, D]`, and the number of each row's item `[N]`."""
    first, several = next(iter(z.values())), len(z) > 1
    items = torch.arange(len(first), device=first.device)
    items, rows = (items.repeat(len(z)), torch.cat(list(z.values()))) if several else (items, first)
    if present is None:
        return rows, items
    mask = torch.cat([present[name] for name in z])
    if mask.is_cpu and bool(mask.all()):
        return rows, items
    (there,) = chosen([mask])
    return rows[there], items[there]
