"""A first guess at what the columns of a manifest mean."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clx.pipelines.data.file_kinds import kind_of_bytes, kind_of_file
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.split_names import split_of

SAMPLED = 1000  # rows looked at
MEDIA = ("image", "audio", "series")
TEXT = {"text", "caption", "captions", "sentence", "description", "title", "prompt", "transcript", "question"}
LABEL = {"label", "labels", "class", "class_name", "classname", "category"}
TARGET = {"target", "score", "y", "value", "rating", "price"}


@dataclass
class Inferred:
    """What the columns of a manifest seem to be."""

    modalities: dict[str, dict[str, Any]] = field(default_factory=dict)
    """As in a config: options by name."""
    label: str | None = None
    target: list[str] = field(default_factory=list)
    split: str | None = None
    unused: dict[str, str] = field(default_factory=dict)
    """Columns left out, with the reason."""


def infer_modalities(manifest: Manifest) -> Inferred:
    """Guess from file extensions, leading bytes, names and up to 1000 rows spread over the manifest."""
    rows = np.unique(np.linspace(0, len(manifest) - 1, min(len(manifest), SAMPLED)).astype(int))
    sampled = [manifest.row(int(i)) for i in rows]
    found, kinds = Inferred(), {}
    for column in manifest.columns:
        values = [row[column] for row in sampled if row[column] is not None]
        # The files of a folder are what they were found to be, also without an extension.
        kinds[column] = kind = column if column == manifest.path_column else _kind(column, values)
        if kind in ("split", "label"):
            if getattr(found, kind) is None:
                setattr(found, kind, column)
            else:
                found.unused[column] = f"a second {kind}"
        elif kind == "target":
            found.target.append(column)
        elif kind not in (*MEDIA, "text", "number", "category"):
            found.unused[column] = kind
    for kind in (*MEDIA, "text"):
        named = [column for column in kinds if kinds[column] == kind]
        for column in named:
            name = kind if len(named) == 1 else _identifier(column, found.modalities)
            options = {} if name == kind else {"kind": kind}
            found.modalities[name] = options if name == column else {**options, "column": column}
    numbers = [column for column in kinds if kinds[column] == "number"]
    categories = [column for column in kinds if kinds[column] == "category"]
    if numbers or (categories and not found.modalities):
        found.modalities["table"] = {"columns": [c for c in kinds if c in {*numbers, *categories}]}
    else:
        found.unused |= {column: "a category" for column in categories}
    return found


def _kind(column: str, values: list[Any]) -> str:
    """The role of a column, or the reason to leave it out."""
    name = column.strip().lower()
    if not values or not name:
        return "empty" if not values else "it has no name"
    if name in ("split", "fold", "subset", "partition") and all(split_of(str(v)) for v in values):
        return "split"
    if all(isinstance(value, np.ndarray) for value in values):
        return "series"
    if all(isinstance(value, bytes) for value in values):
        return _most([kind_of_bytes(value) for value in values]) or "bytes of an unknown type"
    if all(isinstance(value, str) for value in values) and (kind := _most([kind_of_file(v) for v in values])):
        return kind
    distinct = len({str(value) for value in values})
    if all(_number(value) is not None for value in values):
        return _numeric_kind(name, [float(value) for value in values], distinct)
    if not all(isinstance(value, str | bool | int | float) for value in values):
        return f"cells of type {type(values[0]).__name__}"
    if name in LABEL or (name in TARGET and distinct <= 20):
        return "label"
    return _text_kind(name, [str(value) for value in values], distinct)


def _numeric_kind(name: str, values: list[float], distinct: int) -> str:
    whole = all(value.is_integer() for value in values)
    if name in LABEL:
        return "label"
    if name in TARGET:
        return "label" if whole and distinct <= 20 and name in ("target", "y") else "target"
    if name in ("id", "index", "idx") or name.endswith("_id"):
        return "an identifier"
    return "number" if distinct > 1 else "one value only"


def _text_kind(name: str, values: list[str], distinct: int) -> str:
    words = sum(len(value.split()) for value in values) / len(values)
    if name.rstrip("0123456789_") in TEXT or words >= 3:
        return "text"
    if distinct == 1:
        return "one value only"
    if len(values) > 20 and distinct > 0.9 * len(values):
        return "an identifier" if words < 1.5 else "text"
    return "category"


def _most(kinds: list[str | None]) -> str | None:
    """The kind that nine cells in ten have."""
    kind, count = Counter(kinds).most_common(1)[0]
    return kind if count >= 0.9 * len(kinds) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _identifier(column: str, taken: dict[str, Any]) -> str:
    name = "".join(c if c.isalnum() else "_" for c in column)
    name = name if name.isidentifier() else f"input_{name}"
    return name if name not in taken else f"{name}_{len(taken)}"
