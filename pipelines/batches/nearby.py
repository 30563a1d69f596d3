"""Batches that grow around rows and their neighbours: near in space first, then by what a model makes of them.

After Deuser, Habel & Oswald 2023, arXiv 2303.11851 (Sample4Geo), but that rows which would be false negatives of each
other never meet.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clx.pipelines.batches.columns import require_column
from clx.pipelines.batches.loader import came_before
from clx.pipelines.batches.passes import Passes, Rows
from clx.pipelines.config.batches_schema import Batches
from clx.pipelines.config.schema import Config
from clx.pipelines.data.distinct import numbers
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.shared_content import inputs_of, sharing
from clx.pipelines.data.values import values_of
from clx.pipelines.system.errors import BadInput

FAILURES = 1024
"""Rows in a row that do not go into a batch, after which a pass ends."""
MOST = 1_000_000
"""Rows of which neighbours are looked for."""
LATITUDE, LONGITUDE = ("lat", "latitude"), ("lon", "lng", "long", "longitude")
Codes = NDArray[np.int32]
"""`[N]`, equal for rows that may not meet; -1 for those that may meet any."""


class Draw(Protocol):
    """What an order needs of a generator."""

    def permutation(self, x: Any) -> Any:
        """The numbers in another order."""


def grown(
    pool: Sequence[int],
    neighbours: Callable[[int], Rows],
    size: int,
    bring: int,
    apart: Sequence[Codes],
    used: NDArray[np.bool_],
    draw: Draw,
) -> Rows:
    """Batches `[P, size]`: rows of the pool in order, each with the nearest `bring / 2` of its neighbours and as many
    drawn from the others, as long as there is room; no row twice, and none that clash by `apart`.

    Args:
        neighbours: the rows near one, the nearest first.
        used: `[N]`, rows that are in none; those of the batches, and of the last that did not get full, are set.
    """
    found: list[list[int]] = []
    batch: list[int] = []
    seen: list[set[int]] = [set() for _ in apart]
    waiting, clashed = deque(pool), list[int]()

    def takes(row: int) -> bool:
        codes = [int(codes[row]) for codes in apart]
        if used[row] or any(code >= 0 and code in of for code, of in zip(codes, seen, strict=True)):
            return False
        for code, of in zip(codes, seen, strict=True):
            of.add(code)
        used[row] = True
        batch.append(row)
        return True

    while waiting and len(clashed) < FAILURES:
        row = waiting.popleft()
        if used[row]:
            continue
        if not takes(row):
            clashed.append(row)
            continue
        if len(batch) < size:
            near = neighbours(row)
            for other in [*near[: bring // 2], *draw.permutation(near[bring // 2 :])[: bring // 2]]:
                if takes(int(other)) and len(batch) == size:
                    break
        if len(batch) == size:
            found.append(batch)
            batch, seen = [], [set() for _ in apart]
            waiting.extendleft(reversed(clashed))
            clashed = []
    return np.array(found, dtype=np.int32).reshape(-1, size)


class Near(Passes):
    """A period of so many batches is drawn at once: by places in the first one, and after it, where `then`, by lists of
    neighbours that are given for each."""

    def __init__(self, places: "Places", apart: list[Codes], batch_size: int, seed: int, period: int, asked: Batches):
        super().__init__(batch_size, seed)
        self.places, self.apart, self.asked = places, [places.codes, *apart], asked
        self.per_pass = period
        self.reach = asked.reach or batch_size
        self._turns: tuple[int, Rows] = -1, np.empty((0, batch_size), dtype=np.int64)

    @property
    def renewed(self) -> bool:
        """Whether each period after the first has lists of its own."""
        return self.asked.then is not None

    def step(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        turn, place = divmod(number, self.per_pass)
        batches = self.batches(turn)
        if self._turns[0] != turn:  # a row may be in several batches of a period
            self._turns = turn, came_before(batches.ravel().astype(np.int64)).reshape(batches.shape)
        return batches[place].astype(np.int64), (turn << 20) + self._turns[1][place]

    def drawn(self, draw: np.random.Generator) -> Rows:
        return self._period(self.places.around(self.reach, draw), draw)

    def batches(self, turn: int) -> Rows:
        assert not self.renewed or turn == 0 or self._held[0] == turn, "its neighbours are not known"
        return super().batches(turn)

    def renew(self, turn: int, neighbours: Rows) -> Rows:
        """Draw a period from lists `[N, K]` of the rows near each, the nearest first, -1 behind the last."""
        draw = np.random.default_rng([self.seed, 7, turn])
        found = self._period(lambda row: neighbours[row][neighbours[row] >= 0], draw)
        self.hold(turn, found)
        return found

    def hold(self, turn: int, batches: Rows) -> None:
        """Take the batches of a period for what they were."""
        self._held = turn, batches

    @property
    def held(self) -> tuple[int, Rows]:
        """The newest period and its batches."""
        return self._held

    def _period(self, neighbours: Callable[[int], Rows], draw: np.random.Generator) -> Rows:
        count, made = len(self.places.codes), list[Rows]()
        while sum(map(len, made)) < self.per_pass:
            pool = draw.permutation(count).tolist()
            used = np.zeros(count, dtype=bool)
            more = grown(pool, neighbours, self.batch_size, max(2, self.batch_size // 2), self.apart, used, draw)
            if not len(more):
                raise BadInput(
                    f"train.batches.near: no batch of {self.batch_size} rows can be made of {count} rows at "
                    f"{self.places.count} places without two that share a place, the content of an input"
                    + (f" or their {self.asked.distinct}" if self.asked.distinct else "")
                    + ": a smaller train.batch_size"
                )
            made.append(more)
        return np.concatenate(made)[: self.per_pass]

    @property
    def rule(self) -> str:
        where = " and ".join(self.asked.near or [])
        then = ", then by the embeddings of the model" if self.renewed else ""
        return f"rows near each other by {where}{' on the sphere' if self.places.sphere else ''}{then}"

    def described(self) -> dict[str, Any]:
        batches = self.batches(0) if self._held[0] <= 0 else self._held[1]
        return {
            "rule": self.rule,
            "places": self.places.count,
            "rows_without_a_place": int((self.places.codes < 0).sum()),
            "neighbours": min(self.reach, max(0, self.places.count - 1)),
            "batches_of_a_period": self.per_pass,
            "rows_left_out_of_a_period": len(self.places.codes) - len(np.unique(batches)),
        }

    def line(self) -> str:
        at = self.described()
        without = f", {at['rows_without_a_place']} rows without one" if at["rows_without_a_place"] else ""
        left = at["rows_left_out_of_a_period"]
        out = f"; {left} of {len(self.places.codes)} rows are in none of them" if left else ""
        return (
            f"batches: {self.rule}. {at['places']} places{without}, {at['neighbours']} neighbours of each; "
            f"drawn for {self.per_pass} steps at a time{out}"
        )


class Places:
    """Where rows are, and which places are near each other."""

    def __init__(self, at: NDArray[np.float64], sphere: bool) -> None:
        """`at` `[N, D]`, NaN for none; with `sphere` latitude and longitude in degrees."""
        self.sphere = sphere
        if sphere:
            lat, lon = np.deg2rad(at.T)
            at = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
        known = np.flatnonzero(np.isfinite(at).all(1))
        self.at, of = np.unique(at[known], axis=0, return_inverse=True)
        self.codes = np.full(len(at), -1, dtype=np.int32)
        self.codes[known] = of.ravel()
        self.count = len(self.at)
        self._near: Rows | None = None

    def near(self, reach: int) -> Rows:
        """The places near each `[P, K]`, the nearest first."""
        if self._near is None:
            from sklearn.neighbors import NearestNeighbors

            few = min(reach, self.count - 1)
            tree = NearestNeighbors(n_neighbors=few + 1, algorithm="kd_tree").fit(self.at)
            parts = [self.at[start : start + 4096] for start in range(0, self.count, 4096)]
            found = [tree.kneighbors(part, return_distance=False)[:, 1:].astype(np.int32) for part in parts]
            self._near = np.concatenate(found)
        return self._near

    def around(self, reach: int, draw: np.random.Generator) -> Callable[[int], Rows]:
        """For a row, one row of each place near its own, the nearest first: another one each time it is asked for."""
        if self.count < 2:
            return lambda row: np.empty(0, dtype=np.int32)
        near = self.near(reach)
        rows = draw.permutation(np.flatnonzero(self.codes >= 0)).astype(np.int32)
        rows = rows[np.argsort(self.codes[rows], kind="stable")]
        counts = np.bincount(self.codes[rows], minlength=self.count)
        first, asked = np.cumsum(counts) - counts, np.zeros(self.count, dtype=np.int64)

        def neighbours(row: int) -> Rows:
            if self.codes[row] < 0:
                return rows[:0]
            places = near[self.codes[row]]
            found: Rows = rows[first[places] + asked[places] % counts[places]]
            asked[places] += 1
            return found

        return neighbours


def nearby(config: Config, asked: Batches, train: Manifest) -> Near:
    """What `train.batches.near` asks for. Raises `BadInput`."""
    key, columns, settings = "train.batches.near", asked.near or [], config.train
    if len(train) > MOST:
        raise BadInput(
            f"{key}: neighbours are looked for among {MOST} rows at most, and there are {len(train)}: make a column of "
            "rows that belong together (clx mine --communities) and set train.batches.together"
        )
    for column in columns:
        require_column(column, key, train)
    sphere = asked.degrees if asked.degrees is not None else called_so(columns)
    at = np.stack([numbers(train, column) for column in columns], axis=1)
    if sphere and (wrong := np.flatnonzero((np.abs(at) > [90, 360]).any(1))).size:
        raise BadInput(
            f"{train.where(int(wrong[0]))}: {columns[0]} {at[wrong[0], 0]:g}, {columns[1]} {at[wrong[0], 1]:g} is no "
            "place in degrees: train.batches.degrees: false takes the columns as plain numbers"
        )
    apart: list[Codes] = []
    shared = sharing(train, inputs_of(config))
    if shared.columns:
        apart.append(shared.groups.astype(np.int32))
    if asked.distinct is not None:
        require_column(asked.distinct, "train.batches.distinct", train)
        apart.append(values_of(train, asked.distinct, "train.batches.distinct").codes)
    per_epoch = max(1, len(train) // settings.batch_size)
    period = max(1, round((asked.refresh or 1) * per_epoch)) if asked.then else per_epoch
    return Near(Places(at, sphere), apart, settings.batch_size, settings.seed, period, asked)


def called_so(columns: Sequence[str]) -> bool:
    """Whether two columns are called latitude and longitude, in this order."""
    named = [column.lower() for column in columns]
    return len(named) == 2 and named[0] in LATITUDE and named[1] in LONGITUDE
