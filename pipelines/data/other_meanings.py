"""Columns that are read as what they are, and mostly mean something else: each a line for people to see."""

import re
from collections.abc import Iterator, Mapping

from clx.pipelines.data.column_kinds import SAMPLED, Column
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.number_columns import plain_number

MOSTLY = 0.9
"""Share of the cells that have to look so."""
NUMBERS = re.compile(r"\[?\s*[-+]?[\d.]+(e[-+]?\d+)?([\s,;]+[-+]?[\d.]+(e[-+]?\d+)?){3,}\s*\]?", re.IGNORECASE)
DATE = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(\.0)?")
PARTS = {
    "audio": ({"start", "starttime", "onset", "begin", "offset"}, "from when to when"),
    "image": ({"xmin", "x1", "bboxx", "left", "bbox", "bboxx1"}, "where in a picture"),
}
"""Names of columns by which rows are parts of a file, and what they say."""


def other_meanings(manifest: Manifest, columns: Mapping[str, Column], uses: Mapping[str, str]) -> Iterator[str]:
    """A line for each column in use that reads as numbers or text, and may be dates, series or parts of files."""
    first = manifest.take(range(min(len(manifest), SAMPLED)))
    for name, use in uses.items():
        found = columns.get(name)
        if found is None or not use.startswith("input"):
            continue
        if found.kind == "number":
            yield from _dates(name, first)
        elif found.kind == "text" and not found.captions:
            yield from _lists(name, first)
        elif found.kind in PARTS and found.distinct < found.known:
            yield from _parts(name, found.kind, columns)


def _dates(name: str, first: Manifest) -> Iterator[str]:
    cells = {f"{value:.0f}" for cell in first.column(name) if (value := plain_number(cell)) is not None}
    if len(cells) > 2 and all(map(DATE.fullmatch, cells)):
        cell = min(cells)
        date = f"{cell[:4]}-{cell[4:6]}-{cell[6:]}"
        yield f"column {name}: {cell} is read as a number; where dates are meant, write {date}"


def _lists(name: str, first: Manifest) -> Iterator[str]:
    cells = [cell for cell in first.column(name) if isinstance(cell, str)]
    listed = [cell for cell in cells if NUMBERS.fullmatch(cell.strip())]
    if cells and len(listed) >= MOSTLY * len(cells) and any(map(re.compile(r"[.,;\[-]").search, listed)):
        shown = listed[0].strip()[:20]
        yield f"column {name}: {shown!r}... is read as a text; where a series is meant, write [1.5, 2, ...]"


def _parts(name: str, kind: str, columns: Mapping[str, Column]) -> Iterator[str]:
    names, said = PARTS[kind]
    told = next(
        (
            n
            for n, c in columns.items()
            if re.sub(r"[\W_]", "", n.lower()) in names and c.kind in ("number", "an index")
        ),
        None,
    )
    if told is not None:
        yield (
            f"column {name}: files come again, and {told} may say {said} a row is from; each row reads its whole file: "
            "cut the parts into files of their own where that is meant"
        )
