"""Rows with their vectors, and what is mined of them, split by split."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.splits import split_by
from clx.pipelines.measures.clusters import assign, centres_of
from clx.pipelines.measures.communities import communities, mutual
from clx.pipelines.system.errors import BadInput
from clx.pipelines.use.known_alike import Alike, Ints
from clx.pipelines.use.mine_wanted import Wanted
from clx.pipelines.use.mined_ranks import ASKED, Ranks, quantile, ranks, scores_of
from clx.pipelines.use.mined_sides import Side, Source

SAMPLED = 256
"""Rows of a cluster that its centre is learned from, on the mean: further ones hardly move it."""
DIVIDER = "|"
"""What divides the labels of a set in a text, where the run does not say."""


@dataclass
class Found:
    """What was mined, for each row of the source."""

    kept: NDArray[np.bool_]
    negatives: Ints
    """`[N, n]`: rows of the table, -1 for none; `nearest` likewise."""
    nearest: Ints
    clusters: Ints
    community: Ints
    cosines: NDArray[np.float32]
    """Of the negatives, `[N, n]`, and"""
    own: NDArray[np.float32]
    """of the row's own partner, `[N]`; NaN for none."""
    told: dict[str, Any]


def values_of(found: Found, wanted: Wanted, manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Columns of numbers and of sets of them, for the rows of a manifest."""
    values: dict[str, NDArray[Any]] = {}
    if wanted.clusters:
        texts = [[str(k) for k in row if k >= 0] for row in found.clusters.tolist()]
        own = [row[0] if row else None for row in texts]
        if wanted.within is not None:
            cells = [None if cell is None else str(cell) for cell in manifest.column(wanted.within)]
            own = [None if c is None or k is None else f"{c}/{k}" for c, k in zip(cells, own, strict=True)]
        values["cluster"] = np.array(own, dtype=object)
        if wanted.centres > 1:
            values["clusters"] = np.array(["|".join(row) or None for row in texts], dtype=object)
    if wanted.communities:
        values["community"] = found.community
    return values


@dataclass
class Mined:
    """Rows with their vectors."""

    source: Source
    sides: tuple[Side, Side]
    wanted: Wanted
    device: torch.device
    guide: tuple[Side, Side] | None = None
    step: Callable[[int], None] = lambda rows: None
    """Is told how many rows were compared with all candidates."""

    def found(self, same: tuple[str, ...]) -> Found:
        """Everything that is wanted. Raises `BadInput`."""
        manifest, wanted = self.source.manifest, self.wanted
        by, among = self.sides
        if (wanted.negatives or wanted.nearest) and among.column is None:
            raise BadInput(f"{among.name} reads several columns: --negatives and --nearest copy cells of one")
        if (wanted.consistent is not None or wanted.least is not None) and by is among:
            raise BadInput(
                f"--consistent and --least are about pairs, and {by.name} is compared with itself: --by, --in"
            )
        count = len(manifest)
        found = Found(
            np.ones(count, dtype=bool),
            np.full((count, wanted.negatives), -1, dtype=np.int64),
            np.full((count, wanted.nearest), -1, dtype=np.int64),
            np.full((count, min(wanted.centres, wanted.clusters)), -1, dtype=np.int64),
            np.full(count, -1, dtype=np.int64),
            np.full((count, wanted.negatives), np.nan, dtype=np.float32),
            np.full(count, np.nan, dtype=np.float32),
            {},
        )
        there = among.present()
        if not there.any():
            raise BadInput(f"{manifest.name}: no row has a vector of {among.name}")
        column = self.source.data.split
        splits = split_by(manifest, column) if column in manifest.columns else {"all": manifest}
        place = np.full(manifest.table.num_rows, -1, dtype=np.int64)
        place[manifest.rows] = np.arange(count)
        for part in splits.values():
            self._of_split(part, place[part.rows], there, same, found)
        if wanted.clusters:
            train = next((each for each in ("all", "train") if each in splits), next(iter(splits)))
            self._clusters(place[splits[train].rows], there, found)
        self._tell(found, by.present() & there)
        return found

    def _of_split(
        self, part: Manifest, rows: Ints, there: NDArray[np.bool_], same: tuple[str, ...], found: Found
    ) -> None:
        """What is mined within a split, whose rows stand at the places `rows` of the whole."""
        wanted = self.wanted
        by, among = self.sides
        data = self.source.data
        divided = {
            column: DIVIDER if data.several is None or column != data.label_column else data.several for column in same
        }
        alike = Alike.of(part, by.column, among.column, there[rows], divided)
        if not len(alike.candidates):
            return
        table_rows = part.rows[alike.candidates].astype(np.int64)
        if wanted.negatives or wanted.communities or wanted.consistent is not None or wanted.least is not None:
            ranked = ranks(by, among, rows, alike, wanted.depth, self.device, step=self.step)
            judged = ~np.isnan(ranked.own)
            if wanted.consistent is not None:
                found.kept[rows] &= ~judged | (ranked.before < wanted.consistent)
            if wanted.least is not None:
                found.kept[rows] &= ~judged | (ranked.own >= wanted.least)
            fit = self._fit(rows, alike, ranked)
            if wanted.negatives:
                chosen, cosines = self._chosen(rows, ranked, fit)
                found.negatives[rows] = np.where(chosen >= 0, table_rows[chosen], -1)
                found.cosines[rows], found.own[rows] = cosines, ranked.own
            if wanted.communities:
                self._communities(rows, alike, np.where(fit, ranked.numbers, -1), found)
        if wanted.nearest:
            numbers = ranks(by, among, rows, alike, wanted.nearest, self.device, guarded=False).numbers
            found.nearest[rows, : numbers.shape[1]] = np.where(numbers >= 0, table_rows[numbers], -1)

    def _fit(self, rows: Ints, alike: Alike, ranked: Ranks) -> NDArray[np.bool_]:
        """Which of the ranked candidates are fit to be negatives, `[N, R]`."""
        first, last = self.wanted.range
        fit = ranked.numbers >= 0
        fit[:, : first - 1] = False
        fit[:, last:] = False
        own = ranked.own[:, None]
        if self.wanted.margin is not None:
            fit &= ranked.scores <= own - self.wanted.margin
        if self.wanted.relative is not None:
            fit &= ranked.scores <= own - self.wanted.relative * np.abs(own)
        if self.guide is not None:
            said = scores_of(*self.guide, rows, alike, ranked.numbers, self.device)
            if self.wanted.quantile is None:
                partners = (self.guide[0].unit(rows) * self.guide[1].unit(rows)).sum(1)
                fit &= said <= partners.numpy()[:, None]
            else:
                fit &= said <= quantile(*self.guide, rows, alike, self.wanted.quantile, self.wanted.seed, self.device)
        return fit

    def _chosen(self, rows: Ints, ranked: Ranks, fit: NDArray[np.bool_]) -> tuple[Ints, NDArray[np.float32]]:
        """The negatives of each row `[N, n]`, nearest first, -1 behind them, and their cosines."""
        width = fit.shape[1]
        order = np.broadcast_to(np.arange(width, dtype=np.float64), fit.shape)
        if self.wanted.draw == "random":
            order = np.random.default_rng([self.wanted.seed, int(rows[0])]).random(fit.shape)
        picked = np.argsort(np.where(fit, order, np.inf), axis=1, kind="stable")[:, : self.wanted.negatives]
        picked = np.sort(np.where(np.take_along_axis(fit, picked, 1), picked, width), axis=1)  # nearest first again
        short = ((0, 0), (0, self.wanted.negatives - picked.shape[1]))  # there are fewer candidates than that
        picked = np.pad(picked, short, constant_values=width)
        behind = ((0, 0), (0, 1))
        numbers = np.pad(ranked.numbers, behind, constant_values=-1)
        cosines = np.pad(ranked.scores, behind, constant_values=np.nan)
        return np.take_along_axis(numbers, picked, 1), np.take_along_axis(cosines, picked, 1)

    def _communities(self, rows: Ints, alike: Alike, numbers: Ints, found: Found) -> None:
        """Communities of the kept rows of a split, numbered on from those before; the first row of equal cells stands
        for them."""
        kept = np.flatnonzero(found.kept[rows])
        node_of = np.full(len(rows) + 1, -1, dtype=np.int64)  # and of no row
        node_of[kept] = np.arange(len(kept))
        lists = node_of[np.where(numbers >= 0, alike.candidates[numbers], -1)][kept]
        by = self.sides[0]

        def likeness(nodes: Ints, others: Ints) -> NDArray[np.float64]:
            cosines = by.unit(rows[kept[nodes]], self.device) @ by.unit(rows[kept[others]], self.device).T
            return cosines.nan_to_num(nan=-2).cpu().double().numpy()

        made = communities(*mutual(lists), self.wanted.communities, likeness)
        found.community[rows[kept]] = made.of + found.community.max() + 1
        told = found.told.setdefault("communities", {"count": 0, "isolated": 0, "left": 0, "edges": 0})
        told["count"] += int(made.of.max(initial=-1)) + 1
        told["isolated"] += made.isolated
        told["left"] += made.left
        told["edges"] += round(made.degree * len(kept) / 2)

    def _clusters(self, train: Ints, there: NDArray[np.bool_], found: Found) -> None:
        """Clusters of train rows, and the nearest of all rows."""
        count, among = self.wanted.clusters, self.sides[1]
        train = train[there[train]]
        if count > len(train):
            raise BadInput(f"--clusters {count}: {len(train)} train rows have a vector of {among.name}")
        draw = torch.Generator().manual_seed(self.wanted.seed)
        sample = torch.randperm(len(train), generator=draw)[: SAMPLED * count].sort().values.numpy()
        centres = centres_of(among.unit(train[sample], self.device), count, draw)
        every = np.flatnonzero(there)
        for start in range(0, len(every), ASKED):
            some = every[start : start + ASKED]
            [(near, _)] = assign([among.unit(some, self.device)], centres, self.wanted.centres)
            found.clusters[some] = near.cpu().numpy()
        sizes = np.bincount(found.clusters[every, 0], minlength=count)
        found.told["clusters"] = {"count": count, "smallest": int(sizes.min()), "largest": int(sizes.max())}

    def _tell(self, found: Found, whole: NDArray[np.bool_]) -> None:
        """What is told in numbers, of the rows that are written."""
        wanted, kept = self.wanted, found.kept
        told: dict[str, Any] = {"without_vectors": int((~whole).sum())}
        if wanted.consistent is not None or wanted.least is not None:
            told["left_out"] = int((~kept).sum())
        if wanted.negatives:
            lacking = found.negatives[kept] < 0
            told |= {"negatives": {
                "rows_with_fewer": int(lacking.any(1).sum()),
                "empty_cells": int(lacking.sum()),
                "cosine": _mean(found.cosines[kept]),
                "partner_cosine": _mean(found.own[kept]),
            }}  # fmt: skip
        if wanted.nearest:
            told |= {"nearest": {"empty_cells": int((found.nearest[kept] < 0).sum())}}
        found.told = told | {k: v for k, v in found.told.items() if k in ("clusters", "communities")}


def _mean(values: NDArray[np.float32]) -> float | None:
    there = values[~np.isnan(values)]
    return float(there.mean(dtype=np.float64)) if len(there) else None
