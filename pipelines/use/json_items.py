"""Inputs that are JSON themselves: which texts are, and what a modality takes from an object."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from clx.modalities.base import Modality
from clx.pipelines.batches.cells import one_or_several
from clx.pipelines.batches.columns import column_of


def cell_of_json(row: dict[str, Any], name: str, modality: Modality) -> Any:
    """The cell of one modality in a JSON object; None when it is missing."""
    column = column_of(name, modality)
    if isinstance(column, list):
        return {each: row.get(each) for each in column} if any(row.get(each) is not None for each in column) else None
    value = row.get(column)
    if isinstance(value, list) and modality.takes_several and any(isinstance(one, str) for one in value):
        return one_or_several([Path(one) if modality.files else one for one in value if one])
    if isinstance(value, str) and modality.files:
        return Path(value) if value else None
    return np.array(value, dtype=float) if isinstance(value, list) else value


def is_json(name: str) -> bool:
    """Whether a name is an object or list itself; `[ab].png` is a pattern."""
    text = name.strip()
    return text.startswith("{") or (text.startswith("[") and text.endswith("]"))


def is_object(name: str) -> bool:
    """Whether a name is a JSON object, whole and well-formed; other words in braces are a phrase where phrases are."""
    try:
        return is_json(name) and isinstance(json.loads(name), dict)
    except (ValueError, RecursionError):
        return False
