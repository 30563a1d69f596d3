"""Several sources to train on as one table: their rows one after the other, by split, and what shares make of them."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from clx.pipelines.config.data_schema import Data
from clx.pipelines.data.arrow_types import decoded, in_words, is_text
from clx.pipelines.data.folder_tables import together
from clx.pipelines.data.manifest import LARGE, Manifest, all_rows
from clx.pipelines.system.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa


def joined(found: Mapping[str, Mapping[str, Manifest]]) -> dict[str, Manifest]:
    """The rows of all sources by split, from the splits of each by its name.

    Columns go by their names: what one source lacks is missing in its rows, and noted, and numbers become text where
    another source has text. Raises `BadInput` for columns of other kinds that do not go together.
    """
    splits = [s for s in ("train", "val", "test") if any(s in parts for parts in found.values())]
    return {split: _joined({name: parts[split] for name, parts in found.items() if split in parts}) for split in splits}


def _joined(found: Mapping[str, Manifest]) -> Manifest:
    manifests = list(found.values())
    tables, notes = _alike({name: manifest.table for name, manifest in found.items()})
    table, lacking = together(list(found), tables, "data.train")
    notes += [f"{note}: it is missing there" for note in lacking]
    starts = np.cumsum([0, *(one.table.num_rows for one in manifests)])
    kind = all_rows(table.num_rows).dtype if table.num_rows > LARGE else np.dtype(np.int64)
    rows = np.concatenate([(one.rows + start).astype(kind) for one, start in zip(manifests, starts, strict=False)])
    said = {name: one.split_from for name, one in found.items() if one.split_from}
    same = len(set(said.values())) == 1 and len(said) == len(found)
    return Manifest(
        " + ".join(one.name for one in manifests),
        manifests[0].root,
        table,
        rows,
        allow_outside=manifests[0].allow_outside,
        left_out=tuple(each for one in manifests for each in one.left_out),
        written={column: how for one in manifests for column, how in one.written.items()},
        split_from=manifests[0].split_from if same else "; ".join(f"{n}: {how}" for n, how in said.items()) or None,
        parts=tuple(part for one in manifests for part in one.parts or [without_rows(one)]),
        notes=tuple(dict.fromkeys([*(note for one in manifests for note in one.notes), *notes])),
    )


def without_rows(one: Manifest) -> Manifest:
    """What says where the rows of a source are from."""
    return replace(one, rows=one.rows[:0], notes=(), left_out=())


def _alike(tables: Mapping[str, "pa.Table"]) -> tuple[list["pa.Table"], list[str]]:
    """The tables with numbers as text where another one has text in that column, and what was so changed, in words."""
    import pyarrow as pa

    notes, made = [], dict(tables)
    for column in dict.fromkeys(column for table in tables.values() for column in table.column_names):
        kinds = {name: decoded(t.schema.field(column).type) for name, t in tables.items() if column in t.column_names}
        texts = [name for name, kind in kinds.items() if is_text(kind)]
        for name, kind in kinds.items() if texts else ():
            if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
                place = made[name].column_names.index(column)
                cells = made[name].column(column).cast(pa.string())
                made[name] = made[name].set_column(place, column, cells)
                notes.append(f"{name}: column {column!r} holds {in_words(kind)}, read as text as in {texts[0]}")
    return list(made.values()), notes


def with_shares(train: Manifest, data: Data) -> Manifest:
    """The training rows with notes on how many are of each source, and on what an epoch is where they have shares.

    Raises `BadInput` for a source with a share and without training rows.
    """
    counts = [part.stop - part.start for part in train.part_rows()]
    if not data.shares:
        said = ", ".join(f"{count} of {part.name}" for count, part in zip(counts, train.parts, strict=True))
        return replace(train, notes=(*train.notes, f"training rows: {said}, each once an epoch"))
    if len(counts) < len(data.sources) or not all(counts):
        known = [part.name for part, count in zip(train.parts, counts, strict=True) if count]
        raise BadInput(f"data.train: a source with a share has no training rows; those of {', '.join(known)} have")
    return replace(train, notes=(*train.notes, *_shares(train, counts, data.shares)))


def _shares(train: Manifest, counts: Iterable[int], shares: list[float]) -> Iterable[str]:
    rows = len(train)
    for part, count, share in zip(train.parts, counts, shares, strict=True):
        of_all = share / sum(shares)
        passes = f"{of_all * rows / count:.3g} times over its {count} rows"
        yield f"{part.name}: {100 * of_all:.3g} % of the rows of a step; an epoch of {rows} rows goes {passes}"
