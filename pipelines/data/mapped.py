"""Large tables as Arrow files in the cache folder, mapped into memory: they are not held, and workers share them."""

import hashlib
import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from errno import EACCES, EDQUOT, EEXIST, EIO, ENOSPC, ENOTDIR, EPERM, EROFS
from pathlib import Path
from typing import TYPE_CHECKING
from warnings import warn
from weakref import WeakSet

from filelock import FileLock

from clx.pipelines.system.cache_folder import cache_folder
from clx.pipelines.system.durable_files import replacing
from clx.pipelines.system.errors import ClxWarning

if TYPE_CHECKING:
    import pyarrow as pa

LARGE = 1 << 26
"""Bytes of a table from which it is mapped. A converted one takes seconds once, a smaller one is soon read."""
CELL = 8
"""Bytes that a cell of Parquet weighs at least, however well its column is encoded."""
PACKED = 4
"""How much smaller gzip makes text at least, as a rule."""
VERSION = 1
"""Of how tables are converted; another one makes them anew."""
ENDS = 1 << 16  # bytes at either end that tell one content of a file from another
FORGOTTEN = 30 * 24 * 3600.0
"""Seconds after which a table that nobody opened is removed."""
UNWRITABLE = (ENOSPC, EDQUOT, EROFS, EIO, EACCES, EPERM, ENOTDIR, EEXIST)
OFTEN = 64
"""Rows after which the pages they were read from are let go of: each may bring a megabyte of neighbours with it."""
Parts = Callable[[], tuple["pa.Schema", Iterator["pa.RecordBatch"]]]
_maps: "WeakSet[mmap.mmap]" = WeakSet()


def is_large(path: Path) -> bool:
    """Whether a table, or what it is a piece of (`as_one`), is too large to be read into memory without need."""
    return max(weight(path), _whole.get()) >= LARGE


def weight(path: Path) -> int:
    """About the bytes that a table takes in memory: the file's, or of Parquet and gzip what they are unpacked."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(4)
        if head[:2] == b"\x1f\x8b":
            file.seek(-4, os.SEEK_END)
            return max(PACKED * size, int.from_bytes(file.read(4), "little"))  # the latter modulo 4 GB
    if head != b"PAR1":
        return size
    import pyarrow as pa
    from pyarrow import parquet

    try:
        known = parquet.read_metadata(path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError):
        return size  # who reads it says what is wrong
    groups: int = sum(known.row_group(k).total_byte_size for k in range(known.num_row_groups))
    cells: int = known.num_rows * known.num_columns
    return max(size, groups, CELL * cells)


@contextmanager
def as_one(paths: Iterable[Path]) -> Iterator[None]:
    """Within this, files are pieces of one table: large where they are large together."""
    token = _whole.set(sum(map(weight, paths)))
    try:
        yield
    finally:
        _whole.reset(token)


_whole: ContextVar[int] = ContextVar("bytes of all pieces", default=0)


def mapped(path: Path, parts: Parts) -> "pa.Table | None":
    """The table of a file, converted once and then mapped from the cache folder; None where that cannot be, with a
    warning where the disk is to blame.

    Known by path, size, time of change and both ends of the file. One process converts, others wait; what a killed
    one leaves is never taken for a table.

    Args:
        parts: the columns, and the rows piece by piece, of which one at a time is held. What it raises is raised.
    """
    return mapped_as(_key(path), path.name, parts)


def mapped_as(key: str, name: str, parts: Parts) -> "pa.Table | None":
    """The same of what is known by a `key` that is another one where its content is."""
    cache = cache_folder()
    if cache is None:
        return None
    folder = cache / "tables"
    at = folder / f"{key}.arrow"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not at.exists():
            with FileLock(at.with_suffix(".lock")):
                if not at.exists():
                    _convert(at, parts)
                    _forget(folder)
        with suppress(OSError):
            os.utime(at)
        return open_mapped(at)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        said = f"{folder}: {error.strerror or error}: {name} is read into memory instead (CLX_CACHE names another "
        warn(f"{said}folder)", ClxWarning, stacklevel=2)
        return None


def open_mapped(path: Path) -> "pa.Table":
    """A table in an Arrow file or stream, of whose memory `release` lets go. Raises `ArrowInvalid`."""
    import pyarrow as pa

    with open(path, "rb") as file:
        held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with suppress(OSError):  # of a system without huge pages
            held.madvise(mmap.MADV_NOHUGEPAGE)  # else a row would bring 2 MB with it
    _maps.add(held)
    source = pa.BufferReader(pa.py_buffer(held))
    whole = held[:6] == b"ARROW1"
    return (pa.ipc.open_file(source) if whole else pa.ipc.open_stream(source)).read_all()


def release() -> None:
    """Let go of the pages of mapped tables that were read; they come back from the system's cache when asked for."""
    if hasattr(mmap, "MADV_DONTNEED"):
        for each in list(_maps):
            each.madvise(mmap.MADV_DONTNEED)


def touched() -> None:
    """Count a row that was read of whatever table, and `release` now and then."""
    global _touched
    _touched += 1
    if _touched >= OFTEN and _maps:
        _touched = 0
        release()


_touched = 0


def _key(path: Path) -> str:
    known = path.stat()
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{VERSION} {os.path.realpath(path)} {known.st_size} {known.st_mtime_ns}".encode(errors="replace"))
    with open(path, "rb") as file:
        digest.update(file.read(ENDS))
        file.seek(max(0, known.st_size - ENDS))
        digest.update(file.read(ENDS))
    return digest.hexdigest()


def _convert(at: Path, parts: Parts) -> None:
    import pyarrow as pa

    schema, batches = parts()
    with replacing(at) as beside, pa.ipc.new_file(str(beside), schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _forget(folder: Path) -> None:
    """Remove what nobody opened for a month, and what killed writers left a day ago."""
    for path in folder.iterdir():
        with suppress(OSError):
            age = time.time() - path.stat().st_mtime
            if age > FORGOTTEN or (path.suffix == ".tmp" and age > FORGOTTEN / 30):
                path.unlink()
