"""Folders as tables: tables in them, classes and splits by folder, files that belong together by name."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clx.pipelines.data.class_folders import arranged
from clx.pipelines.data.file_kinds import counted, is_picture, kind_of_file, kinds_of
from clx.pipelines.data.file_paths import CALLED, Files, one_reading, placed, readings, sampled
from clx.pipelines.data.folder_tables import joined, listed_tables
from clx.pipelines.data.manifest import LeftOut, Manifest, all_rows
from clx.pipelines.data.patterns import files_of
from clx.pipelines.data.readers import READERS, read_file, table_suffix
from clx.pipelines.data.related_files import refuse_keyed, refuse_parts
from clx.pipelines.data.shards import sharded, split_of_table
from clx.pipelines.data.stems import FACTS_OF_ONE, columns_beside, files_alone
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.remote import scheme_of

SYSTEM = {"thumbs.db", "desktop.ini"}
WALKED = 50_000
"""Files beside a table that are looked through for those that its cells name."""


def read_folder(root: Path, name: str) -> Manifest:
    """Every row of a folder.

    Its `metadata.*` or `manifest.*` where it has one; else, of image and sound files, the tables beside them that name
    them, or class folders and folders of splits; else shards of one table. All that is not used is in `left_out`.
    Raises `BadInput`, calling the folder `name`, where there is nothing, and where two readings are likely.
    """
    files, passed = walked(root)
    kinds = kinds_of(str(root), files)
    media = [path for path in files if kinds.get(path) in ("image", "audio")]
    listed = listed_tables(files, name)
    if len(listed) > 1 and all(os.path.basename(file).lower() == FACTS_OF_ONE for file in listed.values()):
        listed = {} if set(listed) <= set(files_alone(media)) else listed
    if media and not listed:
        refuse_keyed(root, [path for path in files if table_suffix(path) in READERS], name)
    if (listed or media) and (found := joined(root, name, files, media, listed)) is not None:
        manifest, used = found
        used |= _series_named(manifest, files)
    elif media:
        manifest, used, passed = _arranged(root, name, files, media, kinds, passed)
    else:
        manifest, used, passed = _without_media(root, name, files, kinds, passed)
    left = _left_out(root, files, used, passed)
    rows = all_rows(manifest.table.num_rows)
    return replace(manifest, rows=rows, left_out=left)


_none = np.empty(0, dtype=np.int64)


def _series_named(manifest: Manifest, files: Sequence[str]) -> set[str]:
    """Files of series that cells of a table name."""
    named = [column for column, cells in sampled(manifest.table) if kind_of_file(cells[0]) == "series"]
    cells = (cell for column in named for cell in manifest.table.column(column).to_pylist())
    return {cell for cell in cells if isinstance(cell, str)} & set(files)


def walked(root: Path, most: int | None = None) -> tuple[list[str], dict[str, list[str]]]:
    """Files below a folder, sorted, as paths from there, `most` at the most; and what is passed over, by reason.

    Hidden entries are not looked into, links to folders only in the folder itself; with `most` nor are folders that
    may not be read, which raise `BadInput` else.
    """
    found: list[str] = []
    passed: dict[str, list[str]] = {}

    def visit(folder: str, below: str) -> None:
        try:
            with os.scandir(folder) as entries:
                here = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if most is not None:
                return  # beside a table there may be what is not the user's
            raise BadInput(f"{folder}: {error.strerror}") from None
        for entry in here:
            path = os.path.join(below, entry.name)
            if most is not None and len(found) >= most:
                return
            if entry.name == "__MACOSX":
                passed.setdefault("macOS's own copies", []).append(path)
            elif entry.name[0] == "." or entry.name.lower() in SYSTEM:
                passed.setdefault("hidden", []).append(path)
            elif not entry.name.isprintable() and not _is_text(entry.name):
                passed.setdefault("a name that is not UTF-8", []).append(path.encode("utf-8", "replace").decode())
            elif entry.is_dir(follow_symlinks=not below):
                visit(entry.path, path)
            elif entry.is_dir():
                passed.setdefault("a link to a folder", []).append(path)
            elif entry.is_file():
                found.append(path)
            else:
                passed.setdefault("a pipe, a device or a link to nothing", []).append(path)

    visit(str(root), "")
    return found, passed


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _arranged(
    root: Path,
    name: str,
    files: Sequence[str],
    cells: Sequence[str],
    kinds: Mapping[str, str],
    passed: dict[str, list[str]],
) -> tuple[Manifest, set[str], dict[str, list[str]]]:
    """A row per image, sound or series file, with class and split from its folders and what lies beside it."""
    import pyarrow as pa

    found = arranged(cells, name)
    kind = _one_kind(Counter(kinds[path] for path, _, _ in found.rows), name)
    paths = [path for path, _, _ in found.rows]
    columns: dict[str, Any] = {kind: paths}
    if any(label is not None for _, label, _ in found.rows):
        columns["label"] = pa.array([label for _, label, _ in found.rows], pa.string())
    if found.split_from is not None:
        columns["split"] = [split for _, _, split in found.rows]
    used = {*paths, *(path for each in found.dropped.values() for path in each)}
    others = [file for file in files if file not in used and table_suffix(file) != ".csv"]
    beside, read, notes = columns_beside(root, paths, others, name, list(columns))
    manifest = Manifest(
        name,
        root,
        pa.table(columns | beside),
        _none,
        path_column=kind,
        split_from=found.split_from,
        notes=(*found.notes, *notes),
    )
    return manifest, used | read, {**passed, **found.dropped}


def _one_kind(kinds: Counter[str], name: str) -> str:
    if len(kinds) > 1:
        raise BadInput(
            f"{name}: holds {kinds['image']} image and {kinds['audio']} audio files; "
            "a metadata.csv must say which belong together"
        )
    return next(iter(kinds))


def _without_media(
    root: Path, name: str, files: Sequence[str], kinds: Mapping[str, str], passed: dict[str, list[str]]
) -> tuple[Manifest, set[str], dict[str, list[str]]]:
    """Series files, or tables: shards of one, or a file for each split."""
    arrays = [path for path in files if path.lower().endswith(".npy")]
    if arrays:
        pictures = dict.fromkeys(arrays, "image") if is_picture(str(root / arrays[0])) else {}
        return _arranged(root, name, files, arrays, {**kinds, **pictures}, passed)
    tables = [path for path in files if table_suffix(path) in READERS]
    refuse_parts(tables, name)
    refuse_keyed(root, tables, name)
    if tables and (found := sharded(root, name, tables)) is not None:
        return found[0], found[1], passed
    series = [path for path in files if kinds.get(path) == "series"]
    if series:
        return _arranged(root, name, files, series, kinds, passed)
    reasons = [f"{len(paths)} {reason}" for reason, paths in counted(str(root), files).items()]
    said = f"; it holds {'; '.join(reasons[:4])}" if reasons else ""
    raise BadInput(f"{name}: no image, audio or series files in this folder, and no metadata.csv{said}")


def _left_out(
    root: Path, files: Iterable[str], used: set[str], passed: Mapping[str, Sequence[str]]
) -> tuple[LeftOut, ...]:
    """What is not used, by reason; a folder none of whose files are used is named."""
    folders = {os.path.dirname(path) for path in used}
    folders |= {parent for folder in folders for parent in map(str, Path(folder).parents) if parent != "."}
    reasons = dict(passed)
    alone: dict[str, list[str]] = {}
    rest = []
    for path in files:
        if path in used:
            continue
        folder = os.path.dirname(path)
        if folder and folder not in folders:
            alone.setdefault(path.split(os.sep)[0] if path.split(os.sep)[0] not in folders else folder, []).append(path)
        else:
            rest.append(path)
    for folder, paths in alone.items():
        for reason, some in counted(str(root), paths).items():
            reasons[f"in the folder {folder}: {reason}"] = some
    reasons |= counted(str(root), rest)
    return tuple(LeftOut(reason, len(paths), paths[0]) for reason, paths in reasons.items() if paths)


def read_pattern(pattern: str) -> Manifest:
    """The rows of tables that are pieces of one, of which a pattern gives the names. Raises `BadInput`."""
    top, files = files_of(pattern)
    if len(files) == 1:
        return read_table(Path(top, files[0]), os.path.join(top, files[0]))
    if unread := next((file for file in files if table_suffix(file) not in READERS), None):
        raise BadInput(f"data {pattern}: {unread} is no table; a pattern stands for pieces of one table")
    found = sharded(Path(top), top or ".", files)
    if found is None:
        raise BadInput(f"data {pattern}: these are series of numbers, not pieces of a table: name their folder")
    return replace(found[0], rows=all_rows(found[0].table.num_rows))


def read_table(path: Path, name: str, search: bool = True) -> Manifest:
    """Every row of a table. With `search` paths that do not count from its own folder are looked for below it.

    Raises `BadInput` for what is no table, for cells that can be read in two ways, and where the files lie beside the
    folder of the table.
    """
    manifest = Manifest(name, path.parent, table := read_file(path, name), all_rows(table.num_rows), file=path)
    if not search:
        return manifest
    lost = [column for column, cells in sampled(table) if _are_lost(path.parent, column, cells)]
    if not lost:
        return manifest
    files, _ = walked(path.parent, WALKED)
    kinds = kinds_of(str(path.parent), files)
    media = Files([file for file in files if kinds.get(file) in ("image", "audio")])
    table = manifest.table
    found = one_reading([r for r in readings(table, media, "") if r.column in lost], split_of_table(path.name), name)
    for reading in found:
        table = placed(table, reading, media)
    return replace(manifest, table=table, notes=tuple(reading.said(path.name) for reading in found))


def _are_lost(folder: Path, column: str, cells: Sequence[str]) -> bool:
    """Whether cells seem to name files, and none of the folder's: by extension, or by what the column is called."""
    named = sum(kind_of_file(cell) in ("image", "audio") for cell in cells) > 0.5 * len(cells)
    bare = CALLED.search(column.lower()) is not None and len(set(cells)) == len(cells) > 1
    named = named and not all(map(scheme_of, cells))
    return (named or bare) and not any(os.path.exists(folder / cell) for cell in cells[:20])


def refuse_elsewhere(manifest: Manifest) -> None:
    """Raise `BadInput` with the folder to give where the files of a column are found beside the folder of its table."""
    if manifest.file is None or manifest.root != manifest.file.parent:
        return
    for column, cells in sampled(manifest.table):
        if not all(kind_of_file(cell) for cell in cells) or any(map(os.path.exists, _below(manifest.root, cells))):
            continue
        above = manifest.root.absolute().parent
        try:
            beside = [above, *sorted(folder for folder in above.iterdir() if folder.is_dir())[:100]]
        except OSError:
            return  # not the user's
        at = next((folder for folder in beside if all(map(os.path.isfile, _below(folder, cells)))), None)
        if at is not None:
            shown = os.path.relpath(at)
            raise BadInput(
                f"{manifest.name}, column {column}: {cells[0]!r} and the others are not below {manifest.root}, but "
                f"below {shown}: -s data.root={shown} takes them there, or name the folder that holds both"
            )


def _below(folder: Path, cells: Sequence[str]) -> list[str]:
    return [os.path.join(folder, cell) for cell in cells[:20]]
