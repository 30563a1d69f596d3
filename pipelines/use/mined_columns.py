"""What is mined of the rows of a split, as numbers of rows, and how such columns are written beside the others."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clx.pipelines.data.arrow_types import decoded, is_bytes, is_list
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.writers import writer
from clx.pipelines.system.errors import BadInput
from clx.pipelines.use.known_alike import Ints

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 1 << 12
"""Rows that are written at a time."""
PLAIN = (str, int, float, bool, type(None))


def check_table(manifest: Manifest, out: Path, added: Sequence[str], replaced: str | None = None) -> None:
    """Raise `BadInput` where a column that is added is there already, but for `replaced`, or the format of `out` cannot
    hold one."""
    taken = [name for name in added if name in manifest.columns and name != replaced]
    if taken:
        raise BadInput(f"{manifest.name} has a column {taken[0]!r} already: mine the file that it was made of")
    if out.suffix == ".parquet":
        return
    import pyarrow.types as types

    for field in manifest.table.schema:
        kind = decoded(field.type)
        kind = kind.value_type if is_list(kind) else kind
        if is_bytes(kind) or types.is_struct(kind):
            raise BadInput(f"--out {out}: column {field.name!r} holds {kind}, which only .parquet can")


def write(
    out: Path,
    manifest: Manifest,
    kept: Ints,
    cells: Mapping[str, tuple[str, Ints]],
    values: Mapping[str, NDArray[Any]],
    *,
    read: Sequence[str],
    overwrite: bool,
) -> None:
    """Write rows of a manifest with further columns.

    Args:
        kept: the rows, by their places in the manifest.
        cells: columns that copy cells, by name: of which column, and of which row of the table for each row of the
            manifest, -1 for an empty cell.
        values: columns of numbers or texts, by name, one for each row of the manifest.
        read: the file that the rows are of, which is not replaced.
    """
    import pyarrow as pa

    schema = manifest.table.schema.remove_metadata()
    fields = [pa.field(field.name, decoded(field.type)) for field in schema if field.name not in values]
    fields += [pa.field(name, decoded(schema.field(column).type)) for name, (column, _) in cells.items()]
    fields += [pa.field(name, pa.string() if each.dtype == object else pa.int64()) for name, each in values.items()]
    with writer(out, pa.schema(fields), read, overwrite=overwrite) as put:
        for block in _blocks(manifest, kept, cells, values):
            put(block.to_pylist() if out.suffix == ".parquet" else [_spoken(line, out) for line in block.to_pylist()])


def _blocks(
    manifest: Manifest, kept: Ints, cells: Mapping[str, tuple[str, Ints]], values: Mapping[str, NDArray[Any]]
) -> "Iterator[pa.Table]":
    import pyarrow as pa

    for start in range(0, len(kept), BLOCK):
        places = kept[start : start + BLOCK]
        rows = manifest.rows[places].astype(np.int64)
        columns = {n: _taken(manifest.table.column(n), rows) for n in manifest.columns if n not in values}
        columns |= {name: _taken(manifest.table.column(column), of[places]) for name, (column, of) in cells.items()}
        yield pa.table(columns | {name: pa.array(each[places]) for name, each in values.items()})


def _taken(cells: "pa.ChunkedArray", rows: Ints) -> "pa.ChunkedArray":
    """Cells at rows of a table, null at -1; a dictionary's as what they stand for."""
    import pyarrow as pa

    found = cells.take(pa.array(rows, mask=rows < 0))
    return found.cast(decoded(found.type))


def _spoken(line: dict[str, Any], out: Path) -> dict[str, Any]:
    """Cells as CSV and JSON can hold them: lists of a CSV file are JSON, dates text."""

    def told(value: Any) -> Any:
        if isinstance(value, list):
            return [told(one) for one in value]
        return value if isinstance(value, PLAIN) else str(value)

    said = {name: told(value) for name, value in line.items()}
    if out.suffix == ".jsonl":
        return said
    return {name: json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v for name, v in said.items()}
