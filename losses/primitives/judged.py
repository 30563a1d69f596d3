"""Which rows are no negatives of each other, by the cosine of what another model, a guide, makes of them."""

import math

import torch
from torch import Tensor

from clx.losses.primitives.edits import Edit, off_diagonal, off_items
from clx.losses.primitives.tiles import even_slices

SLACK = 1e-6
"""Cosines this little below a limit count as at it: so equal rows are judged alike however tiles round them."""
PAIRS = 1 << 18
"""About so many pairs tell a quantile; of more, those of evenly spread rows with all others are taken."""


class Judged:
    """Pairs of rows whose guide cosine is at a limit or above; it takes the place of ids `[B]`, and is an `Edit`.

    As an edit it leaves out these pairs, and those of one item. `left` `[N, E]` are the guide's unit rows of the rows
    and `right` `[M, E]` of the columns; `limit` is one `[]`, or one for each row `[N]`. With `both_ways` a pair counts
    as alike by the lower limit of its two rows, so that it is the same from either side.
    """

    def __init__(
        self, left: Tensor, right: Tensor, limit: Tensor, own: Edit | None = off_diagonal, both_ways: bool = False
    ) -> None:
        self.left, self.right, self.limit, self.own, self.both_ways = left, right, limit, own, both_ways

    def alike(self, i: slice, j: slice) -> Tensor:
        """Of a tile `[b, m]`, which pairs are no negatives of each other."""
        limit = self.limit
        if limit.dim():
            limit = torch.minimum(limit[i, None], limit[j]) if self.both_ways else limit[i, None]
        return self.left[i] @ self.right[j].T >= limit - SLACK

    def __call__(self, s: Tensor, i: slice, j: slice) -> Tensor | None:
        out = self.alike(i, j)
        if self.own is not None:
            self.own(s, i, j)
        if s.is_cuda:
            s.masked_fill_(out, -math.inf)
            return None
        return (~out).to(s.dtype)

    def out(self, s: Tensor, rows: slice) -> Tensor:
        """Which pairs of a block `[b, M]` with all columns are of one row or alike."""
        out = self.alike(rows, slice(0, s.shape[1]))
        place = torch.arange(s.shape[1], device=s.device)
        return out if self.own is None else out | (place == place[rows, None])

    def from_either(self) -> "Judged":
        """The same from both sides."""
        return Judged(self.left, self.right, self.limit, self.own, both_ways=True)

    def between(self, left: Tensor, right: Tensor, own: Edit | None = off_diagonal) -> "Judged":
        """Of other rows by the limits of the same anchors."""
        return Judged(left, right, self.limit, own)

    def stacked(self) -> "Judged":
        """Of the rows `[x; y]` among themselves."""
        z = torch.cat([self.left, self.right])
        limit = self.limit.repeat(2) if self.limit.dim() else self.limit
        return Judged(z, z, limit, off_items(len(self.left)), both_ways=True)

    def counts(self) -> Tensor:
        """Of `stacked` rows `[2B]`, how many others of other items are negatives of each, int64."""
        size, found = len(self.left), []
        every, place = slice(0, size), torch.arange(size, device=self.left.device) % (size // 2)
        for rows in even_slices(size, max(1, (1 << 20) // max(1, size))):
            found.append((~self.alike(rows, every) & (place[rows, None] != place)).sum(1))
        return torch.cat(found)


def above_quantile(left: Tensor, right: Tensor, quantile: float) -> Tensor:
    """The quantile `[]` of the cosines of unit rows `[N, E]` of different items; infinite without two items.

    Up to 512 rows of all pairs, of more of those of evenly spread rows with all others.
    """
    size = len(left)
    if size < 2:
        return left.new_full((), math.inf)
    step = max(1, size * size // PAIRS)
    rows = torch.arange(0, size, step, device=left.device)
    cosines = left[rows] @ right.T
    others = torch.ones_like(cosines, dtype=torch.bool)
    others[torch.arange(len(rows), device=left.device), rows] = False
    # as many are kept in each row, so their number is known without a look at the mask
    where = others.byte().argsort(dim=1, descending=True, stable=True)[:, : size - 1]
    return torch.quantile(cosines.gather(1, where).flatten(), quantile)
