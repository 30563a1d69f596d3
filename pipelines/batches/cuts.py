"""What is said of cells before time is spent on them: what they were taken for, and what of them is cut."""

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

SAMPLED = 2000  # rows that are looked at
PATIENCE = 1.0
"""Seconds after which no more rows are looked at, of all modalities together."""


def cut_lines(manifest: Manifest, modalities: Mapping[str, Modality]) -> Iterator[str]:
    """A line for each modality of which some cells are cut, by up to 2000 rows spread over the manifest."""
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
            where = manifest.where(first)
            yield cut_line(cut, seen, column_of(name, modality), modality, where) + sample


def guessed_lines(modalities: Mapping[str, Modality]) -> list[str]:
    """What modalities took their cells for without being told, a line each."""
    return [f"modalities.{name}: {line}" for name, modality in modalities.items() for line in modality.understood()]


def cut_line(cut: int, of: int, column: str | list[str], modality: Modality, where: str) -> str:
    """How many cells are cut, and the first."""
    named = column if isinstance(column, str) else ", ".join(column)
    return (
        f"{cut} of {of} cells of {named} ({cut / of:.1%}) are longer than {modality.limit}: what follows has no "
        f"effect; the first is {where}"
    )


def is_cut(modality: Modality, cell: object) -> bool:
    """Whether a cell, or one of a pair or of several, is longer than what is read of it."""
    several = isinstance(cell, tuple) and modality.pair is not None or isinstance(cell, list) and modality.takes_several
    parts: Any = cell if several else (cell,)
    return any(
        modality.cut(part) for part in parts if not isinstance(part, Url | Piece)
    )  # which are not fetched for it
