"""Positives from the data: rows of one recording or subject, near each other in time."""

import numpy as np

from clx.pipelines.config.data_schema import Near
from clx.pipelines.data.manifest import Manifest, seconds


class Neighbours:
    """For every row the rows of its group that lie within reach of its time; itself when it is alone."""

    def __init__(self, manifest: Manifest, near: Near) -> None:
        groups = manifest.column(near.group)
        known: dict[str, int] = {}
        # a row without a group is one of its own
        codes = np.array([-1 - i if g is None else known.setdefault(str(g), len(known)) for i, g in enumerate(groups)])
        times = np.zeros(len(codes))
        if near.time is not None:
            times = seconds(manifest, near.time, "data.neighbours", near.day_first, f"within = {near.within:g}")
            codes = np.where(np.isnan(times), -1 - np.arange(len(codes)), codes)
        order = np.lexsort((times, codes))
        self._order = order
        self._place = np.empty_like(order)
        self._place[order] = np.arange(len(order))
        starts = np.flatnonzero(np.diff(codes[order], prepend=codes[order[:1]] - 1))
        ends = np.append(starts[1:], len(order))
        self._first, self._last = np.empty_like(order), np.empty_like(order)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            sorted_times = times[order[start:end]]
            reach = np.inf if near.within is None else near.within
            self._first[start:end] = start + np.searchsorted(sorted_times, sorted_times - reach, "left")
            self._last[start:end] = start + np.searchsorted(sorted_times, sorted_times + reach, "right")

    def draw(self, i: int, bits: int) -> int:
        """One of the neighbours of row `i` by 64 random bits, not itself unless it has none."""
        place = int(self._place[i])
        first, last = int(self._first[place]), int(self._last[place])
        if last - first < 2:
            return i
        pick = first + bits % (last - first - 1)
        return int(self._order[pick + (pick >= place)])

    def alone(self) -> int:
        """How many rows have no neighbour."""
        return int((self._last - self._first < 2).sum())
