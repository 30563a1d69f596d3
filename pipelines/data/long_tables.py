"""A table with one row per time step becomes one row per series."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clx.pipelines.config.data_schema import Long
from clx.pipelines.data.manifest import Manifest, numbers, seconds
from clx.pipelines.data.windows import TIMES, Values, _parts, lists, refuse_own_columns
from clx.pipelines.system.errors import BadInput


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
    where = f"{manifest.name}, column {long.time}"
    times = seconds(manifest.column(long.time), where)
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
    parts = zip(np.split(times, starts[1:]), np.split(values, starts[1:]), strict=True)
    made = [_sampled(time, part, long, shares or {}) for time, part in parts]
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
        parts = zip(np.split(cells, starts[1:]), np.split(times, starts[1:]), strict=True)
        columns[TIMES] = [(part if long.every is None else _even(time, long.every, dated)) for part, time in parts]
    table = pa.table(columns)
    every = np.arange(len(table))
    return replace(manifest, name=f"{manifest.name} by {name}", table=table, rows=every, path_column=None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _even(time: Values, every: float, dated: bool) -> list[str]:
    """Even times as text, from the first of those given as far as the last."""
    even = _grid(time, every)
    if dated:
        return [str(time) for time in (even * 1e6).round().astype("datetime64[us]")]
    return [f"{value:.15g}" for value in even]


def _grid(time: Values, every: float) -> Values:
    return np.asarray(time[0] + every * np.arange(int((time[-1] - time[0]) / every + 1e-9) + 1))


def _channels(manifest: Manifest, long: Long) -> list[str]:
    found = []
    for pattern in long.channels:
        matched = [pattern] if pattern in manifest.columns else fnmatch.filter(manifest.columns, pattern)
        if not matched:
            manifest.require(pattern)
        found += [column for column in matched if column not in (long.id, long.time)]
    return list(dict.fromkeys(found))


def _sampled(time: Values, values: Values, long: Long, shares: Mapping[str, float]) -> Values:
    """`[T, C]` of one series: at even times on straight lines between its values, or with the time gone by as one
    more channel, as asked. A line into a later part would tell what is to come: a part ends with its last value."""
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
