"""What is said of cells before time is spent on them: what they were taken for, and what of them is cut."""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from clx.modalities.base import CellError, Modality
from clx.pipelines.batches.cells import cell_at
from clx.pipelines.batches.columns import column_of, spread
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.pieces import Piece
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.remote import Url

NUMBER = re.compile(r"(\d+(?:\.\d+)?)")
SAMPLED = 2000  # rows that are looked at
PATIENCE = 1.0
"""Seconds after which no more rows are looked at, of all modalities together."""


def cut_lines(manifest: Manifest, modalities: Mapping[str, Modality]) -> Iterator[str]:
    """A line if cells are cut, of all modalities, by up to 2000 rows spread over the manifest."""
    found: list[tuple[str, str]] = []
    until = time.monotonic() + PATIENCE
    for name, modality in spread(modalities).items():  # of negatives in several columns each by itself
        if not modality.limit:
            continue
        rows = np.unique(np.linspace(0, len(manifest) - 1, min(len(manifest), SAMPLED)).astype(int))
        first, cut, seen = len(manifest), 0, 0
        for i in np.random.default_rng(0).permutation(rows).tolist():  # so that few of them are spread as well
            if seen and time.monotonic() > until:
                break
            with suppress(CellError, BadInput):
                cell = cell_at(manifest, i, name, modality)
                seen += cell is not None
                if cell is not None and is_cut(modality, cell):
                    first, cut = min(first, i), cut + 1
        if cut:
            sample = f" (of {seen} looked at)" if seen < len(manifest) else ""
            column = column_of(name, modality)
            line = cut_line(cut, seen, column, modality, manifest.where(first).rpartition("/")[2]) + sample
            found.append((f"{spoken(column)} {cut} of {seen}{sample} over {modality.limit}", line))
    if len(found) == 1:
        yield found[0][1]
    elif found:
        first_row = found[0][1].rpartition("; ")[2]
        told = ", ".join(short for short, _ in found)
        yield f"cells are longer than what is read, so that what follows has no effect: {told}; {first_row}"


def guessed_lines(modalities: Mapping[str, Modality]) -> list[str]:
    """What modalities took their cells for without being told; lines that differ in their numbers alone are one."""
    alike: dict[tuple[str, ...], list[tuple[str, list[str]]]] = {}
    for name, modality in modalities.items():
        for line in modality.understood():
            parts = NUMBER.split(line)
            alike.setdefault(tuple(parts[::2]), []).append((f"modalities.{name}", parts[1::2]))
    lines = []
    for texts, some in alike.items():
        numbers = [", ".join(dict.fromkeys(each)) for each in zip(*(found for _, found in some), strict=True)]
        whole = "".join(text + number for text, number in zip(texts, [*numbers, ""], strict=True))
        lines.append(f"{', '.join(name for name, _ in some)}: {whole}")
    return lines


def spoken(column: str | list[str]) -> str:
    """A column, or several, in words."""
    return column if isinstance(column, str) else ", ".join(column)


def cut_line(cut: int, of: int, column: str | list[str], modality: Modality, where: str) -> str:
    """How many cells are cut, and the first."""
    return (
        f"{cut} of {of} cells of {spoken(column)} ({cut / of:.1%}) are longer than {modality.limit}: what follows has "
        f"no effect; the first is {where}"
    )


def is_cut(modality: Modality, cell: object) -> bool:
    """Whether a cell, or one of a pair or of several, is longer than what is read of it."""
    several = isinstance(cell, tuple) and modality.pair is not None or isinstance(cell, list) and modality.takes_several
    parts: Any = cell if several else (cell,)
    return any(
        modality.cut(part) for part in parts if not isinstance(part, Url | Piece)
    )  # which are not fetched for it
