"""Nearest neighbours by less than the vectors themselves: shorter codes, an index, or both, with their recall.

EMB.image.3fa9c1d2e4b5.int8.npy      codes of the vectors of `image`; beside a file, and in a folder of parts as
_image.3fa9c1d2e4b5.int8.usearch     `_image...`. The digest is that of the files: of others they are made anew
"""

import glob
import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clx.pipelines.system.cores import usable_cores
from clx.pipelines.system.durable_files import replacing, unwritable, write_text
from clx.pipelines.system.errors import BadInput, Failed
from clx.pipelines.use import codes
from clx.pipelines.use.embedding_files import CHUNK, ROWS, EmbeddingFile
from clx.pipelines.use.neighbours import Hit, best, check_width, neighbours

ASKED = 64
"""Rows that recall is measured with."""
CLOSE = 1e-6
"""Scores that differ by less are equal: rows that are alike are no worse answers."""
METRICS = {"float32": ("ip", "f32"), "int8": ("cos", "i8"), "binary": ("hamming", "b1")}
"""Of usearch: how it compares the codes, and their type."""


@dataclass(frozen=True)
class Way:
    """How neighbours are looked for."""

    index: Literal["exact", "usearch"] = "exact"
    """Compare with every row, or ask an index."""
    precision: Literal["float32", "int8", "binary"] = "float32"
    """Of the rows: a number in 4 bytes, 1, or its sign in an eighth."""
    rescore: int = 4
    """Of shorter codes so many times the rows that are wanted are compared in full."""

    @property
    def exact(self) -> bool:
        return self.index == "exact" and self.precision == "float32"

    def __str__(self) -> str:
        rescored = [] if self.precision == "float32" else [self.precision, f"{self.rescore} times as many rescored"]
        return ", ".join([*(["usearch"] if self.index == "usearch" else []), *rescored])


