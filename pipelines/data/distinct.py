"""The different cells of a column, looked at once each: ten million rows of a label hold few of them."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clx.modalities.numbers import ABSENT, number
from clx.pipelines.data.arrow_types import decoded, is_text
from clx.pipelines.data.manifest import Manifest, converter
from clx.pipelines.data.stretches import ids, pieces
from clx.pipelines.system.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

NAN = "NaN"
"""Stands for numbers that are none, which are equal here."""


def distinct(manifest: Manifest, column: str) -> tuple[list[Any], NDArray[np.int64]]:
    """The different cells of a column, as `Manifest.row` gives them, in the order of the rows, and which of them each
    row has `[N]`. Lists, structs and bytes are not compared: each row has its own. Raises `BadInput` where there is no
    such column."""
    import pyarrow.compute as pc
    import pyarrow.types as types

    manifest.require(column)
    cells = manifest.table.schema.field(column)
    cells = cells.with_type(decoded(cells.type))
    if types.is_nested(cells.type) or types.is_null(cells.type) or _is_binary(cells.type):
        return manifest.column(column), np.arange(len(manifest), dtype=np.int64)
    known: dict[Any, int] = {}
    values: list[Any] = []
    of_row, convert = ids(len(manifest), len(manifest)), converter(cells.type)
    for rows, piece in pieces(manifest, column):
        piece = piece.dictionary_decode() if types.is_dictionary(piece.type) else piece
        coded = pc.dictionary_encode(piece, null_encoding="encode")
        codes = np.empty(len(coded.dictionary), dtype=np.int64)
        for k, scalar in enumerate(coded.dictionary):
            cell = scalar.as_py()
            key = NAN if cell != cell else (type(cell), cell)
            codes[k] = known.setdefault(key, len(known))
            if codes[k] == len(values):
                values.append(convert(scalar))
        of_row[rows] = codes[coded.indices.to_numpy(zero_copy_only=False)]
    return values, of_row


def plain_numbers(cells: "pa.ChunkedArray") -> NDArray[np.float64] | None:
    """A whole column as numbers `[N]`, NaN where one is missing, read at once; None where a cell is none, or is a text
    that has to be looked at (see `modalities.numbers`)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if is_text(cells.type):
        bare = pc.utf8_trim_whitespace(cells)
        none = pc.is_in(pc.utf8_lower(bare), pa.array(sorted(ABSENT), cells.type))
        cells = pc.if_else(none, pa.scalar(None, cells.type), bare)
    elif not (pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type)):
        return None
    try:
        return np.asarray(cells.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    except pa.ArrowInvalid:
        return None


def numbers(manifest: Manifest, column: str) -> NDArray[np.float64]:
    """A numeric column `[N]`, NaN where a row has none. Raises `BadInput` naming the first row that is no number."""
    manifest.require(column)
    if (plain := _plain(manifest, column)) is not None:
        return plain
    values, of_row = distinct(manifest, column)
    found = np.empty(len(values), dtype=np.float64)
    for k, cell in enumerate(values):
        try:
            found[k] = number(cell)
        except ValueError as error:
            raise BadInput(f"{manifest.where(int((of_row == k).argmax()))}, column {column}: {error}") from None
    return found[of_row]


def readable_numbers(manifest: Manifest, column: str) -> tuple[NDArray[np.float64], bool]:
    """The same with NaN also for a cell that is no number, and whether there is one."""
    manifest.require(column)
    if (plain := _plain(manifest, column)) is not None:
        return plain, False
    values, of_row = distinct(manifest, column)
    found = [number_of(value) for value in values]
    return np.array([np.nan if one is None else one for one in found], dtype=np.float64)[of_row], None in found


def _plain(manifest: Manifest, column: str) -> NDArray[np.float64] | None:
    """The cells of the rows as `plain_numbers` reads them."""
    import pyarrow as pa

    found = np.empty(len(manifest), dtype=np.float64)
    for rows, piece in pieces(manifest, column):
        part = plain_numbers(pa.chunked_array([piece]))
        if part is None:
            return None
        found[rows] = part
    return found


def number_of(value: Any) -> float | None:
    """A cell as a number, NaN for a missing one; None where it is none."""
    try:
        return number(value)
    except ValueError:
        return None


def _is_binary(kind: "pa.DataType") -> bool:
    import pyarrow.types as types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))
