"""Rows of other splits that hold what training rows hold: an image, a recording, a text or a group."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from warnings import warn

import numpy as np

from clx.pipelines.config.schema import Config
from clx.pipelines.data.builtin import is_builtin
from clx.pipelines.data.draw import held_together
from clx.pipelines.data.groups import Keys
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.shared_content import identifies, inputs_of, keys_of, roots_of
from clx.pipelines.data.stretches import blocks
from clx.pipelines.system.errors import ClxWarning


def _again(asked: Keys, learned: Keys) -> tuple[int, int]:
    """The first of the asked rows whose key a learned row has, and how many there are."""
    order = np.sort(asked)
    known = np.zeros(len(order), dtype=bool)
    for block in blocks(len(learned)):
        at = np.searchsorted(order[:-1], learned[block])
        known[at[order[at] == learned[block]]] = True  # the first of equal ones
    first, count = len(asked), 0
    for block in blocks(len(asked)):
        here = known[np.searchsorted(order, asked[block])] & (asked[block] != 0)
        if here.any():
            first = min(first, block.start + int(here.argmax()))
            count += int(here.sum())
    return first, count


def warn_of_leaks(splits: Mapping[str, Manifest], config: Config) -> None:
    """Warn of rows of other splits that share an image, a recording, a text or a group with a training row (`leaks`).

    Windows of series are not looked at: still stretches are equal by nature. Nor is built-in data, whose splits are
    published ones.
    """
    if not any(map(is_builtin, config.data.sources)) and (found := leaks_of(splits, config)):
        warn(told_at_once(found), ClxWarning, stacklevel=2)


def leaks_of(splits: Mapping[str, Manifest], config: Config) -> list["Leak"]:
    """What rows of other splits share with training rows by the inputs, other than windows, and groups of a config."""
    windowed = None if config.data.windows is None else config.data.windows.column
    inputs = {column: files for column, files in inputs_of(config).items() if column != windowed}
    return list(found_leaks(splits, inputs, groups_of(config)))


class Leak(NamedTuple):
    """Rows of a split that share a cell with training rows."""

    split: str
    rows: int
    column: str
    shared: int
    here: str
    there: str
    """The first of them, and the training row."""

    def line(self) -> str:
        """In words."""
        return (
            f"{self.shared} of {self.rows} {self.split} rows have the {self.column} of a training row: "
            f"{self.here} that of {self.there}"
        )


def told_at_once(found: Sequence[Leak]) -> str:
    """One line of all leaks, with the first as the example, by the names of its files alone."""
    first = found[0]._replace(here=found[0].here.rpartition("/")[2], there=found[0].there.rpartition("/")[2])
    if len(found) == 1:
        return first.line()
    splits: dict[str, list[Leak]] = {}
    for leak in found:
        splits.setdefault(leak.split, []).append(leak)
    told = "; ".join(
        f"of {some[0].rows} {split} rows {', '.join(f'{leak.shared} the {leak.column}' for leak in some)}"
        for split, some in splits.items()
    )
    return f"rows have what a training row has: {told}; {first.here} has the {first.column} of {first.there}"


def groups_of(config: Config) -> list[str]:
    """Columns that are to hold rows together, other than those of inputs."""
    return [column for column in held_together(config.data) if column not in inputs_of(config)]


def leaks(splits: Mapping[str, Manifest], inputs: Mapping[str, bool], groups: Sequence[str] = ()) -> Iterable[str]:
    """The lines of `found_leaks`."""
    return (leak.line() for leak in found_leaks(splits, inputs, groups))


def found_leaks(
    splits: Mapping[str, Manifest], inputs: Mapping[str, bool], groups: Sequence[str] = ()
) -> Iterable[Leak]:
    """For each column of inputs, or of groups, and split: whether it has cells that training has, too."""
    train = splits["train"]
    if len(splits) == 1:
        return
    apart = len(roots_of(splits.values())) > 1
    roots = {split: manifest.root if apart else Path() for split, manifest in splits.items()}
    for column, files in {**inputs, **dict.fromkeys(groups, False)}.items():
        if column not in train.columns:
            continue
        learned = keys_of(train, column, roots["train"] if files else None)
        if column not in groups and not identifies(train, column, learned, files):
            continue
        for split, manifest in splits.items():
            if split == "train" or column not in manifest.columns:
                continue
            asked = keys_of(manifest, column, roots[split] if files else None)
            again, count = _again(asked, learned)
            if count:
                first = int(again)
                there = train.where(int((learned == asked[first]).argmax()))
                yield Leak(split, len(manifest), column, count, manifest.where(first), there)
