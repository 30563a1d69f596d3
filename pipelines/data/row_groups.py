"""Large Parquet elsewhere: columns of text and numbers are fetched once, files in cells by row groups when needed.

A row group that a cell is asked of is fetched by range requests into the cache folder, where all processes of this
machine read it; those used least lately go. So a pass over rows in an order of blocks fetches each group once.
"""

import hashlib
import os
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote
from warnings import warn

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from clx.pipelines.data.arrow_types import decoded, is_bytes
from clx.pipelines.data.file_kinds import kind_of_bytes
from clx.pipelines.data.manifest import Manifest, all_rows
from clx.pipelines.data.pieces import Piece, columns_of_pieces, split_text
from clx.pipelines.system.cache_folder import cache_folder
from clx.pipelines.system.durable_files import replacing
from clx.pipelines.system.errors import BadInput, ClxWarning
from clx.pipelines.system.remote import NotGiven, Ranges, Url, known_once

if TYPE_CHECKING:
    import pyarrow as pa

WINDOW = 16
"""Row groups whose rows are mixed with each other in training."""
KEPT = 3 * WINDOW
"""Row groups of a column that stay in the cache folder; those of the next window are fetched while this one is in use.
"""
OPENED = 2 * WINDOW
"""Row groups of a column that a process holds open."""
UNUSED = 24 * 3600.0
"""Seconds after which row groups of a column that nobody has asked for are removed."""
ENDINGS = {"image": ".png", "audio": ".wav", "series": ".npy"}
"""What a cell is called after, so that its kind is told as that of any file."""


