"""Tables in folders that name the files beside them, and how several tables become one."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from warnings import warn

import numpy as np

from clx.pipelines.data.arrow_types import in_words
from clx.pipelines.data.file_kinds import kind_of_file
from clx.pipelines.data.file_paths import Files, Reading, named_in, one_reading, placed, readings, sampled
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.readers import read_file, table_suffix
from clx.pipelines.data.split_names import split_of
from clx.pipelines.system.errors import BadInput, ClxWarning
from clx.pipelines.system.remote import scheme_of

if TYPE_CHECKING:
    import pyarrow as pa

LISTS = [
    f"{stem}.{suffix}"
    for stem in ("metadata", "manifest")
    for suffix in ("csv", "tsv", "jsonl", "parquet", "csv.gz", "jsonl.gz", "json")
]
NAMING = {".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet"}
"""Tables that may stand beside the files that they name."""
DIVIDED = {".csv", ".tsv", ".parquet"}
"""Of these, whatever stands in them is meant to be a table."""
NO_NAME = re.compile(r"[\d./]")
"""What the name of a file has, and that of a column mostly not: `image` is a column also beside `image.png`."""
NAMED = 0.9
"""Share of a column's cells that are paths, where it is one of paths."""
MOST = 50
"""Tables beside images and sound that are looked at."""
_none = np.empty(0, dtype=np.int64)


def listed_tables(files: Sequence[str], name: str) -> dict[str, str]:
    """The `metadata.*` or `manifest.*` of each folder that has one, of the folder itself and two levels below.

    Raises `BadInput` for two of them in one folder, and for one at the top with others below.
    """
    found: dict[str, str] = {}
    for file in files:
        folder, base = os.path.split(file)
        if base.lower() in LISTS and folder.count(os.sep) < 2:
            if folder in found:
                raise BadInput(f"{name}: {found[folder]} and {file} both list its files: name the one that is meant")
            found[folder] = file
    if "" in found and len(found) > 1:
        other = next(file for folder, file in found.items() if folder)
        raise BadInput(f"{name}: {found['']} and {other} both list files: name the one that is meant, or move one away")
    return found


def joined(
    root: Path, name: str, files: Sequence[str], paths: Sequence[str], listed: dict[str, str]
) -> tuple[Manifest, set[str]] | None:
    """The rows of the tables that name `paths` of the folder, and every file used; None where no table does.

    Several tables are one for each split, by their own name, their folder's, or that of the files they name. Raises
    `BadInput` where two tables would be for the same rows, or the cells of a column can be read in two ways.
    """
    tables = list(listed.values()) or _naming(files, paths)
    media = Files(paths if tables else ())
    hits = _naming_tables(root, name, tables, media, listed=bool(listed))
    if not hits:
        return None
    splits = _one_each(hits, name)
    read, split_from = [table for _, table, _, _ in hits], None
    if len(hits) > 1 and not any("split" in table.column_names for table in read):
        read = [with_split(table, str(split)) for table, split in zip(read, splits, strict=True)]
        split_from = f"a table for each: {', '.join(file for file, *_ in hits)}"
    elif len(hits) == 1 and hits[0][2] and "split" not in read[0].column_names:
        cells = read[0].column(hits[0][2][0].column).to_pylist()
        each = [_split_in(str(next(iter(cell), None) if isinstance(cell, list) else cell)) for cell in cells]
        if "train" in each and len(set(each)) > 1 and None not in each:
            read, split_from = [with_split(read[0], [str(split) for split in each])], "folders of the files"
    table, notes = together([file for file, *_ in hits], read, name)
    notes += [
        r.said(file)
        for file, _, found, _ in hits
        for r in found
        if r.bare or r.backslashes or r.folder != os.path.dirname(file)
    ]
    used = {file for file, *_ in hits}
    known = set(media.paths)
    for _, one, found, _ in hits:
        used |= {path for r in found for path in named_in(one, r.column) if path in known}
    parts = [(file, len(one)) for (file, *_), one in zip(hits, read, strict=True)]
    return manifest_of(root, name, table, parts, notes, split_from), used


class Hit(NamedTuple):
    """A table that names files of a folder."""

    file: str
    table: "pa.Table"
    """With paths that count from the folder."""
    readings: Sequence[Reading]
    split: str | None
    """By its own name or its folder's."""


def _naming_tables(root: Path, name: str, tables: Sequence[str], media: Files, *, listed: bool) -> list[Hit]:
    """Those of the tables that name files; with `listed` all of them. Raises `BadInput` for one that cannot be read, if
    it is listed or for a split, and for cells that can be read in two ways."""
    hits = []
    for file in tables:
        shown = called(name, file)
        split = _split_in(file)
        try:
            table = read_file(root / file, shown)
        except BadInput as error:
            if listed or split is not None:
                raise
            if table_suffix(file) in DIVIDED:  # others are often no table at all
                warn(f"{error}; this table is left out", ClxWarning, stacklevel=2)
            continue
        found = one_reading(readings(table, media, os.path.dirname(file)), split, shown)
        _refuse_no_header(found, media, shown)
        if not found and not listed:
            _say_no_files(table, shown)
        for reading in found:
            table = placed(table, reading, media)
        if found or listed:
            hits.append(Hit(file, table, found, split))
    return hits


