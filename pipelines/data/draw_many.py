"""Drawing rows of very many: groups in a computed order, block by block, nothing held but 32 bits a row."""

import numpy as np
from numpy.typing import NDArray

from clx.pipelines.data.groups import sizes_of
from clx.pipelines.data.permutation import Permutation
from clx.pipelines.data.stretches import blocks, ids

BLOCK = 1 << 18
Ids = NDArray[np.int64]


def chosen_of_many(groups: Ids, strata: Ids | None, count: int, seed: int) -> NDArray[np.bool_]:
    """Rows `[N]` of groups drawn until about `count` are, each stratum by its share; never all of a stratum.

    Args:
        groups: `[N]`, numbered from 0 on in the order of their first rows.
        strata: `[N]`, of which a group has that of its first row; None for one.
    """
    number = int(groups.max()) + 1
    sizes = sizes_of(groups, number)
    of_group = np.zeros(1, dtype=np.int64) if strata is None else _of_first_rows(groups, strata, number)
    kinds = int(of_group.max()) + 1
    rows = np.zeros(kinds, dtype=np.int64) if strata is not None else np.array([len(groups)])
    left = np.zeros(kinds, dtype=np.int64) if strata is not None else np.array([number])
    for block in blocks(number) if strata is not None else ():
        rows += np.bincount(of_group[block], sizes[block], minlength=kinds).astype(np.int64)
        left += np.bincount(of_group[block], minlength=kinds)
    exact = count * rows / rows.sum()
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: count - quota.sum()]] += 1
    taken, order = np.zeros(number, dtype=bool), Permutation(number, [seed, 6])
    for start in range(0, number, BLOCK):
        some = order.stretch(start, min(start + BLOCK, number))
        kind = of_group[some] if strata is not None else np.zeros(len(some), dtype=np.int64)
        by_kind = np.argsort(kind, kind="stable")
        some, kind = some[by_kind], kind[by_kind]
        first = np.searchsorted(kind, np.arange(kinds))
        size = sizes[some].astype(np.int64)
        before = np.cumsum(size) - size  # rows, and groups, of the same stratum ahead in this block
        before -= before[np.minimum(first, len(some) - 1)][kind]
        ahead = np.arange(len(some)) - first[kind]
        here = (2 * (quota[kind] - before) >= size) & (ahead < left[kind] - 1)
        taken[some[here]] = True
        quota -= np.bincount(kind[here], size[here], minlength=kinds).astype(np.int64)
        left -= np.bincount(kind[here], minlength=kinds)
        if (quota <= 0).all():
            break
    found = np.empty(len(groups), dtype=bool)
    for block in blocks(len(groups)):
        found[block] = taken[groups[block]]
    return found


def _of_first_rows(groups: Ids, strata: Ids, number: int) -> Ids:
    """The stratum of each group."""
    found = ids(number, int(strata.max()))
    for block in reversed(list(blocks(len(groups)))):
        found[groups[block][::-1]] = strata[block][::-1]
    return found