def in_groups(url: Url) -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
    """The columns of a Parquet file and its rows, a batch for each row group, where cells of bytes say where they are.

    Raises `NotGiven`, `Unreachable`, and `ArrowInvalid` for what is no Parquet.
    """
    import pyarrow as pa

    file = _opened(url)
    fields = list(file.schema_arrow)
    heavy = [field.name for field in fields if _is_heavy(field.type)]
    light = [field.name for field in fields if field.name not in heavy]
    kinds = {name: _ending(url, name) for name in heavy}
    kept = [field.with_type(pa.string() if field.name in heavy else decoded(field.type)) for field in fields]
    schema = pa.schema(kept, file.schema_arrow.metadata)

    def batches() -> "Iterator[pa.RecordBatch]":
        for group in range(file.metadata.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            read = file.read_row_group(group, columns=light).combine_chunks() if light else None
            columns: dict[str, Any] = {}
            for field in schema:
                if field.name in heavy:
                    end = f"{_in_path(field.name)}{kinds[field.name]}"
                    columns[field.name] = pa.array([f"{url.name}#{group}:{row}/{end}" for row in range(count)])
                elif read is not None:
                    columns[field.name] = read.column(field.name).cast(field.type)
            table = pa.table(columns).cast(schema).combine_chunks()
            table.validate(full=True)
            yield from table.to_batches() or [pa.RecordBatch.from_pylist([], schema)]

    return schema, batches()


def _in_path(column: str) -> str:
    """The name of a column as the last part of a path; `unquote` undoes it."""
    return column.replace("%", "%25").replace("/", "%2F")


def holds_files(url: Url) -> bool:
    """Whether a Parquet file has columns of bytes. Raises as `in_groups`."""
    return any(_is_heavy(field.type) for field in _opened(url).schema_arrow)


def _is_heavy(kind: "pa.DataType") -> bool:
    """Whether cells are bytes, or structs around those of a file, as `datasets` of Hugging Face writes them."""
    import pyarrow.types as types

    return is_bytes(kind) or (types.is_struct(kind) and any(f.name == "bytes" and is_bytes(f.type) for f in kind))


def _ending(url: Url, column: str) -> str:
    """The extension of the kind of a column's first cell."""
    table = group_of(url, 0, column)
    first = next((cell.as_py() for cell in table.column(0) if cell.is_valid), b"")
    return ENDINGS.get(kind_of_bytes(first) or "", "")


def cell_of_group(piece: Piece) -> bytes:
    """The bytes of a cell of a row group. Raises `NotGiven` where there are none, and `Unreachable`."""
    if not isinstance(piece.of, Url):
        raise NotGiven(f"{piece}: of a table on this machine no row group is read for a cell")
    column = os.path.splitext(piece.name)[0] if piece.name.endswith(tuple(ENDINGS.values())) else piece.name
    column = unquote(column)
    table = group_of(piece.of, piece.first, column)
    found = table.column(0)[piece.second].as_py() if piece.second < table.num_rows else None
    if not found:
        raise NotGiven(f"{piece.of}, row {piece.second + 1} of row group {piece.first}: {column} is empty")
    return bytes(found)


_held: "dict[str, OrderedDict[str, pa.Table]]" = {}
"""By column of the tables of a folder, and by what `group_of` calls a row group."""


def group_of(url: Url, group: int, column: str) -> "pa.Table":
    """One column of one row group, as bytes, from the cache folder, into which it is fetched where it is not there."""
    known = known_once(url)
    named = f"{url.text}\0{known.version or os.getpid()}\0{group}\0{column}"
    key = hashlib.blake2b(named.encode(), digest_size=16).hexdigest()
    lot = hashlib.blake2b(f"{url.parent.text}\0{column}".encode(), digest_size=16).hexdigest()
    opened = _held.setdefault(lot, OrderedDict())
    if (held := opened.get(key)) is not None:
        with suppress(KeyError):
            opened.move_to_end(key)
        return held
    table = _kept(lot, key, url, group, column)
    opened[key] = table
    while len(opened) > OPENED:
        with suppress(KeyError):
            opened.popitem(last=False)
    return table


def _kept(lot: str, key: str, url: Url, group: int, column: str) -> "pa.Table":
    import pyarrow as pa

    cache = cache_folder()
    if cache is None:
        return _fetched(url, group, column)
    at = cache / "groups" / lot / f"{key}.arrow"
    try:
        at.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(at.with_suffix(".lock")):
            if not at.exists():
                table = _fetched(url, group, column)
                with replacing(at) as beside, pa.ipc.new_file(str(beside), table.schema) as writer:
                    writer.write_table(table)
                _forget(at.parent)
            os.utime(at)
            os.utime(at.parent)
            return pa.ipc.open_file(pa.memory_map(str(at))).read_all()
    except OSError as error:
        said = f"{at.parent}: {error.strerror or error}: row groups are fetched again by each process (CLX_CACHE names "
        warn(f"{said}another folder)", ClxWarning, stacklevel=2)
        return _fetched(url, group, column)


def _fetched(url: Url, group: int, column: str) -> "pa.Table":
    """A column of a row group as `large_binary`, by range requests."""
    import pyarrow as pa

    read = _opened(url).read_row_group(group, columns=[column]).combine_chunks().column(0)
    cells = read.chunk(0) if read.num_chunks else pa.array([], read.type)
    if pa.types.is_struct(cells.type):
        cells = cells.flatten()[cells.type.get_field_index("bytes")]
    return pa.table({column: cells.cast(pa.large_binary())})


def _opened(url: Url) -> Any:
    """The file, whose footer is read once by a process and those that it starts. Each caller has its own: several
    threads cannot read from one."""
    import pyarrow as pa
    from pyarrow import parquet as arrow

    size = known_once(url).size
    if size is None:
        raise NotGiven(f"{url}: the other side does not say how long it is, which a large Parquet file is read by")
    try:
        with _footer_lock:
            if url not in _footers:
                _footers[url] = arrow.read_metadata(pa.PythonFile(Ranges(url, size), mode="r"))
        return arrow.ParquetFile(pa.PythonFile(Ranges(url, size), mode="r"), metadata=_footers[url], pre_buffer=True)
    except pa.ArrowInvalid as error:
        raise NotGiven(f"{url}: not a Parquet file that can be read ({str(error).splitlines()[0]})") from None


_footers: dict[Url, Any] = {}
_footer_lock = threading.Lock()


def _after_fork() -> None:
    """Another thread of the parent may have held it."""
    global _footer_lock
    _footer_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _forget(folder: Path) -> None:
    """Remove the row groups of a column that were used least lately, and those of columns that nobody asks for."""
    with suppress(OSError):
        files = sorted(folder.glob("*.arrow"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in files[KEPT:]:
            path.unlink(missing_ok=True)
        for path in [*folder.glob("*.lock"), *folder.parent.iterdir()]:
            if time.time() - path.stat().st_mtime > UNUSED:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def blocks_of(manifest: Manifest) -> NDArray[np.int64] | None:
    """Where among the rows each row group of files elsewhere begins, `[N + 1]` with the end; None where there are no
    such groups, or the rows are not in their order."""
    if manifest.parts or not isinstance(manifest.root, Url) or (np.diff(manifest.rows) <= 0).any():
        return None
    for column in columns_of_pieces(manifest.table):
        chunks = [chunk for chunk in manifest.table.column(column).chunks if len(chunk)]
        piece = split_text(next((cell.as_py() for chunk in chunks for cell in chunk[:100] if cell.is_valid), ""))
        if piece is not None and piece[2]:
            starts = np.cumsum([0, *map(len, chunks)])
            found = np.unique(np.searchsorted(manifest.rows, starts))
            return found if len(found) > 2 else None
    return None


ANYWHERE = {
    "data.balance.by: sampling": "data.balance.by: weights does not",
    "train.batches": "on this machine they are read from anywhere",
    "data.train with several sources": "a pattern names several tables as one source",
}
"""What takes rows from anywhere, and what to do instead."""


def training_blocks(manifest: Manifest, anywhere: str | None = None) -> NDArray[np.int64] | None:
    """The same of training rows. Raises `BadInput` where something takes rows from `anywhere`, and where one of several
    sources has such groups: each of them would be fetched again and again."""
    parts = [replace(part, rows=all_rows(part.table.num_rows)) for part in manifest.parts] or [manifest]
    grouped = next((part for part in parts if blocks_of(part) is not None), None)
    how = anywhere or ("data.train with several sources" if manifest.parts else None)
    if grouped is not None and how is not None:
        raise BadInput(f"{how} takes rows from anywhere, and {grouped.name} is fetched by row groups: {ANYWHERE[how]}")
    return blocks_of(manifest)