def _refuse_no_header(found: Sequence[Reading], media: Files, shown: str) -> None:
    for reading in found:
        if NO_NAME.search(reading.column) and media.candidates(reading.column):
            raise BadInput(
                f"{shown}: the first row should name the columns, and {reading.column!r} is one of the files: write a "
                "line of names above it"
            )


def _say_no_files(table: "pa.Table", shown: str) -> None:
    """Warn of a table left out whose cells are paths of images or sound, but of none that are here."""
    for column, cells in sampled(table):
        if sum(kind_of_file(cell) in ("image", "audio") for cell in cells) >= NAMED * len(cells):
            said = f"{shown} row 1, column {column}: {cells[0]!r} is no file of this folder"
            warn(f"{said}, so this table is left out: write paths that count from it", ClxWarning, stacklevel=2)
            return


def _one_each(hits: Sequence[Hit], name: str) -> list[str | None]:
    """The split of each table. Raises `BadInput` where several are for one, or nobody knows for which."""
    splits = [split or _split_of_files(table, found) for _, table, found, split in hits]
    if len(hits) > 1 and (None in splits or len(set(splits)) < len(splits)):
        twice = next((split for split in splits if split is not None and splits.count(split) > 1), None)
        one, other, *_ = [hit[0] for hit, split in zip(hits, splits, strict=True) if twice in (None, split)]
        why = "their names do not say which is for which split" if twice is None else f"both are for {twice}"
        end = "call them train, val and test" if twice is None else "move the other away"
        raise BadInput(
            f"{name}: {one} and {other} both name its files, and {why}: name the one that is meant, or {end}"
        )
    return splits


def _naming(files: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Tables that may name files: at the top or in a folder there; no form of a competition's answers, and no `.json`
    beside the one of `paths` that it is about."""
    stems = {os.path.splitext(path)[0] for path in paths}
    named = [file for file in files if "submission" not in file.lower() and file.count(os.sep) < 2]
    named = [file for file in named if not (file.endswith(".json") and file.removesuffix(".json") in stems)]
    found = [file for file in named if table_suffix(file) in NAMING or (file.endswith(".txt") and os.sep not in file)]
    return found if len(found) <= MOST else []


def _split_in(path: str) -> str | None:
    """The split that a folder of a path, or a word of the file's name, stands for; None for none, or for two."""
    *folders, base = path.split(os.sep)
    for folder in reversed(folders):
        if (split := split_of(folder)) is not None:
            return split
    words = {split for word in re.split(r"[ _.-]+", base.partition(".")[0]) if (split := split_of(word)) is not None}
    return words.pop() if len(words) == 1 else None


def _split_of_files(table: "pa.Table", found: Sequence[Reading]) -> str | None:
    """The split of the folder that all files of a table are in."""
    if not found:
        return None
    splits = {_split_in(os.path.join(os.path.dirname(str(p)), "x")) for p in named_in(table, found[0].column)}
    return splits.pop() if len(splits) == 1 else None


def with_split(table: "pa.Table", splits: str | list[str]) -> "pa.Table":
    """The table with a column `split`, of one split for all rows or of each row's."""
    import pyarrow as pa

    cells = pa.repeat(splits, len(table)) if isinstance(splits, str) else pa.array(splits, pa.string())
    return table.append_column("split", cells)


def together(files: Sequence[str], tables: Sequence["pa.Table"], name: str) -> tuple["pa.Table", list[str]]:
    """Tables one after the other; what a column lacks in one is missing there, and noted."""
    import pyarrow as pa

    every = dict.fromkeys(column for table in tables for column in table.column_names)
    notes = [
        f"{file} has no column {', '.join(map(repr, lacking))}"
        for file, table in zip(files, tables, strict=True)
        if (lacking := [column for column in every if column not in table.column_names])
    ]
    try:
        return pa.concat_tables(tables, promote_options="permissive"), notes
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        for file, table in zip(files, tables, strict=True):
            for column in table.column_names:
                first = next(t for t in tables if column in t.column_names)
                here, there = (t.schema.field(column) for t in (table, first))
                try:
                    pa.unify_schemas([pa.schema([here]), pa.schema([there])], promote_options="permissive")
                except (pa.ArrowInvalid, pa.ArrowTypeError):
                    raise BadInput(
                        f"{name}/{file}: column {column!r} holds {in_words(here.type)}, "
                        f"in {files[tables.index(first)]} {in_words(there.type)}"
                    ) from None
        raise BadInput(f"{name}: {' '.join(str(error).split())}") from None


def called(name: str, file: str) -> str:
    """A file of a folder, or of a URL, that messages call `name`."""
    return f"{name.rstrip('/')}/{file}" if scheme_of(name) else str(Path(name) / file)


def manifest_of(
    root: Path,
    name: str,
    table: "pa.Table",
    parts: Sequence[tuple[str, int]],
    notes: Sequence[str],
    split_from: str | None,
) -> Manifest:
    """A table of one file is called so; one of several after the folder, and its rows after the file of each."""
    if len(parts) == 1:
        file = parts[0][0]
        return Manifest(
            called(name, file), root, table, _none, file=root / file, notes=tuple(notes), split_from=split_from
        )
    starts = np.cumsum([0, *(rows for _, rows in parts[:-1])])
    named = tuple((called(name, file), int(start)) for (file, _), start in zip(parts, starts, strict=True))
    return Manifest(name, root, table, _none, files=named, notes=tuple(notes), split_from=split_from)
