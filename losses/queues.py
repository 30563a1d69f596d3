"""Queues of embeddings of earlier batches, as buffers of the losses that keep them: saved, and put back with a step."""

import torch
from torch import Tensor, nn

from clx.losses.base import Exclude
from clx.losses.primitives.functional import unit

NOBODY = -1
"""The id of a place that no row has been written to."""


class Queue(nn.Module):
    """The newest `size` rows that were put in, first in first out.

    It begins with random unit rows, as that of MoCo does, which are negatives like any other.
    """

    rows: Tensor
    """`[size, D]`."""
    ids: Tensor
    """`[size]` int64 of each row, `NOBODY` where none was put in yet."""
    at: Tensor
    """`[]` int64: the place of the oldest row, which is overwritten next."""

    def __init__(self, size: int, dim: int) -> None:
        """Drawn from torch's global generator."""
        super().__init__()
        self.register_buffer("rows", unit(torch.randn(size, dim)))
        self.register_buffer("ids", torch.full((size,), NOBODY))
        self.register_buffer("at", torch.tensor(0))

    @torch.no_grad()
    def put(self, rows: Tensor, ids: Tensor) -> Tensor:
        """Overwrite the oldest by rows `[N, W]`, W at most D, of these ids `[N]`; the places `[N]` that they took.

        Of more rows than there are places the last are kept.
        """
        size = len(self.rows)
        rows, ids = rows[-size:], ids[-size:]
        places = (self.at + torch.arange(len(rows), device=self.at.device)) % size
        self.rows[places] = nn.functional.pad(rows.to(self.rows.dtype), (0, self.rows.shape[1] - rows.shape[1]))
        self.ids[places] = ids
        self.at.copy_((self.at + len(rows)) % size)
        return places

    @property
    def full(self) -> Tensor:
        """`[]` bool, whether a row was put into each place."""
        return (self.ids != NOBODY).all()

    def now(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Rows `[size, W]` of the width and type of `like`, and ids, as copies: what is put in later is not in them."""
        return self.rows[:, : like.shape[1]].to(like.dtype, copy=True), self.ids.clone()


def lasting_ids(
    exclude: Exclude, sample_id: Tensor, labels: Tensor | None = None, repeats: Tensor | None = None
) -> Tensor | None:
    """Ids `[B]` that mean the same in every batch, by which rows of a queue are no negatives; None for `none`.

    With `repeats` the row's own number where no two rows of the data share a content. A row without a label has an id
    of its own.

    Raises:
        ValueError: if the batch has no labels and they are asked for.
    """
    if exclude == "none":
        return None
    if exclude == "labels":
        if labels is None:
            raise ValueError("exclude is 'labels', but the batch has no labels")
        return torch.where(labels < 0, NOBODY - 1 - sample_id, labels)
    return sample_id if exclude == "sample_id" or repeats is None else repeats
