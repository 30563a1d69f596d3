"""Rows that share the content of an input: one image under two captions, a question in two pairs, the same file twice.

Looked for by equal texts, bytes and files; many and large files are told by their paths alone.
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clx.pipelines.config.schema import Config
from clx.pipelines.data.groups import Keys, hanging_together, shared_keys, sizes_of
from clx.pipelines.data.manifest import LARGE, Manifest, all_rows
from clx.pipelines.data.stretches import pieces
from clx.pipelines.system.remote import Url

FILES = {"image": True, "audio": True, "series": True, "text": False}
"""Kinds of inputs whose cells may identify things, and whether a text cell is the path of a file."""
WORDS, LETTERS = 3, 15
"""A text of so many words, or letters where words are not divided, says more than a class does."""
FEWEST = 10
"""Different texts from which on they may be more than the names of classes."""
MOST_FILES, MOST_BYTES = 100_000, 1 << 30
"""Of a column, up to which they are read to be compared."""
OFTEN = 4
"""Rows per different text up to which texts identify rows; sentences about classes are repeated more often."""


def inputs_of(config: Config) -> dict[str, bool]:
    """Columns that inputs read and whose cells may identify things: whether text in them is the path of a file.

    Not those of negatives: rows that share a negative are not of one thing.
    """
    found: dict[str, bool] = {}
    for name, options in ((n, o) for n, o in config.modalities.items() if n not in config.only_negatives):
        like = options.get("like")
        kind = options.get("kind", name if like is None else config.modalities.get(str(like), {}).get("kind", like))
        if isinstance(kind, str) and kind in FILES:
            columns = [options.get("column") or name, options.get("pair")]
            found |= {column: FILES[kind] for column in columns if isinstance(column, str)}
    return found


def keys_of(manifest: Manifest, column: str, root: Path | Url | None = None) -> Keys:
    """A number per row `[N]`, equal for cells of equal content and 0 for missing ones; within one process.

    With a `root` text is the path of a file below it, so that files of several tables can be compared.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if manifest.parts:
        return _keys_of_parts(manifest, column, root)
    cells = manifest.table.column(column)
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        few = len(cells) <= LARGE and pc.count_distinct(cells).as_py() <= MOST_FILES
        folder = manifest.root
        named = _files(pc.unique(cells).to_pylist(), folder) if few and isinstance(folder, Path) else {}
        found = np.empty(len(manifest), dtype=np.int64)
        for rows, piece in pieces(manifest, column):
            if named or root is not None:
                keys = [_key(named.get(text) or _told(text, root)) for text in piece.to_pylist()]
            else:  # the same, and fast
                keys = [hash(text) or 1 if text and not text.isspace() else 0 for text in piece.to_pylist()]
            found[rows] = keys
        return found
    each = (_place(manifest.cell(i, column), root) for i in range(len(manifest)))
    return np.array([_key(cell) for cell in each], dtype=np.int64)


def _keys_of_parts(manifest: Manifest, column: str, root: Path | Url | None) -> Keys:
    """The same of rows of several sources."""
    apart = root is not None and len(roots_of([manifest])) > 1
    found, start = np.zeros(len(manifest), dtype=np.int64), 0
    for part in manifest.parts:
        stop = start + part.table.num_rows
        mine = (manifest.rows >= start) & (manifest.rows < stop)
        if column in part.columns:
            own = replace(part, rows=manifest.rows[mine] - start)
            found[mine] = keys_of(own, column, part.root if apart else root)
        start = stop
    return found


def roots_of(manifests: Iterable[Manifest]) -> set[Path | Url]:
    """Folders that paths in cells count from."""
    return {part.root for manifest in manifests for part in manifest.parts or (manifest,)}


def _files(texts: list[str | None], folder: Path) -> dict[str | None, str]:
    """What each text that names a file below `folder` is told by, its content; none where the first texts name none, or
    the files are over `MOST_BYTES` in all."""
    some, folder = [text for text in texts if text], folder.absolute()
    if not any(_file(text, folder) for text in some[:3]):
        return {}
    files = {text: found for text in some if (found := _file(text, folder)) is not None}
    if sum(at.st_size for _, at in files.values()) > MOST_BYTES:
        return {}
    return {text: _content(path, at.st_size, at.st_mtime_ns) for text, (path, at) in files.items()}


