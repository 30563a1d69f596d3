"""Rows that hang together by equal keys, for ten million rows too: in 32 bits a row and by blocks of rows."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from clx.pipelines.data.stretches import blocks, ids

Keys = NDArray[np.int64]
PARTS = 16
"""Of the range of keys, looked at one after the other where there are many."""


def shared_keys(keys: Keys) -> Keys:
    """A number per row `[N]` from 0 on, equal for rows of equal keys; -1 where no other row has the key, or it is 0."""
    found = ids(len(keys), len(keys))
    found[:] = -1
    parts, first = PARTS if len(keys) >= 1 << 16 else 1, 0
    for part in range(parts):
        at = _of_part(keys, part, parts)
        _, numbers, counts = np.unique(keys[at], return_inverse=True, return_counts=True)
        twice = counts > 1
        new = np.where(twice, np.cumsum(twice) - 1 + first, -1)
        found[at] = new[numbers]
        first += int(twice.sum())
    return found


def _of_part(keys: Keys, part: int, parts: int) -> NDArray[np.int64]:
    """The rows whose keys are in a part of the range, and are not 0."""
    if parts == 1:
        return np.flatnonzero(keys)
    # keys are hashes: their lowest bits are even
    return np.concatenate(
        [
            np.flatnonzero((keys[block] & (parts - 1) == part) & (keys[block] != 0)).astype(np.int32) + block.start
            for block in blocks(len(keys))
        ]
    )


def components(keys: Sequence[Keys], rows: int) -> NDArray[np.int64]:
    """Numbers `[N]`, equal for rows that hang together by equal keys, directly or by others, from 0 on in the order of
    their first rows; missing keys join none."""
    return hanging_together([shared_keys(each) for each in keys], rows)


def hanging_together(shared: Sequence[Keys], rows: int) -> NDArray[np.int64]:
    """The same from what `shared_keys` gives for each column."""
    counts = [int(each.max(initial=-1)) + 1 for each in shared]
    starts = np.cumsum([0, *counts]).tolist()
    things = _joined(shared, starts)
    group, own = ids(rows, starts[-1] + rows), starts[-1]
    for block in blocks(rows):
        found = np.full(block.stop - block.start, -1, dtype=np.int64)
        for each, start in zip(shared, starts, strict=False):
            found = np.where((found < 0) & (each[block] >= 0), each[block] + start, found)
        known = found >= 0
        found[known] = things[found[known]]
        found[~known] = own + np.arange(int((~known).sum()))
        own += int((~known).sum())
        group[block] = found
    return _by_first_row(group, own)


def _joined(shared: Sequence[Keys], starts: list[int]) -> NDArray[np.int64]:
    """For each thing that rows share the least of those it hangs together with: a row joins the things that it has."""
    least = ids(starts[-1], starts[-1])
    least[:] = np.arange(starts[-1])
    if len(shared) < 2:
        return least
    rows = len(shared[0])
    while True:  # joined ends are looked up anew until nothing changes: about log2 of the longest chain
        changed = False
        for block in blocks(rows):
            ends = [np.where(e[block] >= 0, e[block] + s, -1) for e, s in zip(shared, starts, strict=False)]
            for k, (one, other) in enumerate(pairwise(ends)):
                if k:  # the nearest column before that the row has
                    one = ends[k] = np.where(one >= 0, one, ends[k - 1])
                both = (one >= 0) & (other >= 0)
                a, b = least[one[both]], least[other[both]]
                apart = a != b
                if apart.any():
                    changed = True
                    np.minimum.at(least, np.maximum(a[apart], b[apart]), np.minimum(a[apart], b[apart]))
                    _shorten(least)
        if not changed:
            return least


def _shorten(least: NDArray[np.int64]) -> None:
    """Each thing points to the end of its chain."""
    while True:
        changed = False
        for block in blocks(len(least)):
            further = least[least[block]]
            changed = changed or bool((further != least[block]).any())
            least[block] = further
        if not changed:
            return


def _by_first_row(group: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The groups `[N]`, numbers below `count`, numbered in the order of their first rows; in place."""
    rows, first = len(group), ids(count, count)
    first[:] = rows
    for block in reversed(list(blocks(rows))):
        first[group[block][::-1]] = np.arange(block.stop - 1, block.start - 1, -1)
    begins = np.zeros(rows + 1, dtype=bool)
    begins[first] = True
    begins[rows] = False
    rank = ids(rows + 1, rows)
    np.cumsum(begins, out=rank, dtype=rank.dtype)
    for block in blocks(rows):
        group[block] = rank[first[group[block]]] - 1
    return group


def sizes_of(groups: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Rows of each of `count` groups."""
    found = ids(count, len(groups))
    found[:] = 0
    for block in blocks(len(groups)):
        np.add.at(found, groups[block], 1)
    return found
