"""Cells that are given by the name of their modality: files, and what a program holds in memory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clx.pipelines.batches.columns import column_of
from clx.pipelines.model.build import Run
from clx.pipelines.system.errors import BadInput

TAKEN = {
    "image": "a path, the bytes of a file or pixels [H, W] or [H, W, 3] (uint8, or floats from 0 to 1)",
    "audio": "a path, the bytes of a file or samples [S] at the run's rate, {rate} Hz (floats from -1 to 1, or int16)",
    "series": "a path, the bytes of a file or values [T] or [T, C] in the units of the data",
    "table": "the path of a JSON object, or a mapping of columns to values",
    "text": "a text",
}
"""What a cell of a kind may be."""
LOUDEST = 10.0
"""Largest sample of floats: decoded sound goes a little beyond 1, integers that were made floats far beyond."""


def name_of(given: Any) -> str:
    """What is to be looked up as a file, JSON or a sentence. Raises `BadInput` for what is neither text nor path."""
    if isinstance(given, str | Path):
        return str(given)
    example = '{"audio": ..}' if isinstance(given, np.ndarray) else '{"image": "a.png"}'
    raise BadInput(f"expected a text, a path or a mapping such as {example}, found {_shown(given)}")


def given_cell(run: Run, name: str, value: Any) -> Any:
    """The cell of a modality from what is given: what `TAKEN` says; of a pair two of them. Raises `BadInput`."""
    modality = run.modalities[name]
    if modality.pair is not None and isinstance(value, tuple) and len(value) == 2:
        return tuple(_cell(run, name, one) for one in value)
    if modality.pair is not None:
        raise BadInput(f"{name}: expected a tuple of two, found {_shown(value)}")
    return _cell(run, name, value)


def _cell(run: Run, name: str, value: Any) -> Any:
    modality = run.modalities[name]
    if modality.kind == "table" and isinstance(value, Mapping):
        return _columns(run, name, value, name)
    if modality.kind == "table" and isinstance(value, str | Path):
        return table_row(run, name, Path(value))
    if modality.kind == "text" and isinstance(value, str):
        return value
    if modality.files and isinstance(value, str | Path):
        return Path(value)
    found = _shown(value)
    if modality.kind == "audio" and isinstance(value, np.ndarray) and (wrong := _wrong_samples(value)):
        found += f" {wrong}"
    elif modality.files and isinstance(value, bytes | np.ndarray):
        return value
    taken = TAKEN.get(modality.kind, "a path").format(rate=getattr(modality, "sample_rate", "?"))
    raise BadInput(f"{name}: expected {taken}, found {found}")


def _wrong_samples(samples: np.ndarray[Any, Any]) -> str | None:
    """Why samples are of no scale that is known, to stand after what they are; a manifest's are taken on any scale."""
    if samples.dtype.kind != "f":
        return None if samples.dtype == np.int16 else f"of {samples.dtype}"
    highest = np.abs(samples).max(initial=0)
    return f"of {samples.dtype} with values up to {highest:.3g}" if highest > LOUDEST else None


def _shown(value: Any) -> str:
    kind = type(value).__name__
    return f"{kind} {list(value.shape)}" if isinstance(value, np.ndarray) else kind


def table_columns(run: Run, name: str) -> list[str]:
    """The columns that a table modality reads."""
    columns = column_of(name, run.modalities[name])
    return columns if isinstance(columns, list) else [columns]


def table_row(run: Run, name: str, path: Path) -> dict[str, Any]:
    """A table's cells from a JSON object; columns that it lacks are missing cells."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not a JSON object ({error})") from None
    return _columns(run, name, row, str(path))


def _columns(run: Run, name: str, row: Any, where: str) -> dict[str, Any]:
    """The columns that a table reads, of a row that has some of them."""
    columns = table_columns(run, name)
    if not isinstance(row, Mapping) or not set(row) & set(columns):
        raise BadInput(f"{where}: expected a JSON object with some of the columns {', '.join(columns)}")
    return {column: row.get(column) for column in columns}
