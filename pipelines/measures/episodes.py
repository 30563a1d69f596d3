"""Few-shot episodes: classes that are known by a few rows each. Functions of tensors alone."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clx.pipelines.measures.transport import by_transport

UNEVEN = 4
"""Of uneven queries all classes but one have a fourth."""
AT_ONCE = 64
"""Episodes whose transport is computed together."""


class Episode(NamedTuple):
    """Rows of one episode by their numbers."""

    support: Any
    """`[C, shots]`, to know each class by."""
    queries: list[Any]
    """Of each class."""


def drawn(
    labels: Tensor, query_labels: Tensor, ways: int, shots: int, count: int, seed: int, per_class: int, even: bool
) -> Iterator[Episode]:
    """Episodes of `ways` classes, `shots` rows of each and up to `per_class` queries of each; none where no two classes
    have the examples. With `even`, each class of an episode has as many queries as the one that has fewest."""
    draw = np.random.default_rng([seed, shots])
    supports, pools = _by_class(labels), _by_class(query_labels)
    usable = sorted(c for c in supports if len(supports[c]) >= shots and c in pools)
    for _ in range(count if len(usable) > 1 else 0):
        chosen = draw.choice(len(usable), min(ways, len(usable)), replace=False)
        classes = [usable[number] for number in chosen]
        support = np.stack([draw.choice(supports[c], shots, replace=False) for c in classes])
        queries = [draw.choice(pools[c], min(per_class, len(pools[c])), replace=False) for c in classes]
        fewest = min(map(len, queries))
        yield Episode(support, [each[:fewest] for each in queries] if even else queries)


def episodes(
    x: Tensor,
    labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    *,
    ways: int,
    shots: int,
    count: int,
    seed: int,
    per_class: int = 15,
    even: bool = False,
) -> Tensor | None:
    """Accuracy of each few-shot episode, `[count]`; None when no two classes have the examples.

    A class is the mean of its unit rows, a query is of the class with the highest cosine (Snell et al. 2017, on the
    sphere). See `drawn` for what an episode is.
    """
    known, asked = F.normalize(x, dim=1), F.normalize(queries, dim=1)
    found = []
    for support, of_class in drawn(labels, query_labels, ways, shots, count, seed, per_class, even):
        prototypes = F.normalize(known[support].mean(1), dim=1)
        answers = (asked[np.concatenate(of_class)] @ prototypes.T).argmax(1)
        found.append((answers.cpu() == _truth(of_class)).double().mean())
    return torch.stack(found) if found else None


def aligned_episodes(
    x: Tensor,
    labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    *,
    ways: int,
    shots: int,
    count: int,
    seed: int,
    per_class: int = 15,
) -> tuple[Tensor, Tensor] | None:
    """As `episodes` with `even`, by transport to all queries of an episode together (see `measures/transport.py`); and
    the same where the queries are uneven, the first class having four times as many as each of the others.

    Returns:
        Two accuracies of each episode, `[count]`, `[count]`. A class that asks more counts for more in the second.
    """
    even, uneven = [], []
    every = list(drawn(labels, query_labels, ways, shots, count, seed, per_class, True))
    sizes = {len(episode.queries[0]) for episode in every}
    order = [k for size in sorted(sizes) for k, episode in enumerate(every) if len(episode.queries[0]) == size]
    blocks = [
        [every[k] for k in order if len(every[k].queries[0]) == size][start : start + AT_ONCE]
        for size in sorted(sizes)
        for start in range(0, count, AT_ONCE)
    ]
    for block in filter(None, blocks):
        few = [
            Episode(e.support, [q if k == 0 else q[: max(1, len(q) // UNEVEN)] for k, q in enumerate(e.queries)])
            for e in block
        ]
        even.append(_right(x, queries, block, shots))
        uneven.append(_right(x, queries, few, shots))
    if not even:
        return None
    back = torch.tensor(order).argsort()
    return torch.cat(even)[back], torch.cat(uneven)[back]


def _right(x: Tensor, queries: Tensor, block: list[Episode], shots: int) -> Tensor:
    """Accuracy of episodes with as many queries each, `[E]`."""
    prototypes = x[np.stack([episode.support for episode in block])].mean(2)
    asked = queries[np.stack([np.concatenate(episode.queries) for episode in block])]
    answers = by_transport(prototypes, asked, shots).cpu()
    return (answers == _truth(block[0].queries)).double().mean(1)


def _truth(queries: list[Any]) -> Tensor:
    """The class of each query of an episode."""
    return torch.arange(len(queries)).repeat_interleave(torch.tensor([len(each) for each in queries]))


def _by_class(labels: Tensor) -> dict[int, Any]:
    """Row numbers of each class."""
    array = labels.cpu().numpy()
    order = np.argsort(array, kind="stable")
    values, starts = np.unique(array[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:]), strict=True))
