"""Answers that nothing can be learned from: one class, a target that is always the same, infinite targets."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from clx.pipelines.data.classes import class_of
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.system.errors import BadInput


class WrongAnswer(NamedTuple):
    """What is wrong with a label or target, and where."""

    what: str
    where: str
    column: str
    reason: str


def wrong_answers(
    splits: Mapping[str, Manifest], label: str | None, target: Sequence[str], *, cells: bool = True
) -> Iterator[WrongAnswer]:
    """Infinite targets of all splits, by row, unless `cells` are looked at elsewhere; then columns of the training
    rows in which all answers are the same. Cells that are no numbers are for their readers to name."""
    train = splits["train"]
    for column in target:
        for manifest in splits.values() if cells else ():
            for i, value in enumerate(manifest.column(column) if column in manifest.columns else ()):
                if is_infinite(value):
                    yield WrongAnswer("bad cell", manifest.where(i), column, infinite(value))
        values = [value for value in train.column(column) if value is not None]
        known = {number for number in map(number_of, values) if number is not None}
        if len(known) < 2 and all(number_of(value) is not None or is_infinite(value) for value in values):
            found = f"all rows that have one have {known.pop():g}" if known else "no row has one"
            reason = f"a target needs two different values to learn from; {found}: name another with data.target"
            yield WrongAnswer("constant target", train.name, column, reason)
    if label is not None and label not in target:
        for manifest in splits.values():  # of class folders
            named = manifest.path_column is not None and label in manifest.columns
            for cell in dict.fromkeys(manifest.column(label) if named else ()):
                if cell is not None and class_of(cell) is None:
                    reason = f"the class folder {cell!r} reads as a missing label: rename it"
                    yield WrongAnswer("class folder", manifest.name, label, reason)
        names = {class_of(value) for value in train.column(label)} - {None}
        if len(names) < 2:
            found = f"all rows that have one have {names.pop()!r}" if names else "no row has one"
            reason = f"a label needs two classes to tell apart; {found}: name another with data.label, or none"
            yield WrongAnswer("one class", train.name, label, reason)


def refuse_wrong_answers(splits: Mapping[str, Manifest], label: str | None, target: Sequence[str], skip: bool) -> None:
    """Raise `BadInput` for the first wrong answer; with `skip` rows with an infinite target are left out later on."""
    for _, where, column, reason in wrong_answers(splits, label, target, cells=not skip):
        raise BadInput(f"{where}, column {column}: {reason}")


def infinite(value: Any) -> str:
    """What to say of an infinite target."""
    return f"{value} is no target to learn from or to measure an error by: give a finite number, or an empty cell"


def is_infinite(value: Any) -> bool:
    """Whether a cell is an infinite number, or the text of one."""
    try:
        return value is not None and math.isinf(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


def number_of(value: Any) -> float | None:
    """A cell as a finite number; None where it is none."""
    try:
        number = math.nan if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
