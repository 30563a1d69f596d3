"""Drawing val and test rows: whole groups of rows that share something, with every class or range of targets."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clx.pipelines.config.data_schema import Data, Fraction
from clx.pipelines.data.classes import class_of
from clx.pipelines.data.distinct import distinct
from clx.pipelines.data.draw_many import chosen_of_many
from clx.pipelines.data.groups import hanging_together, shared_keys
from clx.pipelines.data.manifest import LARGE, Manifest
from clx.pipelines.data.shared_content import Sharing, keys_of, sharing
from clx.pipelines.data.stretches import blocks, ids
from clx.pipelines.system.errors import BadInput

RANGES = 10
"""Of equally many rows, by which targets are stratified."""
Ids = NDArray[np.int64]


def draw(
    train: Manifest,
    part: Fraction,
    data: Data,
    seed: int,
    inputs: Mapping[str, bool],
    split: str = "val",
    total: int | None = None,
) -> tuple[Manifest, Manifest]:
    """Training rows without a random share, and that share; both in the order of the file.

    Args:
        inputs: columns that inputs read (see `shared_content.inputs_of`), whose content rows may share.
        split: for messages, the split whose rows are drawn.
        total: the rows that it is a share of; those of `train`, unless others were drawn from them before.

    Raises:
        BadInput: where nothing would be left on one side.
    """
    total = len(train) if total is None else total
    count = max(1, round(total * part.fraction))
    if count >= len(train):
        raise BadInput(
            f"data.{split}.fraction = {part.fraction}: a share of the {total} training rows of {train.name} "
            "leaves none to train on"
        )
    by, groups, given_up = _groups(train, part, inputs, split)
    strata, what = _strata(train, data, count) if part.stratify else (None, "")
    chosen = drawn_rows(groups, strata, count, seed)
    if not chosen.any() or chosen.all():
        raise BadInput(f"data.{split}: all {len(train)} rows of {train.name} hang together by {' and '.join(by)}")
    said = f"{100 * part.fraction:.3g} % drawn by {' and '.join(by) or 'row'}"
    said += f", stratified by {what}" if what else ""
    said += f" (by {' and '.join(given_up)} most rows would hang together)" if given_up else ""
    train = replace(train, split_from=said)
    return replace(train, rows=train.rows[~chosen]), replace(train, rows=train.rows[chosen], drawn_by=by)


def drawn_rows(groups: Ids, strata: Ids | None, count: int, seed: int) -> NDArray[np.bool_]:
    """About `count` of the rows `[N]`, whole groups of them, as evenly from the strata as may be."""
    if len(groups) > LARGE:
        return chosen_of_many(groups, strata, count, seed)
    if strata is None and len(np.unique(groups)) == len(groups):
        chosen = np.zeros(len(groups), dtype=bool)
        chosen[np.random.default_rng(seed).permutation(len(groups))[:count]] = True
        return chosen
    return _chosen(groups, np.zeros(len(groups), dtype=np.int64) if strata is None else strata, count, seed)


def with_groups(data: Data, splits: Mapping[str, Manifest]) -> Data:
    """The same with the columns by which val and test rows were drawn, so that they are drawn so again."""
    found = {}
    for split, part in (("val", data.val), ("test", data.test)):
        by = splits[split].drawn_by if split in splits else None
        if isinstance(part, Fraction) and part.by is None and by is not None:
            found[split] = part.model_copy(update={"by": list(by) or "row"})
    return data.model_copy(update=found)


def held_together(data: Data) -> list[str]:
    """Columns whose equal cells keep rows in one split, where val or test rows are drawn so."""
    given = [part.by or [] for part in (data.val, data.test) if isinstance(part, Fraction)]
    columns = [column for by in given for column in ([by] if isinstance(by, str) else by)]
    return [column for column in dict.fromkeys(columns) if column != "row"]


def _groups(train: Manifest, part: Fraction, inputs: Mapping[str, bool], split: str) -> Sharing:
    """The columns that make groups, and the group of each row."""
    if part.by is None:
        return sharing(train, inputs)
    columns = [] if part.by == "row" else [part.by] if isinstance(part.by, str) else part.by
    for column in columns:
        try:
            train.require(column)
        except BadInput as error:
            raise BadInput(f"data.{split}.by: {error}") from None
    shared = [shared_keys(keys_of(train, column)) for column in columns]
    return Sharing(tuple(columns), hanging_together(shared, len(train)))


def _strata(train: Manifest, data: Data, count: int) -> tuple[Ids | None, str]:
    """The class, or the range of the first target, of each row, and what it is called; None where there is neither."""
    if data.label_column is not None and data.label_column not in data.target and data.label_column in train.columns:
        cells, of_row = distinct(train, data.label_column)
        found, classes = np.unique(np.array([str(class_of(cell)) for cell in cells]), return_inverse=True)
        strata = classes.astype(of_row.dtype)[of_row]
        return (strata, data.label_column) if 1 < len(found) <= len(train) / 2 else (None, "")
    if data.target and data.target[0] in train.columns:
        from clx.pipelines.data.imbalance import readable_targets

        values = readable_targets(train, data.target[0])
        known = np.isfinite(values)
        some = values[:: max(1, len(values) // LARGE)]
        some = some[np.isfinite(some)]
        edges = np.quantile(some, np.linspace(0, 1, min(RANGES, count) + 1)[1:-1]) if len(some) else []
        strata = ids(len(values), len(values))
        for rows in blocks(len(values)):
            strata[rows] = np.where(known[rows], np.searchsorted(edges, values[rows]) + 1, 0)
        return strata, data.target[0]
    return None, ""


def _chosen(groups: Ids, strata: Ids, count: int, seed: int) -> NDArray[np.bool_]:
    """Rows `[N]` of groups drawn until about `count` are, as evenly from the strata as may be; never all of a stratum.

    A group is of the stratum of its first row.
    """
    _, first, groups, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(sizes))
    of_group = strata[first]
    taken = np.zeros(len(sizes), dtype=bool)
    rows = np.bincount(strata, minlength=int(strata.max()) + 1)
    exact = count * rows / rows.sum()
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: count - quota.sum()]] += 1
    left = np.bincount(of_group, minlength=len(rows))  # groups of each stratum that may still be learned from
    missing = count
    for wanted in (quota, None):  # what single groups and odd sizes leave to be drawn is drawn from all strata
        for g in order:
            s, size = of_group[g], sizes[g]
            room = missing if wanted is None else wanted[s]
            if taken[g] or left[s] < 2 or 2 * room < size:
                continue
            taken[g] = True
            left[s] -= 1
            missing -= size
            if wanted is not None:
                wanted[s] -= size
    if not taken.any() and len(sizes) > 1:  # every stratum is one group, or all groups are large
        taken[min(order, key=lambda g: sizes[g])] = True
    return taken[groups]
