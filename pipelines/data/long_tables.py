"""A table with one row per time step becomes one row per series."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from clx.modalities.series_times import TooSparse, between, places, spread
from clx.pipelines.config.series_schema import Long
from clx.pipelines.data.distinct import numbers
from clx.pipelines.data.manifest import Manifest, seconds
from clx.pipelines.data.windows import TIMES, Values, _parts, lists, refuse_own_columns
from clx.pipelines.system.errors import BadInput, ClxWarning

Places = NDArray[np.int64]
MOST_MADE = 1000
"""Steps that `every` may make of each that is given."""


def grouped(
    manifest: Manifest,
    long: Long,
    needed: Sequence[str],
    timed: bool = False,
    shares: Mapping[str, float] | None = None,
) -> Manifest:
    """One row per series from a table with one row per time step: `id`, `series` and all columns that are the same
    in all rows of each series, as those of `needed` must be. With `timed` also `times`, the time of each step as
    text. With the `shares` that `parted` will cut, even steps of a part are made of nothing behind it. Raises
    `BadInput`, naming the row or the series."""
    import pyarrow as pa

    for column in (long.id, long.time):
        if column is not None:
            manifest.require(column)
    refuse_own_columns(manifest, long.id, ("series", TIMES), "data.long")
    channels = _channels(manifest, long)
    name = long.id or "recording"
    ids = [Path(manifest.name).stem] * len(manifest) if long.id is None else manifest.column(long.id)
    unit_of = None if long.every is None else f"every = {long.every:g}"
    times = seconds(manifest, long.time, "data.long", long.day_first, unit_of)
    for lacking, column in ((np.array([i is None for i in ids]), name), (np.isnan(times), long.time)):
        if lacking.any():
            raise BadInput(f"{manifest.where(int(lacking.argmax()))}, column {column}: empty")
    known: dict[str, int] = {}
    codes = np.array([known.setdefault(str(i), len(known)) for i in ids])
    order = np.lexsort((times, codes))
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    times = times[order]
    again = np.flatnonzero((np.diff(times) == 0) & (np.diff(codes[order]) == 0))
    if len(again):
        row = int(order[again[0] + 1])
        raise BadInput(f"{manifest.where(row)}: {name} {ids[row]} has this {long.time} twice")
    values = np.stack([numbers(manifest, column) for column in channels], 1)[order]
    spans = np.split(times, starts[1:])
    if long.every is not None:
        _refuse_dense(manifest, spans, long.time, long.every)
    at = _holes(manifest, spans, list(known), long)
    parts = zip(spans, np.split(values, starts[1:]), at, strict=True)
    made = [_sampled(time, part, where, long, shares or {}) for time, part, where in parts]
    columns: dict[str, Any] = {name: list(known), "series": lists(made)}
    for column in manifest.columns:
        if column in (long.id, long.time, *channels):
            continue
        cells = manifest.column(column)
        sorted_cells = [cells[i] for i in order]
        first = [sorted_cells[start] for start in starts]
        changed = next((k for k, cell in enumerate(sorted_cells) if cell != first[codes[order[k]]]), None)
        if changed is None:
            refuse_own_columns(manifest, column, {"series", TIMES, *columns} - {long.id}, "data.long")
            columns[column] = first
        elif column in needed:
            row = int(order[changed])
            raise BadInput(f"{manifest.where(row)}: {column!r} changes within {name} {ids[row]}")
    if timed:
        cells = np.array([str(cell) for cell in manifest.column(long.time)])[order]
        dated = not _is_number(cells[0])
        texts = zip(np.split(cells, starts[1:]), spans, at, strict=True)
        columns[TIMES] = [_told(text, time, where, long.every, dated) for text, time, where in texts]
    table = pa.table(columns)
    every = np.arange(len(table))
    return replace(manifest, name=f"{manifest.name} by {name}", table=table, rows=every, path_column=None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _holes(manifest: Manifest, spans: Sequence[Values], names: Sequence[str], long: Long) -> list[Places | None]:
    """Places of the steps of each series on its even grid, where steps are missing from one and are to be holes.

    Warns of how many there are. Raises `BadInput` where they are too many to be meant.
    """
    if long.every is not None or long.stamps or not long.holes:
        return [None] * len(spans)
    found = []
    for name, time in zip(names, spans, strict=True):
        try:
            found.append(places(time))
        except TooSparse as error:
            ways = "data.long.holes=false puts what is there side by side, data.long.every=N bridges"
            raise BadInput(f"{manifest.name}, {long.id or 'recording'} {name}: {error}; {ways}") from None
    gone = [0 if at is None else int(at[-1]) + 1 - len(at) for at in found]
    if sum(gone):
        name = names[int(np.flatnonzero(gone)[0])]
        warn(
            f"{manifest.name}: {sum(gone)} steps are missing between even times, first in {name}, and are holes in "
            f"{np.count_nonzero(gone)} of {len(gone)} series (data.long.holes=false: none, data.long.every: bridged)",
            ClxWarning,
            stacklevel=2,
        )
    return found


def _told(text: Any, time: Values, at: Places | None, every: float | None, dated: bool) -> Any:
    """The times of the steps of a series as text: as they were given, and those that were made."""
    if every is not None:
        return _text(_grid(time, every), dated)
    if at is None:
        return text
    told = np.array(_text(between(time, at), dated), dtype=object)
    told[at] = text
    return told


def _text(even: Values, dated: bool) -> list[str]:
    if dated:
        return [str(time) for time in (even * 1e6).round().astype("datetime64[us]")]
    return [f"{value:.15g}" for value in even]


def _grid(time: Values, every: float) -> Values:
    return np.asarray(time[0] + every * np.arange(int((time[-1] - time[0]) / every + 1e-9) + 1))


def _refuse_dense(manifest: Manifest, spans: Sequence[Values], column: str, every: float) -> None:
    """Raise `BadInput` where most steps would be made up: `every` is then in another unit than the times."""
    made, given = sum((time[-1] - time[0]) / every for time in spans), sum(map(len, spans))
    if made > MOST_MADE * given:
        raise BadInput(
            f"{manifest.name}, column {column}: every = {every:g} makes {made:.3g} steps of {given}: it counts in the "
            "unit of the times, in seconds for dates"
        )


def _channels(manifest: Manifest, long: Long) -> list[str]:
    found = []
    for pattern in long.channels:
        matched = [pattern] if pattern in manifest.columns else fnmatch.filter(manifest.columns, pattern)
        if not matched:
            manifest.require(pattern)
        found += [column for column in matched if column not in (long.id, long.time)]
    return list(dict.fromkeys(found))


def _sampled(time: Values, values: Values, at: Places | None, long: Long, shares: Mapping[str, float]) -> Values:
    """`[T, C]` of one series: at even times on straight lines between its values, with the time gone by as one more
    channel, or at its places with holes between, as asked. A line into a later part would tell what is to come: a
    part ends with its last value."""
    if at is not None:
        return spread(values, at)
    if long.every is not None:
        even = _grid(time, long.every)
        sampled = np.full((len(even), values.shape[1]), np.nan)
        for starts, stops in _parts(np.array([[0, len(even)]]), shares).values():
            start, stop = int(starts[0]), int(stops[0])
            # Even times are rounded: one of those given that is meant to be the next part's first is no earlier.
            end = even[stop] - 1e-3 * long.every if stop < len(even) else np.inf
            for c, channel in enumerate(values.T):
                here = (time < end) & np.isfinite(channel)
                if here.any():
                    sampled[start:stop, c] = np.interp(even[start:stop], time[here], channel[here])
        values = sampled
    if long.stamps:
        values = np.concatenate([values, np.diff(time, prepend=time[0])[:, None]], 1)
    return values
