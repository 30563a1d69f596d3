"""Answers that nothing can be learned from: one class, a target that is always the same, infinite targets."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clx.pipelines.data.classes import class_of
from clx.pipelines.data.distinct import distinct, readable_numbers
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
            if column not in manifest.columns:
                continue
            for i in np.flatnonzero(np.isinf(readable_numbers(manifest, column)[0])).tolist():
                yield WrongAnswer("bad cell", manifest.where(i), column, infinite(manifest.cell(i, column)))
        values, odd = readable_numbers(train, column)
        known = np.unique(values[np.isfinite(values)])
        if len(known) < 2 and not odd:
            found = f"all rows that have one have {known[0]:g}" if len(known) else "no row has one"
            reason = f"a target needs two different values to learn from; {found}: name another with data.target"
            yield WrongAnswer("constant target", train.name, column, reason)
    if label is not None and label not in target:
        for manifest in splits.values():  # of class folders
            named = manifest.path_column is not None and label in manifest.columns
            for cell in distinct(manifest, label)[0] if named else ():
                if cell is not None and class_of(cell) is None:
                    reason = f"the class folder {cell!r} reads as a missing label: rename it"
                    yield WrongAnswer("class folder", manifest.name, label, reason)
        names = {class_of(value) for value in distinct(train, label)[0]} - {None}
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
