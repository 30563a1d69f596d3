"""Lists of words that a CSV holds as text, `["a cat", "one cat"]` in JSON or `['a cat', 'one cat']` in Python."""

import ast
import json
from typing import TYPE_CHECKING, Any

from clx.pipelines.system.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLED = 100  # cells that decide what a column is


def with_lists(table: "pa.Table", name: str) -> "pa.Table":
    """The same with columns whose cells are such lists as columns of lists; lists of numbers stay text.

    Raises `BadInput` for the first row, of a file called `name`, that is no list where nine cells in ten are.
    """
    import pyarrow as pa

    for place, column in enumerate(table.column_names):
        cells = table.column(column)
        sample = [text for text in cells.slice(0, SAMPLED).to_pylist() if text and not text.isspace()]
        if not sample or not _mostly_lists(sample):
            continue
        found: list[list[str] | None] = []
        for i, text in enumerate(cells.to_pylist()):
            words = words_of(text) if text and not text.isspace() else []
            if words is None:
                raise BadInput(f"{name} row {i + 1}, column {column}: not a list like the others: {text[:60]!r}")
            found.append(words if text and not text.isspace() else None)
        table = table.set_column(place, column, pa.array(found, pa.list_(pa.string())))
    return table


def _mostly_lists(sample: list[str]) -> bool:
    """Whether nine texts in ten are lists of words; stops at the first that decide they are not."""
    others = 0
    for text in sample:
        others += words_of(text) is None
        if others > 0.1 * len(sample):
            return False
    return True


def words_of(text: str) -> list[str] | None:
    """The words of a list in text, JSON or Python; None for what is no list of words."""
    bare = text.strip()
    if not (bare.startswith("[") and bare.endswith("]")):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            found: Any = parse(bare)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and all(isinstance(word, str) for word in found):
            return found
        return None
    return None
