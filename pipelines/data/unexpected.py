"""What one might not expect of how cells of classes and categories are read, in words."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from clx.modalities.numbers import is_dash, missing
from clx.pipelines.data.classes import class_of
from clx.pipelines.data.distinct import distinct
from clx.pipelines.data.manifest import Manifest

MOST = 3
"""Words, and pairs of classes, in a line."""


def unexpected(column: str, splits: Mapping[str, Manifest], label: bool) -> Iterator[str]:
    """Words such as `none` that stand for a missing cell, with how many cells have them; of a `label` also classes
    whose names differ in nothing but the case of letters."""
    cells = Counter[Any]()
    for manifest in splits.values():
        if column in manifest.columns:
            values, of_row = distinct(manifest, column)
            counts = np.bincount(of_row, minlength=len(values)).tolist()
            cells.update({v: n for v, n in zip(values, counts, strict=True) if isinstance(v, str) and n})
    words = Counter[str]()
    for cell, count in cells.items():
        if cell.strip() and missing(cell) and not is_dash(cell):
            words[cell.strip()] += count
    if words:
        said = ", ".join(f"{count} cells {word!r}" for word, count in words.most_common(MOST))
        what = "class" if label else "category"
        yield f"column {column}: {said} count as missing: write another word where that is a {what}"
    if label:
        alike: dict[str, dict[str, None]] = {}
        for name in filter(None, map(class_of, cells)):
            alike.setdefault(name.casefold(), {})[name] = None
        pairs = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
        if pairs:
            more = f" and {len(pairs) - MOST} more" if len(pairs) > MOST else ""
            yield f"column {column}: {', '.join(pairs[:MOST])}{more} are classes of their own, by the case of letters"
