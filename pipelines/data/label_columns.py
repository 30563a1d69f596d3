"""Labels that are columns of their own: their cells say of each row which apply, which do not, and which nobody knows.

Two columns are made where a source is opened, lists of names: `labels`, those that apply, and `absent_labels`, those
known not to. A label in neither is not known of a row, also where its source has no such column.
"""

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clx.modalities.numbers import class_name
from clx.pipelines.config.data_schema import ABSENT_LABELS, LABELS, Data, Reading, cell_name
from clx.pipelines.data.arrow_types import in_words
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.mapped import release
from clx.pipelines.data.stretches import blocks, pieces
from clx.pipelines.data.windows import refuse_own_columns
from clx.pipelines.system.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

READINGS: dict[str, Reading] = {
    **dict.fromkeys(("1", "true", "yes"), "present"),
    **dict.fromkeys(("0", "false", "no"), "absent"),
    "": "unknown",
}
CODES: dict[Reading, int] = {"unknown": 0, "present": 1, "absent": 2}
NAMED = 6
"""Columns in a line."""


def matching(patterns: Iterable[str], columns: Sequence[str]) -> list[str]:
    """Those of `columns` that any of the patterns names, each once, in the order of the patterns."""
    found = (c for each in patterns for c in ([each] if each in columns else fnmatch.filter(columns, each)))
    return [column for column in dict.fromkeys(found) if column not in (LABELS, ABSENT_LABELS)]


def label_columns(data: Data, columns: Sequence[str]) -> list[str]:
    """Those of `columns` that `data.label` lists."""
    return matching(data.label, columns) if isinstance(data.label, list) else []


def answer_columns(data: Data, columns: Sequence[str]) -> list[str]:
    """Those of `columns` that tell the label of a row: `data.label`, or all that it lists and what is made of them."""
    if not isinstance(data.label, list):
        return [column for column in columns if column == data.label]
    return [*label_columns(data, columns), *(made for made in (LABELS, ABSENT_LABELS) if made in columns)]


def require_label_columns(data: Data, manifest: Manifest) -> None:
    """Raise `BadInput` for a column or pattern of `data.label` that training rows lack."""
    own = [column for column in manifest.columns if column not in (LABELS, ABSENT_LABELS)]
    for each in data.label if isinstance(data.label, list) else ():
        if not matching([each], own):
            try:
                replace(manifest, table=manifest.table.select(own)).require(each)
            except BadInput as error:
                raise BadInput(f"data.label: {error}") from None


