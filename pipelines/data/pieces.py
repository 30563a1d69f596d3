"""Cells that are a piece of a large file: a member of a tar file, or a cell of a row group of Parquet elsewhere.

A table has them as text, which is a path like any other: `train-000.tar#1536+4711/0001.jpg` are the 4711 bytes from
byte 1536 on, `train-000.parquet#3:127/image.png` is the 128th row of the fourth row group, column `image`.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clx.modalities.files import LARGEST_FILE, open_file
from clx.pipelines.data.arrow_types import is_text
from clx.pipelines.system.remote import NotGiven, Url, part

if TYPE_CHECKING:
    import pyarrow as pa

TEXT = re.compile(r"(.+\.(?i:tar|parquet))#(\d+)([+:])(\d+)/([^/]+)", re.DOTALL)


@dataclass(frozen=True)
class Piece:
    """Where the bytes of a cell are."""

    of: Path | Url
    first: int
    """Byte of a tar file, or row group."""
    second: int
    """Number of bytes, or row in the group."""
    name: str
    """Of the member, or of the column with the extension of what it holds."""
    of_group: bool

    def __str__(self) -> str:
        return f"{self.of}, {self.name}"

    @property
    def elsewhere(self) -> bool:
        return isinstance(self.of, Url)

    @property
    def key(self) -> str:
        """What tells it from every other, of a file of this machine with its size and time of change."""
        file = self.of.text if isinstance(self.of, Url) else str(self.of)
        with suppress(OSError):
            if isinstance(self.of, Path):
                there = self.of.stat()
                file += f" {there.st_size} {there.st_mtime_ns}"
        return f"{file}#{self.first}{':' if self.of_group else '+'}{self.second}/{self.name}"


def written(file: str, start: int, size: int, member: str) -> str:
    """The text of a cell that is a member of a tar file called `file` in its folder."""
    return f"{file}#{start}+{size}/{member.replace('/', '_').encode('utf-8', 'replace').decode()}"


def split_text(cell: str) -> tuple[str, int, bool, int, str] | None:
    """File, first number, whether that is a row group, second number and name; None for a text that is no piece."""
    match = TEXT.fullmatch(cell)
    return None if match is None else (match[1], int(match[2]), match[3] == ":", int(match[4]), match[5])


def content(piece: Piece) -> bytes:
    """The bytes of a member of a tar file. Raises `NotGiven`, `Unreachable`, and `CellError` of the file."""
    if piece.second > LARGEST_FILE:
        raise NotGiven(f"{piece}: {piece.second / 1e6:.0f} MB, more than the {LARGEST_FILE / 1e6:.0f} MB that are read")
    if isinstance(piece.of, Url):
        return part(piece.of, piece.first, piece.first + piece.second)
    with open_file(piece.of, sys.maxsize) as file:
        file.seek(piece.first)
        found = file.read(piece.second)
    if len(found) < piece.second:
        raise NotGiven(f"{piece}: the file breaks off before its end")
    return found


def columns_of_pieces(table: "pa.Table") -> Iterator[str]:
    """Columns whose cells are pieces, by the first that there is."""
    for field in table.schema:
        if is_text(field.type):
            cells = (cell.as_py() for chunk in table.column(field.name).chunks for cell in chunk.slice(0, 100))
            first = next((cell for cell in cells if cell), None)
            if first is not None and TEXT.fullmatch(first):
                yield field.name


def below(table: "pa.Table", folder: str) -> "pa.Table":
    """The table of a file in `folder`, with pieces whose paths count from the folder that this is in."""
    import pyarrow.compute as pc

    for column in list(columns_of_pieces(table)) if folder else ():
        at = table.column_names.index(column)
        table = table.set_column(at, column, pc.binary_join_element_wise(folder, table.column(column), os.sep))
    return table
