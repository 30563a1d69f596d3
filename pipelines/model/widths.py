"""A loss at several widths of its embeddings, the first columns of each, so that a short vector is of use by itself."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clx.losses.base import Embeddings, Loss


def first_columns(z: Embeddings, width: int) -> Embeddings:
    """The first `width` numbers of every row; `[B, D]` becomes `[B, width]`."""
    return {name: rows[..., :width] for name, rows in z.items()}


def at_widths(loss: Loss, dims: Sequence[int], z: Embeddings, given: dict[str, object]) -> Tensor:
    """The mean `[]` of a loss over widths.

    Whatever the loss is given of the embeddings' space is cut alike: negatives, keys and time steps. What it learns (a
    temperature) is one for all widths; what it remembers of rows is what the widest tells, once, and so are its counts.

    Args:
        loss: normalises the cut rows for itself, where its formula wants unit rows.
        dims: widths, ascending.
        z: `[B, D]` by name, D at least the widest.
        given: the loss's keyword arguments, made for the whole width.

    Reference:
        Kusupati et al. 2022, Matryoshka representation learning, arXiv 2205.13147, eq. 1: the sum over widths with all
        weights 1. Here it is their mean, so that a term's weight means the same with and without widths.
    """
    values, whole = [], next(iter(z.values())).shape[-1]
    guided = not isinstance(getattr(loss, "exclude", "none"), str)
    for width in dims:
        loss.remembers = width == dims[-1]
        try:
            values.append(loss(first_columns(z, width), **_cut(given, width, whole, guided)))
        finally:
            loss.remembers = True
    return torch.stack(values).mean()


def _cut(given: dict[str, object], width: int, whole: int, guided: bool) -> dict[str, object]:
    """Keys of another width than the embeddings' are of another space, which has no such columns; nor are those cut by
    which a second model only says which rows are alike."""
    cut = dict(given)
    if isinstance(keys := given.get("keys"), dict) and not guided:
        cut["keys"] = {name: rows[..., :width] if rows.shape[-1] == whole else rows for name, rows in keys.items()}
    if isinstance(negatives := given.get("negatives"), dict):
        cut["negatives"] = first_columns(negatives, width)
    if isinstance(steps := given.get("steps"), dict):
        cut["steps"] = {name: (rows[..., :width], mask) for name, (rows, mask) in steps.items()}
    return cut