def wholly_known(data: Data, manifest: Manifest) -> int:
    """Of how many rows it is known of every label whether it applies."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if ABSENT_LABELS not in manifest.columns:
        return len(manifest)
    known = np.zeros(len(manifest), dtype=np.int64)
    for column in (LABELS, ABSENT_LABELS):
        for rows, piece in pieces(manifest, column):
            known[rows] += pc.fill_null(pc.list_value_length(piece).cast(pa.int64()), 0).to_numpy()
    return int((known == len(label_columns(data, manifest.columns))).sum())


def names_of(data: Data, columns: Sequence[str]) -> list[str]:
    """The names of the labels that are columns, sorted, as classes are."""
    return sorted(str(class_name(column)) for column in label_columns(data, columns))


def with_labels(manifest: Manifest, data: Data) -> Manifest:
    """The same with `labels` and `absent_labels`, where it has columns that `data.label` lists.

    Of a row without a known label both are missing. Raises `BadInput`, naming row and column, for a cell that says
    nothing that is known here, and for one that may be read in two ways.
    """
    columns = label_columns(data, manifest.columns)
    if not columns:
        return manifest
    for column in manifest.columns:
        refuse_own_columns(manifest, column, (LABELS, ABSENT_LABELS), "data.label, a list,")
    names = _names(manifest, columns)
    codes = np.stack([_codes(manifest, column, data) for column in columns], 1)
    known = np.asarray((codes > 0).any(1))
    made = {name: _listed(codes, code, names, known) for name, code in ((LABELS, 1), (ABSENT_LABELS, 2))}
    table = manifest.table
    for name, cells in made.items():
        table = table.append_column(name, cells)
    return replace(manifest, table=table, notes=(*manifest.notes, _said(manifest, columns, codes[manifest.rows])))


def without_made(manifest: Manifest, data: Data) -> Manifest:
    """The same with the columns that its file has, less those that `with_labels` made."""
    if not isinstance(data.label, list):
        return manifest
    made = [name for name in (LABELS, ABSENT_LABELS) if name in manifest.columns]
    return replace(manifest, table=manifest.table.drop_columns(made))


def _said(manifest: Manifest, columns: Sequence[str], codes: NDArray[np.int8]) -> str:
    """What was understood of the cells, in words."""
    present, absent = int((codes == 1).sum()), int((codes == 2).sum())
    known, total = present + absent, codes.size
    rows = int((codes == 0).all(1).sum())
    none = f"; {rows} rows without any that is known" if rows else ""
    never = [column for column, there in zip(columns, (codes == 1).any(0), strict=True) if not there]
    none += f"; no cell says that {_few(never)} applies" if never else ""
    share = f"{100 * present / known:.3g} % of the known cells say that a label applies" if known else "none is known"
    cells = f"{total - known} of {total} cells unknown"
    return f"{manifest.name}: {len(columns)} labels from columns {_few(columns)}: {cells}, {share}{none}"


def _few(columns: Sequence[str]) -> str:
    return ", ".join(columns[:NAMED]) + (f" and {len(columns) - NAMED} more" if len(columns) > NAMED else "")


def _names(manifest: Manifest, columns: Sequence[str]) -> list[str]:
    """What the labels are called. Raises `BadInput` where two are called alike, or one like a missing label."""
    found: dict[str, str] = {}
    for column in columns:
        name = class_name(column)
        if name is None:
            raise BadInput(f"{manifest.name}: the label column {column!r} reads as a missing label: rename it")
        if name in found:
            raise BadInput(f"{manifest.name}: the label columns {found[name]!r} and {column!r} are both {name!r}")
        found[name] = column
    return list(found)


def _codes(manifest: Manifest, column: str, data: Data) -> NDArray[np.int8]:
    """What each cell of a column of the table says `[N]`: 0 for unknown, 1 for present, 2 for absent."""
    import pyarrow as pa
    import pyarrow.compute as pc

    readings = READINGS | data.label_cells
    cells = manifest.table.column(column)
    if pa.types.is_nested(cells.type) or pa.types.is_binary(cells.type) or pa.types.is_temporal(cells.type):
        found_kind = in_words(cells.type)
        raise BadInput(f"{manifest.name}, column {column}: a label's own column holds 1 or 0, and this {found_kind}")
    found = np.zeros(len(cells), dtype=np.int8)
    first: dict[str, int] = {}
    start = 0
    for chunk in cells.chunks:
        plain = chunk.dictionary_decode() if pa.types.is_dictionary(chunk.type) else chunk
        coded = pc.dictionary_encode(plain, null_encoding="encode")
        indices = coded.indices.to_numpy(zero_copy_only=False)
        said = [cell_name(scalar.as_py()) for scalar in coded.dictionary]
        for k, name in enumerate(said):
            if name not in first:
                first[name] = start + int((indices == k).argmax())
            if name not in readings:
                where = f"{_where(manifest, first[name])}, column {column}"
                raise BadInput(f"{where}: {_doubt(coded.dictionary[k].as_py())}")
        if len(said):
            found[start : start + len(chunk)] = np.array([CODES[readings[name]] for name in said], np.int8)[indices]
        start += len(chunk)
        release()
    if {"-1", "0"} <= first.keys() and readings["-1"] == "absent" and "0" not in data.label_cells:
        cell = cells[first["0"]].as_py()
        raise BadInput(
            f"{_where(manifest, first['0'])}, column {column}: {cell!r} stands beside -1, which is absent: "
            "-s data.label_cells.0=unknown, or -s data.label_cells.0=absent where both mean it"
        )
    return found


def _where(manifest: Manifest, row: int) -> str:
    return replace(manifest, rows=np.array([row])).where(0)


def _doubt(cell: Any) -> str:
    """What to say of a cell that is not understood."""
    name = cell_name(cell)
    if name == "-1":
        return (
            f"{cell!r} may say that a label does not apply or that nobody knows: -s data.label_cells.-1=absent or "
            "-s data.label_cells.-1=unknown decides"
        )
    return (
        f"{cell!r} says neither that a label applies (1, true, yes) nor that it does not (0, false, no), nor is it "
        f"empty for unknown: -s 'data.label_cells={{\"{name}\": unknown}}' says what it means"
    )


def _listed(codes: NDArray[np.int8], code: int, names: Sequence[str], known: NDArray[np.bool_]) -> "pa.ChunkedArray":
    """Lists of the names of the columns in which `codes` `[N, K]` are `code`; null in rows not `known` `[N]`."""
    import pyarrow as pa

    kind, words = np.min_scalar_type(-len(names)), pa.array(list(names), pa.string())
    found = []
    for block in blocks(len(codes)):
        rows, which = np.nonzero(codes[block] == code)
        ends = np.concatenate([[0], np.bincount(rows, minlength=len(codes[block])).cumsum()])
        values = pa.DictionaryArray.from_arrays(pa.array(which.astype(kind)), words)
        offsets = pa.array(ends, pa.int64(), mask=np.append(~known[block], False))
        found.append(pa.LargeListArray.from_arrays(offsets, values))
    return pa.chunked_array(found)
