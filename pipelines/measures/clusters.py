"""Clusters of unit rows, by k-means on the sphere. Functions of tensors alone."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

ROUNDS = 25
"""Of Lloyd's algorithm, at most."""
SPREAD = 1024
"""Centres up to which the first ones are drawn apart from each other: each costs a look at all rows."""
TRIES = 4
"""Rows of which the next first centre is that which leaves the others nearest to one."""
TILE = 1 << 14


def centres_of(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Centres `[count, D]`, unit rows, of unit rows `[N, D]`: each is the direction of the sum of the rows that are
    nearest to it (Dhillon & Modha 2001, "Concept decompositions for large sparse text data using clustering").

    The first ones are rows drawn one after the other, each with a chance that grows with the square of its distance
    from those before, the best of a few draws (Arthur & Vassilvitskii 2007, "k-means++"), of more than `SPREAD` just
    different rows. A cluster that lost all its rows begins anew at the row that is furthest from its centre.

    Raises `ValueError` for more clusters than rows.
    """
    if not 1 <= count <= len(rows):
        raise ValueError(f"{count} clusters of {len(rows)} rows")
    centres = _first(rows, count, generator)
    before: Tensor | None = None
    for _ in range(ROUNDS):
        [(nearest, near)] = assign([rows], centres)
        nearest, near = nearest[:, 0], near[:, 0]
        if before is not None and torch.equal(nearest, before):
            break
        before = nearest
        sums = torch.zeros(count, rows.shape[1], dtype=torch.float64)
        sums.index_add_(0, nearest.cpu(), rows.cpu().double())
        empty = (torch.bincount(nearest.cpu(), minlength=count) == 0).nonzero().flatten()
        lonely = near.cpu().argsort(stable=True)[: len(empty)]
        sums[empty] = rows.cpu()[lonely].double()
        centres = F.normalize(sums, dim=1).to(rows)
    return centres


def _first(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    if count > SPREAD:
        return rows[torch.randperm(len(rows), generator=generator)[:count].to(rows.device)]
    chosen = [int(torch.randint(len(rows), (), generator=generator))]
    far = torch.full((len(rows),), torch.inf, dtype=torch.float64)
    for _ in range(count - 1):
        # the squared distance of unit rows is twice 1 less their cosine
        far = far.minimum((1 - rows @ rows[chosen[-1]]).clamp(min=0).cpu().double())
        far[chosen[-1]] = 0
        total = far.cumsum(0)
        if total[-1] > 0:
            drawn = torch.rand(TRIES, generator=generator, dtype=torch.float64) * total[-1]
            tried = torch.searchsorted(total, drawn, right=True).clamp(max=len(rows) - 1)
            apart = (1 - rows @ rows[tried.to(rows.device)].T).clamp(min=0).cpu().double()
            chosen.append(int(tried[far[:, None].minimum(apart).sum(0).argmin()]))
        else:  # no further row differs from the chosen ones
            chosen.append(int(torch.randint(len(rows), (), generator=generator)))
    return rows[torch.tensor(chosen, device=rows.device)]


def assign(blocks: Iterable[Tensor], centres: Tensor, several: int = 1) -> list[tuple[Tensor, Tensor]]:
    """For each block of unit rows `[n, D]` the numbers of the `several` nearest centres `[n, several]`, nearest first,
    and their cosines."""
    found = []
    for rows in blocks:
        parts = [(part @ centres.T).topk(several, dim=1) for part in rows.split(TILE)]
        found.append((torch.cat([p.indices for p in parts]), torch.cat([p.values for p in parts])))
    return found
