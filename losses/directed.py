"""Which rows meet in losses where each name in turn is to tell what a target of another says of the same items."""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from clx.losses.base import Embeddings, require_two_inputs
from clx.losses.primitives.masks import chosen

Rows = Tensor | slice


class Way(NamedTuple):
    """From one name to another, on the items that have both."""

    start: str
    end: str
    rows: Rows
    """Of the batch."""
    of_start: Rows
    """The same among the rows that have `start`."""


def in_turn(z: Embeddings, present: Mapping[str, Tensor] | None, fewest: int = 1) -> tuple[dict[str, Rows], list[Way]]:
    """The rows of the batch that have each name, and the ordered pairs of names with at least `fewest` common rows.

    Raises:
        ValueError: if there are fewer than two names.
    """
    require_two_inputs(z)
    pairs, every = list(itertools.permutations(z, 2)), slice(None)
    if present is None:
        enough = len(next(iter(z.values()))) >= fewest
        return dict.fromkeys(z, every), [Way(a, b, every, every) for a, b in pairs if enough]
    found = chosen([*(present[name] for name in z), *(present[a] & present[b] for a, b in pairs)])
    place = {name: present[name].cumsum(0) - 1 for name in z}
    there: dict[str, Rows] = dict(zip(z, found, strict=False))
    both = zip(pairs, found[len(z) :], strict=True)
    return there, [Way(a, b, rows, place[a][rows]) for (a, b), rows in both if len(rows) >= fewest]
