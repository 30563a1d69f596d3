"""What is made of a queue's rows for a query: the hardest alone, mixtures, rows moved apart, pseudo-labels."""

from collections.abc import Mapping

import torch
from torch import Tensor

from clx.losses.primitives.draws import place_of
from clx.losses.primitives.edits import Edit
from clx.losses.primitives.functional import softplus, unit


def only(kept: Tensor) -> Edit:
    """Edit that counts the pairs where `kept` `[B, K]` is True."""
    return lambda s, i, j: kept[i, j].to(s.dtype)


@torch.no_grad()
def nearest(query: Tensor, queue: Tensor, count: int, forbidden: Tensor | None) -> Tensor:
    """Numbers `[B, count]` of the rows of a queue `[K, D]` with the largest products, forbidden ones `[B, K]` last."""
    products = query @ queue.T
    if forbidden is not None:
        products = products.masked_fill(forbidden, -torch.inf)
    return products.topk(count, 1).indices


@torch.no_grad()
def hardest_of(query: Tensor, queue: Tensor, count: int, forbidden: Tensor | None) -> Edit:
    """Edit that counts of a queue the rows that are nearest to each query."""
    places = nearest(query, queue, count, forbidden)
    kept = torch.zeros(len(query), len(queue), dtype=torch.bool, device=query.device).scatter_(1, places, True)
    return only(kept if forbidden is None else kept & ~forbidden)


@torch.no_grad()
def synthetic(
    query: Tensor, queue: Tensor, forbidden: Tensor | None, mix: Mapping[str, int], generator: torch.Generator | None
) -> Tensor:
    """MoCHi's negatives of each query, `[B, S, D]`, constants: unit mixtures of two of its hardest rows, and of one of
    these with the query itself.

    They are made of rows that are not forbidden; those of a query without any are for nobody to look at.

    Reference:
        Kalantidis et al. 2020, arXiv 2010.01028. Two rows of a pair may be the same one, as in the code that is public,
        which is not the authors'.
    """
    size, top, where = len(query), mix["top"], place_of(generator, query)
    places = nearest(query, queue, top, forbidden)
    allowed = None if forbidden is None else (~forbidden).sum(1, keepdim=True).clamp(min=1)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=where, dtype=torch.float64).to(query)

    def among(count: int) -> Tensor:
        found = torch.randint(top, (size, count), generator=generator, device=where)
        found = found.to(query.device, non_blocking=True)
        return places.gather(1, found if allowed is None else found % allowed)

    made, pairs, led = [query[:, None, :][:, :0]], mix.get("pairs", 0), mix.get("with_query", 0)
    if pairs:
        made.append(mixed(queue[among(pairs)], queue[among(pairs)], drawn(size, pairs)))
    if led:
        made.append(mixed(query[:, None].expand(-1, led, -1), queue[among(led)], drawn(size, led) / 2))
    return torch.cat(made, 1)


def mixed(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Unit rows of `share a + (1 - share) b`: `[B, S, D]`, with `share` `[B, S]`."""
    rows = share[..., None] * a + (1 - share[..., None]) * b
    return unit(rows.flatten(0, 1)).view_as(rows)


def moved_apart(query: Tensor, key: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys `[B, D]` after each was moved away from the other, `share` being above 1. The moved query is
    compared with the negatives, too; the moved key has a gradient through the query's part in it.

    Reference:
        Zhu et al. 2021, arXiv 2108.02982: positive extrapolation. Neither is made a unit row again.
    """
    return share * query + (1 - share) * key, share * key + (1 - share) * query


def between(queue: Tensor, share: Tensor, order: Tensor) -> Tensor:
    """Negative interpolation: each row of a queue mixed with another, `share queue + (1 - share) queue[order]`."""
    return share * queue + (1 - share) * queue[order]


def pseudo_labelled(query: Tensor, queue: Tensor, filled: Tensor, count: int, temperature: Tensor | float) -> Tensor:
    """Binary cross-entropy `[]` of each query's similarities with the rows of a queue, of which its `count` nearest are
    called positives; the mean over queries and rows that are `filled` `[K]`.

    Reference:
        Zhu et al. 2023, arXiv 2308.03286, with one dictionary for both (its table 4: 39.8 against 40.1).
    """
    places = nearest(query, queue, count, (~filled).expand(len(query), -1))
    labels = torch.zeros(len(query), len(queue), dtype=query.dtype, device=query.device).scatter_(1, places, 1.0)
    logits = query @ queue.T / temperature
    terms = torch.where(filled, softplus(logits) - labels * logits, 0)
    return terms.sum() / (len(query) * filled.sum()).clamp(min=1)