@dataclass(frozen=True)
class Finder:
    """Finds neighbours among the rows of one column."""

    file: EmbeddingFile
    column: str
    way: Way

    def find(self, queries: Tensor, count: int) -> list[list[Hit]]:
        """For each query `[Q, D]` the places of unit rows of great dot product, at most `count`, greatest first."""
        if self.way.exact:
            return neighbours(self.file, self.column, queries, count)
        check_width(self.file, self.file.width, queries)
        if self.way.precision == "float32":
            return [
                [(int(place), 1 - float(far)) for place, far in zip(one.keys, one.distances, strict=True)]
                for one in (self._index.search(row, count) for row in queries.numpy())
            ]
        wanted = count * self.way.rescore
        candidates = self._by_index(queries, wanted) if self.way.index == "usearch" else self._by_codes(queries, wanted)
        return [self._rescored(row, places, count) for row, places in zip(queries, candidates, strict=True)]

    def recall(self, by: str, count: int) -> tuple[float, int]:
        """The share of the `count` true neighbours, other than themselves, that is found for some rows whose vectors of
        `by` ask, and how many rows these were. It is kept beside the file."""
        path, what = self._beside("recall.json"), f"{self.way}, {count} by {by}"
        known: dict[str, tuple[float, int]] = {}
        with suppress(OSError, ValueError):
            known = json.loads(path.read_text(encoding="utf-8"))
        if what not in known:
            known[what] = self._measured(by, count)
            with suppress(Failed):  # where nothing can be kept it is measured each time
                write_text(path, json.dumps(known))
        return known[what][0], known[what][1]

    def _measured(self, by: str, count: int) -> tuple[float, int]:
        rows = self.file.count()
        drawn = np.sort(np.random.default_rng(0).choice(rows, min(ASKED, rows), replace=False))
        asked = self.file.vectors(by, drawn.tolist())
        present = ~asked.isnan().any(1)
        more = count + (by == self.column)
        shares = []
        true, found = (find(asked[present], more) for find in (Finder(self.file, self.column, Way()).find, self.find))
        for place, *answers in zip(drawn[present.numpy()].tolist(), true, found, strict=True):
            hits, mine = ([hit for hit in all_ if by != self.column or hit[0] != place][:count] for all_ in answers)
            if hits:
                shares.append(sum(score >= hits[-1][1] - CLOSE for _, score in mine) / len(hits))
        return float(np.mean(shares)) if shares else 1.0, len(shares)

    def _rescored(self, query: Tensor, places: list[int], count: int) -> list[Hit]:
        """The best of some places by their full vectors."""
        places = sorted(places)
        step = max(1, CHUNK // (4 * self.file.width))
        chunks = [(start, places[start : start + step]) for start in range(0, len(places), step)]
        hits = best(chunks, lambda some: (self.file.vectors(self.column, some) @ query)[None], 1, count)[0]
        return [(places[k], score) for k, score in hits]

    def _by_codes(self, queries: Tensor, count: int) -> list[list[int]]:
        """Places of the best rows by their codes, each compared."""
        kind, width = self.way.precision, self.file.width
        step = max(1, min(ROWS, CHUNK // (4 * width)))
        chunks = ((start, self._codes[start : start + step]) for start in range(0, len(self._codes), step))
        found = best(chunks, lambda some: codes.scores(some, queries, kind), len(queries), count)
        return [[place for place, _ in hits] for hits in found]

    def _by_index(self, queries: Tensor, count: int) -> list[list[int]]:
        """Places of rows whose codes are like those of the queries."""
        rows = self._bare(F.normalize(queries, dim=1))
        return [list(map(int, self._index.search(row, count).keys)) for row in rows]

    def _bare(self, rows: Tensor) -> np.ndarray[Any, Any]:
        """Rows as the index takes them."""
        if self.way.precision == "float32":
            return rows.numpy()
        return codes.bare(codes.encode(rows, self.way.precision), self.way.precision)

    @cached_property
    def _digest(self) -> str:
        files = self.file.tables or (self.file.path,)
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        return hashlib.blake2b(
            json.dumps([self.file.meta, stats, *([self.file.dim] if self.file.dim else [])]).encode(), digest_size=6
        ).hexdigest()

    def _beside(self, kind: str, digest: str | None = None) -> Path:
        """Where something made of the vectors is kept."""
        path, name = self.file.path, f"{digest or self._digest}.{kind}"
        if path.is_dir():
            return path / f"_{self.column}.{name}"
        return path.with_name(".".join([path.name, *([self.column] if self.column else []), name]))

    def _remove_older(self, kind: str) -> None:
        """What was made of other files than those that are there now."""
        now = self._beside(kind)
        before, after = now.name.split(self._digest)
        for path in now.parent.glob(f"{glob.escape(before)}{'[0-9a-f]' * len(self._digest)}{glob.escape(after)}"):
            if path != now:
                path.unlink(missing_ok=True)

    @cached_property
    def _codes(self) -> np.ndarray[Any, Any]:
        """Codes of all rows `[N, bytes]`, mapped from the file where they are kept."""
        path = self._beside(f"{self.way.precision}.npy")
        if not path.is_file():
            try:
                with replacing(path) as beside:
                    shape = (self.file.count(), codes.length(self.file.width, self.way.precision))
                    array = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                        beside, mode="w+", dtype=np.uint8, shape=shape
                    )
                    for start, rows in self._coded():
                        array[start : start + len(rows)] = rows
                    array.flush()
            except OSError as error:
                raise unwritable(path, error) from None
            self._remove_older(f"{self.way.precision}.npy")
        mapped: np.ndarray[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return mapped

    def _coded(self) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
        for start, rows in self.file.chunks(self.column):
            yield start, codes.encode(rows, self.way.precision)

    @cached_property
    def _index(self) -> Any:
        """An HNSW index of usearch, mapped from the file where it is kept. Making it takes the memory of all codes."""
        try:
            from usearch.index import Index
        except ImportError:
            raise BadInput("--index usearch needs usearch: pip install '.[search]'") from None
        kind = f"{self.way.precision}.usearch"
        path = self._beside(kind)
        metric, dtype = METRICS[self.way.precision]
        index = Index(ndim=self.file.width, metric=metric, dtype=dtype)
        if not path.is_file():
            for start, rows in self.file.chunks(self.column):
                present = ~rows.isnan().any(1)
                keys = (torch.arange(len(rows)) + start)[present].numpy()
                index.add(keys, self._bare(rows[present]), threads=usable_cores())
            try:
                with replacing(path) as beside:
                    index.save(str(beside))
            except OSError as error:
                raise unwritable(path, error) from None
            self._remove_older(kind)
        index.view(str(path))
        return index