def _told(text: str | None, root: Path | Url | None) -> str | None:
    """What a text is told by: nothing for a blank one, a path as `_place` writes it where it is one."""
    return None if text is None or text.isspace() or not text else _place(text, root)


def _file(text: str, folder: Path) -> tuple[str, os.stat_result] | None:
    """The path of a file really below `folder`, and what is known of it; None where a text names none."""
    if "\0" in text:
        return None
    path = os.path.join(folder, text)
    try:
        found = os.stat(path)
    except OSError:
        return None
    real = os.path.join(_real(os.path.dirname(path)), os.path.basename(path))
    real = os.path.realpath(real) if os.path.islink(real) else real
    return (real, found) if stat.S_ISREG(found.st_mode) and real.startswith(f"{_real(str(folder))}{os.sep}") else None


@lru_cache(maxsize=1 << 12)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


@lru_cache(maxsize=1 << 17)
def _content(path: str, size: int, changed: int) -> str:
    """A digest of a file, made anew where its size or time has changed."""
    try:
        with open(path, "rb") as file:
            return f"{size} bytes {hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()}"
    except OSError:
        return path


def _place(cell: Any, root: Path | Url | None) -> Any:
    """The path of a file as one would write it from anywhere; other cells as they are."""
    if root is None or not isinstance(cell, str):
        return cell
    if "://" in cell:
        return cell
    if isinstance(root, Url):
        return (root / cell).text
    path = os.path.join(root, cell) if root.parts else cell
    return os.path.normpath(path) if "./" in path or "//" in path else path


def _key(cell: Any) -> int:
    """64 bits of a cell, other ones in each process."""
    if isinstance(cell, np.ndarray):
        return hash((cell.shape, cell.dtype.str, cell.tobytes())) or 1
    return 0 if cell is None else hash(cell if isinstance(cell, bytes | str) else str(cell)) or 1


def identifies(manifest: Manifest, column: str, keys: Keys, files: bool) -> bool:
    """Whether equal cells of a column mean the same thing in the world: not texts that name classes.

    Files and bytes do; a text where it is longer than a name and not repeated like a sentence about a class. Of a
    large manifest a million rows, evenly spread, are looked at.
    """
    if len(keys) > LARGE:
        some_rows = np.arange(0, len(keys), -(-len(keys) // LARGE))
        manifest, keys = manifest.take(some_rows), keys[some_rows]
    known = np.flatnonzero(keys)
    different = len(np.unique(keys[known]))
    if files or different < 2:
        return different > 1
    if different < FEWEST or OFTEN * different < len(known):
        return False
    some = [manifest.cell(int(i), column) for i in known[:: max(1, len(known) // 1000)]]
    texts = [cell for cell in some if isinstance(cell, str)]
    if len(texts) < len(some):
        return False
    return bool(
        np.mean([len(text.split()) for text in texts]) >= WORDS or np.mean([len(text) for text in texts]) >= LETTERS
    )


class Sharing(NamedTuple):
    """Which rows share content."""

    columns: tuple[str, ...]
    """By which."""
    groups: NDArray[np.int64]
    """`[N]`, equal for rows that do."""
    given_up: tuple[str, ...] = ()
    """Columns that count for nothing, since most rows would hang together by them."""


def sharing(manifest: Manifest, inputs: Mapping[str, bool]) -> Sharing:
    """Rows that share the content of inputs which identify things.

    Texts, then all but one column, are given up where more than half of the rows would hang together.
    """
    keys = {}
    for column, files in inputs.items():
        if column not in manifest.columns:
            continue
        found = keys_of(manifest, column, Path() if files and manifest.parts else None)
        counts = identifies(manifest, column, found, files)
        found = shared_keys(found)
        if counts and found.max(initial=-1) >= 0:
            keys[column] = found
    media = tuple(column for column in keys if inputs[column])
    for columns in dict.fromkeys([tuple(keys), media, *((column,) for column in [*media, *keys])]):
        if not columns:
            break
        groups = hanging_together([keys[column] for column in columns], len(manifest))
        if 2 * int(sizes_of(groups, int(groups.max()) + 1).max()) <= len(manifest):
            return Sharing(columns, groups, tuple(column for column in keys if column not in columns))
    return Sharing((), all_rows(len(manifest)), tuple(keys))
