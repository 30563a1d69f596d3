"""Labels that are sets: lists in the label's column, text that `data.several` divides, or columns of their own."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from clx.pipelines.config.data_schema import ABSENT_LABELS, Data
from clx.pipelines.data.arrow_types import decoded, is_list, is_text
from clx.pipelines.data.classes import class_of
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.stretches import pieces
from clx.pipelines.system.errors import BadInput

if TYPE_CHECKING:
    pass

DIVIDERS = "|;"
"""What may divide labels and hardly stands in the name of one."""
MANY = 0.1
"""Share of cells with a divider from which a column of single labels is not believed."""


def holds_sets(data: Data, manifest: Manifest) -> bool:
    """Whether the label's column of a manifest holds sets of labels."""
    if data.label_column is None or data.label_column in data.target or data.label_column not in manifest.columns:
        return False
    kind = manifest.table.schema.field(data.label_column).type
    return is_list(kind) or (bool(data.several) and is_text(decoded(kind)))


def absent_column(data: Data, manifest: Manifest) -> str | None:
    """The column with labels known not to apply to a row, where labels are columns; else each that does not is."""
    return ABSENT_LABELS if isinstance(data.label, list) and ABSENT_LABELS in manifest.columns else None


def labels_in(cell: Any, several: str | Literal[False] | None) -> list[str] | None:
    """The labels of a cell, each once: the entries of a list, the parts of a text divided by `several`, else the one
    label that it is. None for a missing cell: nothing is known then; an empty list is a row without any label."""
    if isinstance(cell, list | tuple | np.ndarray):
        parts = [part.item() if isinstance(part, np.generic) else part for part in cell]
    elif (whole := class_of(cell)) is None:
        return None
    else:
        parts = cell.split(several) if isinstance(cell, str) and several else [whole]
    return list(dict.fromkeys(name for part in parts if (name := class_of(part)) is not None))


def levels_of(classes: Sequence[str], divider: str | None) -> list[list[int]] | None:
    """Of each class, the number of its name at each level of its path, -1 behind its end; None without a divider.

    Equal names have one number, at whatever level and below whatever. Raises `BadInput` where no class has two levels.
    """
    if divider is None:
        return None
    paths = [[name.strip() for name in label.split(divider)] for label in classes]
    deepest = max(map(len, paths), default=0)
    if deepest < 2:
        few = ", ".join(classes[:5])
        raise BadInput(f"data.levels: {divider!r} divides none of the labels, {few or 'of which there are none'}")
    numbers = {name: k for k, name in enumerate(sorted({name for path in paths for name in path}))}
    return [[numbers[name] for name in path] + [-1] * (deepest - len(path)) for path in paths]


def spoken(cell: Any, several: str | Literal[False] | None = None) -> str | None:
    """A cell as one text: a list as its entries divided by `several`, else by `|`."""
    if not isinstance(cell, list | tuple | np.ndarray):
        return None if cell is None else str(cell)
    return (several or "|").join(labels_in(cell, None) or [])


def check_label_sets(data: Data, splits: Mapping[str, Manifest]) -> str | None:
    """A warning where a few cells of the label's column look divided and `data.several` does not say whether they are.

    Raises `BadInput` where many do: trained on, every combination would be a class of its own; and for a set where
    `data.balance` wants the frequency of a class.
    """
    said = None
    for manifest in splits.values():
        if data.balance is not None and not data.target and holds_sets(data, manifest):
            raise BadInput("data.balance weighs rows by their class or target: a set of labels has neither")
        if data.label_column is None or data.label_column in data.target:
            continue
        found = divided(data.label_column, data.several, manifest)
        if found is None:
            continue
        text, share = found
        if share >= MANY:
            raise BadInput(text)
        said = said or text
    return said


def divided(label: str, several: str | Literal[False] | None, manifest: Manifest) -> tuple[str, float] | None:
    """What to say of labels that look like several in one text and may be read as either, and their share of the cells;
    None where there are none or `several` is given."""
    import pyarrow.compute as pc

    if several is not None or label not in manifest.columns:
        return None
    kind = decoded(manifest.table.schema.field(label).type)
    if not is_text(kind):
        return None
    hold = {mark: np.empty(len(manifest), dtype=bool) for mark in DIVIDERS}
    for rows, piece in pieces(manifest, label):
        for mark, found in hold.items():
            found[rows] = pc.match_substring(piece.cast(kind), mark).fill_null(False).to_numpy(zero_copy_only=False)
    mark, holds = max(hold.items(), key=lambda each: int(each[1].sum()))
    if not holds.any():
        return None
    first, total = int(holds.argmax()), len(manifest)
    text = (
        f"{manifest.where(first)}: {label} is {manifest.cell(first, label)!r}, and {int(holds.sum())} of "
        f"{total} cells hold {mark!r}: -s 'data.several=\"{mark}\"' makes them sets of labels, "
        "-s data.several=false takes each as the name of one class"
    )
    return text, float(holds.sum() / total)
