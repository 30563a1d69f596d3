"""Tables with a row per time step, by their columns: whose steps, when, and what was measured."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from clx.modalities.numbers import class_name
from clx.pipelines.data.column_kinds import ID_NAME, Column
from clx.pipelines.data.manifest import Manifest, seconds
from clx.pipelines.system.errors import BadInput, ClxWarning

TIME = {"time", "timestamp", "t", "datetime", "date", "step", "timestep", "seconds", "ts", "frame", "ms"}
USABLE_TIMES = ("number", "date", "an index", "category", "an identifier")
WHOSE = {
    *("recording", "series", "case", "subject", "session", "trial", "unit", "sequence", "patient", "device", "track"),
    *("segment", "stretch", "bout", "episode"),
}
WHO = re.compile(r"(patient|subject|participant|person|speaker|donor|recording|session)([ _-]?(id|no|number|code))?")
TWICE = 0.1  # of the rows, doubled ones: with more the rows are no steps
STEPS = 5  # per series on average, at least
WINDOWED, SHORTEST, LARGEST = 256, 32, 512  # steps


def find_long(manifest: Manifest, columns: Mapping[str, Column], answers: Sequence[str]) -> dict[str, Any] | None:
    """`data.long` for a table in which a column says whose steps the rows are, and time rises within each.

    Args:
        columns: that may be part of it.
        answers: label or targets; where they change within a series, rows are no steps of it, which is warned of.
    """
    times = [name for name, column in columns.items() if _bare(name) in TIME and column.kind in USABLE_TIMES]
    whose = [name for name, column in columns.items() if _is_whose(name, column)]
    channels = [name for name, column in columns.items() if column.kind == "number" and name not in (*times, *whose)]
    if len(times) != 1 or not whose or not channels:
        return None
    try:
        when = seconds(manifest, times[0], "data.long")
    except BadInput:
        return None
    whole = {name: changing for name in whose if (changing := _changing(manifest, name, when, answers)) is not None}
    series = [name for name, changing in whole.items() if not changing]
    if series:  # of a recording and its subject the recording, of which there are more
        return {"id": max(series, key=lambda name: columns[name].distinct), "time": times[0], "channels": channels}
    for name, changing in whole.items():
        said = f"{changing} changes within a {name}, so each row is learned by itself"
        do = f"--group {name} keeps its rows in one split; a column 'stretch' that numbers those of one {changing}"
        warn(f"{manifest.name}: {said}; {do} makes series of them", ClxWarning, stacklevel=2)
    return None


def _changing(manifest: Manifest, whose: str, when: NDArray[np.float64], answers: Sequence[str]) -> str | None:
    """The first answer that changes within a series, "" for none; None where time does not rise within each."""
    ids = np.array([str(value) for value in manifest.column(whose)])
    names, codes = np.unique(ids, return_inverse=True)
    order = np.lexsort((when, codes))
    within = np.diff(codes[order]) == 0
    if len(ids) < STEPS * len(names) or np.isnan(when).any():
        return None
    if twice := int((np.diff(when[order])[within] == 0).sum()):
        if twice < TWICE * len(ids):
            said = f"{twice} of {len(ids)} rows have the time of another row of their {whose}"
            do = "so each row is learned by itself: take such rows out, and series are made of the others"
            warn(f"{manifest.name}: {said}, {do}", ClxWarning, stacklevel=3)
        return None
    for answer in answers:
        cells = np.array([str(value) for value in manifest.column(answer)])[order]
        if (cells[1:] != cells[:-1])[within].any():
            return answer
    return ""


def say_who_comes_again(name: str, columns: Mapping[str, Column], splits: Mapping[str, Manifest], drawn: bool) -> None:
    """Warn of a column of patients or the like: of one with several rows each, where val rows will be `drawn` row by
    row, and of one whose patients have rows for training and others in val or test."""
    for column in columns.values():
        if not WHO.fullmatch(column.name.strip().lower()):
            continue
        if drawn and column.distinct > 2 and 2 * column.distinct <= column.known:
            said = f"{name}: val rows are drawn one by one, and several rows share a {column.name}"
            warn(f"{said}: --group {shlex.quote(column.name)} keeps these in one split", ClxWarning, stacklevel=2)
        known: set[str | None] | None = None
        for split in ("val", "test"):
            if split not in splits or any(column.name not in splits[each].columns for each in ("train", split)):
                continue
            known = {*map(class_name, splits["train"].column(column.name))} - {None} if known is None else known
            both = sum(class_name(cell) in known for cell in splits[split].column(column.name))
            if both:
                said = f"{name}: {both} of {len(splits[split])} {split} rows have a {column.name} of training rows"
                warn(f"{said}: figures of new ones may be lower", ClxWarning, stacklevel=2)


def windows_for(steps: Sequence[int]) -> dict[str, int] | None:
    """Windows for series of so many steps, where they are long or few: a quarter of the middle length, half apart."""
    middle = int(np.median(steps))
    if middle < WINDOWED or (len(steps) >= 50 and middle < 4 * WINDOWED):
        return None
    length = int(np.clip(2 ** int(np.log2(middle / 4)), SHORTEST, LARGEST))
    return {"length": length, "stride": length // 2}


def _bare(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalpha())


def _is_whose(name: str, column: Column) -> bool:
    """A name of recordings or subjects, or of an identifier, whose values come again."""
    named = _bare(name) in WHOSE or ID_NAME.fullmatch(name.strip().lower()) is not None
    return named and column.kind not in ("an index", "empty") and column.distinct < column.known
