"""Which column of a table names files, and how its cells are to be read: from which folder, with which extension."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from clx.pipelines.data.arrow_types import is_list
from clx.pipelines.data.file_kinds import kind_of_file
from clx.pipelines.data.split_names import split_of
from clx.pipelines.system.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLED = 50  # cells of a column that are looked at
MOST = 0.9  # of them name a file where a reading is right; the others are bad cells with their rows
CALLED = re.compile(r"id$|file|path|image|img|photo|audio|clip|wav|name")
"""Columns that name files without their extension are mostly called so."""


@dataclass
class Files:
    """The files below a folder, by what a cell may call them."""

    paths: Sequence[str]
    by_name: dict[str, list[str]] = field(default_factory=dict)
    by_stem: dict[str, list[str]] = field(default_factory=dict)
    """Names in composed form (NFC) to paths as the disk has them: macOS and older archives decompose accents."""

    def __post_init__(self) -> None:
        for path in self.paths:
            name = normalize("NFC", os.path.basename(path))
            self.by_name.setdefault(name, []).append(path)
            self.by_stem.setdefault(os.path.splitext(name)[0], []).append(path)

    def candidates(self, cell: str) -> list[tuple[str, str]]:
        """Files that a cell may name: the path, and the folder from which the cell counts then."""
        cell = normalize("NFC", cell.replace("\\", os.sep).replace("/", os.sep)).removeprefix("." + os.sep)
        base = os.path.basename(cell)
        named = [(path, cell) for path in self.by_name.get(base, [])]
        named = named or [(path, cell + os.path.splitext(path)[1]) for path in self.by_stem.get(base, [])]
        found = []
        for path, end in named:
            composed = normalize("NFC", path)
            if composed == end or composed.endswith(os.sep + end):
                found.append((path, os.sep.join(path.split(os.sep)[: -(end.count(os.sep) + 1)])))
        return found


@dataclass(frozen=True)
class Reading:
    """One way to find the files of a column."""

    column: str
    folder: str | None
    """Where its paths count from, below the root; None where each name is found once, in whatever folder."""
    bare: bool
    """Whether the cells lack the extension."""
    backslashes: bool = False
    """Whether cells have them between folders, as Windows does."""

    def said(self, file: str) -> str:
        """In words, of a table called `file`."""
        where = "found by name in several folders" if self.folder is None else f"below {self.folder or 'the folder'}"
        bare = ", without their extension" if self.bare else ""
        return f"{file}, column {self.column}: files {where}{bare}{', backslashes read as /' * self.backslashes}"


def readings(table: "pa.Table", files: Files, beside: str) -> list[Reading]:
    """Every way in which a column of the table names files; the paths may count from the folder `beside`, which wins.

    Columns whose cells have an extension go before identifiers, text before whole numbers.
    """
    found: list[Reading] = []
    for column, cells in sampled(table):
        tried = [files.candidates(cell) for cell in cells]
        if sum(map(bool, tried)) < MOST * len(tried):
            continue
        bare = not any(kind_of_file(cell) or os.path.basename(cell) in files.by_name for cell in cells)
        counts: dict[str, int] = {}
        for each in tried:
            for folder in {folder for _, folder in each}:
                counts[folder] = counts.get(folder, 0) + 1
        if bare and (len(set(cells)) < len(cells) or is_list(table.schema.field(column).type)):
            continue  # classes 0 to 9 are no names of 0.png to 9.png, and a list of words is none of files
        likely = [folder for folder, count in sorted(counts.items()) if count >= MOST * len(tried)]
        if beside in likely:
            likely = [beside]
        if likely:
            found += [Reading(column, folder, bare, any("\\" in cell for cell in cells)) for folder in likely]
        elif sum(len(each) == 1 for each in tried) >= MOST * len(tried):
            found.append(Reading(column, None, bare))
    named = [reading for reading in found if not reading.bare]
    return named or found


def one_reading(found: Sequence[Reading], split: str | None, name: str) -> list[Reading]:
    """The reading of each column. Those of the folders of a split are taken for a table of it. Raises `BadInput`
    where a column has several, and where several identifiers name files."""
    chosen = []
    for column in dict.fromkeys(reading.column for reading in found):
        of_column = [reading for reading in found if reading.column == column]
        if len(of_column) > 1 and split is not None:
            own = [r for r in of_column if split in map(split_of, (r.folder or "").split(os.sep))]
            of_column = own or of_column
        if len(of_column) > 1:
            places = " and below ".join(repr(reading.folder or ".") for reading in of_column[:3])
            raise BadInput(
                f"{name}, column {column}: its cells name files below {places}: -s data.root=FOLDER says which "
                "folder is meant"
            )
        chosen += of_column
    bare = [reading.column for reading in chosen if reading.bare]
    called = [column for column in bare if CALLED.search(column.lower())]
    if len(bare) > 1 and len(called) == 1:
        return [reading for reading in chosen if reading.column == called[0]]
    if len(bare) > 1:
        raise BadInput(f"{name}: columns {' and '.join(map(repr, bare))} both name files, without extension: keep one")
    return chosen


def placed(table: "pa.Table", reading: Reading, files: Files) -> "pa.Table":
    """The table with the paths of a column counted from the root; a cell that names no file stays below its folder."""
    import pyarrow as pa

    whole = {path: path for path in files.paths}
    stems = {os.path.splitext(path)[0]: path for path in files.paths} if reading.bare else {}

    def path_of(cell: Any) -> Any:
        if cell is None or cell == "":
            return None
        if isinstance(cell, list):
            return [path_of(each) for each in cell]
        text = str(cell)
        plain = os.path.join(reading.folder or "", text)
        if reading.folder is not None and (hit := whole.get(plain) or stems.get(plain)) is not None:
            return hit  # the others are looked for by name, of which there may be one in every folder
        fits = [path for path, folder in files.candidates(text) if reading.folder in (None, folder)]
        return fits[0] if fits else os.path.join(reading.folder or "", text)

    index = table.column_names.index(reading.column)
    kind = pa.list_(pa.string()) if is_list(table.schema.field(index).type) else pa.string()
    return table.set_column(index, reading.column, pa.array(map(path_of, table.column(index).to_pylist()), kind))


def named_in(table: "pa.Table", column: str) -> list[Any]:
    """The cells of a column, those in its lists one by one."""
    return list(_one_by_one(table.column(column).to_pylist()))


def _one_by_one(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        yield from value if isinstance(value, list) else [value]


def sampled(table: "pa.Table") -> Iterable[tuple[str, list[str]]]:
    """Columns of text, lists of it or whole numbers that may name files, with some of their cells."""
    import pyarrow.types as types

    step = max(1, table.num_rows // SAMPLED)
    for column in table.column_names:
        kind = table.schema.field(column).type
        one = kind.value_type if is_list(kind) else kind
        if not (types.is_string(one) or types.is_large_string(one) or (types.is_integer(one) and one is kind)):
            continue
        cells_of = table.column(column)  # `take` would first join all its pieces
        some = [cells_of[i].as_py() for i in range(0, table.num_rows, step)]
        values = [value for value in _one_by_one(some) if value is not None]
        cells = [text for value in values if (text := str(value).strip())]
        if cells and all(len(cell) < 256 and "\n" not in cell for cell in cells):
            yield column, cells
