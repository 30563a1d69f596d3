"""Rows that share the content of an input: one image under two captions, a question in two pairs, the same file twice.

Looked for by equal texts, bytes and files; many and large files are told by their paths alone.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from clx.pipelines.config.schema import Config
from clx.pipelines.data.builtin import is_builtin
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.system.errors import ClxWarning

Keys = NDArray[np.uint64]
FILES = {"image": True, "audio": True, "series": True, "text": False}
"""Kinds of inputs whose cells may identify things, and whether a text cell is the path of a file."""
WORDS, LETTERS = 3, 15
"""A text of so many words, or letters where words are not divided, says more than a class does."""
FEWEST = 10
"""Different texts from which on they may be more than the names of classes."""
MOST_BYTES = 1 << 30
"""Of the files of a column, up to which they are read to be compared."""
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


def keys_of(manifest: Manifest, column: str, root: Path | None = None) -> Keys:
    """A number per row `[N]`, equal for cells of equal content and 0 for missing ones; 64 bits of a digest.

    With a `root` text is the path of a file below it, so that files of several tables can be compared.
    """
    import pyarrow as pa

    cells = manifest.table.column(column)
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        coded = cells.combine_chunks().dictionary_encode()
        coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
        words = _words(coded.dictionary.to_pylist(), manifest.root, root)
        known = np.array([*map(_digest, words), 0], dtype=np.uint64)
        found: Keys = known[coded.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)][manifest.rows]
        return found
    each = (_place(manifest.cell(i, column), root) for i in range(len(manifest)))
    return np.array([_digest(cell) for cell in each], dtype=np.uint64)


def _words(texts: list[str | None], folder: Path, root: Path | None) -> list[str | None]:
    """What each text is told by: blank ones by nothing, files below `folder` by their content, others by themselves.

    Files of over `MOST_BYTES` in all are told by their paths.
    """
    some = [None if text is None or not text.strip() else text for text in texts]
    below = f"{os.path.realpath(folder)}{os.sep}"
    paths = [None if text is None or "\0" in text else os.path.realpath(os.path.join(folder, text)) for text in some]
    first = [path for path in paths if path is not None][:3]
    if any(path.startswith(below) and os.path.isfile(path) for path in first):
        files = {path: os.stat(path) for path in paths if path and path.startswith(below) and os.path.isfile(path)}
        if sum(stat.st_size for stat in files.values()) <= MOST_BYTES:
            known = {path: _content(path, stat.st_size, stat.st_mtime_ns) for path, stat in files.items()}
            return [known.get(path or "", text) for path, text in zip(paths, some, strict=True)]
    return [None if text is None else _place(text, root) for text in some]


@lru_cache(maxsize=1 << 17)
def _content(path: str, size: int, changed: int) -> str:
    """A digest of a file, made anew where its size or time has changed."""
    try:
        with open(path, "rb") as file:
            return f"{size} bytes {hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()}"
    except OSError:
        return path


def _place(cell: Any, root: Path | None) -> Any:
    """The path of a file as one would write it from anywhere; other cells as they are."""
    return cell if root is None or not isinstance(cell, str) else os.path.normpath(os.path.join(root, cell))


def _digest(cell: Any) -> np.uint64:
    if cell is None:
        return np.uint64(0)
    if isinstance(cell, np.ndarray):
        content = f"{cell.shape}{cell.dtype}".encode() + cell.tobytes()
    else:
        content = cell if isinstance(cell, bytes) else str(cell).encode(errors="replace")
    return np.uint64(int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") or 1)


def identifies(manifest: Manifest, column: str, keys: Keys, files: bool) -> bool:
    """Whether equal cells of a column mean the same thing in the world: not texts that name classes.

    Files and bytes do; a text where it is longer than a name and not repeated like a sentence about a class.
    """
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


def components(keys: Sequence[Keys], rows: int) -> NDArray[np.int64]:
    """Numbers `[N]`, equal for rows that hang together by equal keys, directly or by others; missing keys join none."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    at, things, first = [], [], rows
    for each in keys:
        known = np.flatnonzero(each)
        _, numbers = np.unique(each[known], return_inverse=True)
        at.append(known)
        things.append(numbers + first)
        first += int(numbers.max()) + 1 if len(numbers) else 0
    row, column = (np.concatenate([np.zeros(0, dtype=np.int64), *each]) for each in (at, things))
    graph = coo_matrix((np.ones(len(row), dtype=np.int8), (row, column)), shape=(first, first))
    found: NDArray[np.int64] = connected_components(graph, directed=False)[1][:rows].astype(np.int64)
    return found


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
        found = keys_of(manifest, column)
        repeats = len(np.unique(found[found > 0])) < np.count_nonzero(found)
        if repeats and identifies(manifest, column, found, files):
            keys[column] = found
    media = tuple(column for column in keys if inputs[column])
    for columns in dict.fromkeys([tuple(keys), media, *((column,) for column in [*media, *keys])]):
        groups = components([keys[column] for column in columns], len(manifest))
        if columns and 2 * np.bincount(groups).max() <= len(manifest):
            return Sharing(columns, groups, tuple(column for column in keys if column not in columns))
    return Sharing((), np.arange(len(manifest), dtype=np.int64), tuple(keys))


def warn_of_leaks(splits: Mapping[str, Manifest], config: Config) -> None:
    """Warn of rows of other splits that share an image, a recording or a text with a training row (see `leaks`).

    Windows of series are not looked at: still stretches are equal by nature. Nor is built-in data, whose splits are
    published ones.
    """
    if is_builtin(config.data.train):
        return
    windowed = None if config.data.windows is None else config.data.windows.column
    for line in leaks(splits, {column: files for column, files in inputs_of(config).items() if column != windowed}):
        warn(line, ClxWarning, stacklevel=2)


def leaks(splits: Mapping[str, Manifest], inputs: Mapping[str, bool]) -> Iterable[str]:
    """A line for each column of inputs of which another split has cells that training has, too."""
    train = splits["train"]
    for column, files in inputs.items():
        if column not in train.columns:
            continue
        learned = keys_of(train, column, train.root if files else None)
        if not identifies(train, column, learned, files):
            continue
        for split, manifest in splits.items():
            if split == "train" or column not in manifest.columns:
                continue
            asked = keys_of(manifest, column, manifest.root if files else None)
            again = np.flatnonzero(np.isin(asked, learned) & (asked > 0))
            if len(again):
                first = int(again[0])
                there = train.where(int(np.flatnonzero(learned == asked[first])[0]))
                yield (
                    f"{len(again)} of {len(manifest)} {split} rows have the {column} of a training row: "
                    f"{manifest.where(first)} that of {there}"
                )
