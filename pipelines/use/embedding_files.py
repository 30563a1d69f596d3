"""Embeddings in files: what they are called, and how they are read.

OUT.parquet            one row per row of data, one vector column per modality, metadata under the key `clx`
OUT.npy, OUT.ids.parquet   or the vectors as an array (OUT.MODALITY.npy when there are several), the rest beside it
OUT/             or parts of a Parquet file, made by several jobs (see embedding_shards.py)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.shard import difference
from clx.pipelines.use.embedding_meta import CELL, CONTENT, STEPS, check, read_manifest, read_meta
from clx.pipelines.use.embedding_shards import parts_of

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK = 1 << 25
"""Bytes of vectors in memory at a time."""
ROWS = 1 << 15
"""Vectors in memory at a time, however short."""
READ = 1 << 12
"""Rows that are read at a time: Arrow needs several times their memory."""


def dense(chunk: "pa.Array") -> np.ndarray[Any, Any]:
    """A chunk of equally long lists as `[N, D]`, NaN where it is null."""
    present = chunk.is_valid().to_numpy(zero_copy_only=False)
    width = chunk.type.list_size
    values = chunk.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    if present.all():
        return values  # type: ignore[no-any-return]
    full = np.full((len(chunk), width), np.nan, values.dtype)
    full[present] = values
    return full


def ids_file(out: Path) -> Path:
    """What stands beside an array: ids, labels and the metadata."""
    return out.with_suffix(".ids.parquet")


def array_file(out: Path, name: str, meta: dict[str, Any]) -> Path:
    """The array of one modality: `out` itself when it is the only one."""
    return out if len(meta["modalities"]) == 1 else out.with_suffix(f".{name}.npy")


def files_of(out: Path, meta: dict[str, Any]) -> list[Path]:
    """Every file that embeddings with these metadata are written to, the one with the metadata last."""
    if out.suffix == ".parquet":
        return [out]
    return [*(array_file(out, name, meta) for name in meta["modalities"]), ids_file(out)]


@dataclass(frozen=True)
class EmbeddingFile:
    """Embeddings in a file that `clx embed` wrote, in a folder of its parts, or in a plain array `[N, D]`."""

    path: Path
    meta: dict[str, Any] | None
    """What `clx embed` noted; None for a plain array."""
    tables: tuple[Path, ...] = ()
    """Parquet files with ids and labels, in order; none for a plain array."""
    dim: int | None = None
    """How many columns of its vectors are read, the first so many; all when None."""

    @classmethod
    def open(cls, path: Path, dim: int | None = None) -> "EmbeddingFile":
        """Raises `BadInput` for what is no such file, and for a `dim` that its vectors do not have."""
        file = replace(cls._open(path), dim=dim)
        if dim is not None and dim > (whole := replace(file, dim=None).width):
            raise BadInput(f"--dim {dim}: the vectors of {path} have {whole} columns")
        return file

    @property
    def width(self) -> int:
        """Columns of the vectors that are read."""
        return self.dim or (int(self.meta["embed_dim"]) if self.meta else int(self.array("").shape[1]))

    @classmethod
    def _open(cls, path: Path) -> "EmbeddingFile":
        if path.is_dir():
            return cls._of_folder(path)
        if not path.is_file():
            several = ids_file(path).is_file() and read_meta(ids_file(path)) is not None
            if not (path.suffix == ".npy" and several):
                raise BadInput(f"{path}: no such file")
        if path.suffix == ".parquet":
            meta = read_meta(path)
            if meta is None:
                raise BadInput(f"{path} was not written by clx embed")
            check(path, meta, vectors=True)
            return cls(path, meta, (path,))
        if path.suffix != ".npy":
            raise BadInput(f"{path}: expected a .parquet or .npy file of embeddings, or a folder of its parts")
        meta = read_meta(ids_file(path)) if ids_file(path).is_file() else None
        if meta is None:
            return cls(path, None)
        check(ids_file(path), meta, vectors=False)
        return cls(path, meta, (ids_file(path),))

    @classmethod
    def _of_folder(cls, folder: Path) -> "EmbeddingFile":
        plan = read_manifest(folder)
        files = tuple(parts_of(folder, plan))
        for number, file in enumerate(files):
            meta = read_meta(file)
            if meta is None:
                raise BadInput(f"{file} was not written by clx embed")
            if (what := difference(meta, {**plan, "shard": number})) is not None:
                raise BadInput(f"{file} is not of the folder's manifest ({what}): embed it again with --overwrite")
            check(file, meta, vectors=True)
        return cls(folder, plan, files)

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """An array in its file, `[N, D]`."""
        path = self.path if self.meta is None else array_file(self.path, name, self.meta)
        try:
            rows: np.ndarray[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BadInput(f"{path} is no array of embeddings ({error})") from None
        if rows.ndim != 2 or rows.dtype.kind != "f" or rows.shape[1] == 0:
            raise BadInput(f"{path}: expected floats [N, D], found {rows.dtype} {list(rows.shape)}")
        if self.tables and len(rows) != self.count():
            raise BadInput(
                f"{path} has {len(rows)} rows, {self.tables[0]} has {self.count()}: they do not belong together"
            )
        return rows

    def chunks(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """Unit rows `[n, D]` with the place of the first; rows that lack the modality are NaN.

        Where chunks begin does not depend on the parts that the rows are in.
        """
        start, waiting, have = 0, list[np.ndarray[Any, Any]](), 0
        for values in self._values(name):
            size = max(1, min(ROWS, CHUNK // (4 * values.shape[1])))
            while len(values):
                waiting.append(values[: size - have, : self.dim])
                values, have = values[size - have :], have + len(waiting[-1])
                if have == size:
                    yield start, unit(waiting)
                    start, waiting, have = start + size, [], 0
        if have:
            yield start, unit(waiting)

    def _values(self, name: str) -> Iterator[np.ndarray[Any, Any]]:
        if self.path.suffix == ".npy":
            array = self.array(name)
            size = max(1, CHUNK // (4 * array.shape[1]))
            yield from (array[start : start + size] for start in range(0, len(array), size))
            return
        from pyarrow import parquet

        assert self.meta is not None
        size = min(READ, max(1, CHUNK // (4 * self.meta["embed_dim"])))
        for path in self.tables:
            with parquet.ParquetFile(path, pre_buffer=False) as file:
                for batch in file.iter_batches(size, columns=[name], use_threads=False):
                    yield dense(batch.column(0))

    @cached_property
    def _groups(self) -> tuple[np.ndarray[Any, Any], list[tuple[Path, int]]]:
        """The place of each row group's first row, with the count of all at the end, and its file and number there."""
        from pyarrow import parquet

        lengths, where = [], []
        for path in self.tables:
            noted = parquet.read_metadata(path)
            lengths += [noted.row_group(group).num_rows for group in range(noted.num_row_groups)]
            where += [(path, group) for group in range(noted.num_row_groups)]
        return np.cumsum([0, *lengths]), where

    def count(self) -> int:
        return int(self._groups[0][-1]) if self.tables else len(self.array(""))

    def _rows(self, places: Sequence[int], columns: list[str]) -> Iterator[tuple[list[int], "pa.Table"]]:
        """Places in order, each once, with the rows of the tables there; a row group in memory at a time."""
        from pyarrow import parquet

        starts, where = self._groups
        wanted = np.unique(np.asarray(places, dtype=np.int64))
        groups = np.searchsorted(starts, wanted, side="right") - 1
        for path, mine in groupby(np.unique(groups).tolist(), key=lambda group: where[group][0]):
            with parquet.ParquetFile(path) as file:
                for group in mine:
                    inside = wanted[groups == group]
                    table = file.read_row_group(where[group][1], columns=columns)
                    yield inside.tolist(), table.take(inside - starts[group])

    def about(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """Id, row, label and what else stands beside the vectors, of rows by their places in the file."""
        if not self.tables:
            return [{"id": str(place), "row": place + 1} for place in places]
        from pyarrow import parquet

        assert self.meta is not None
        names = parquet.read_schema(self.tables[0]).names
        modalities, contents = self.meta["modalities"], self.meta.get("contents")  # which earlier versions did not tell
        own = {name + suffix for name in modalities for suffix in ("", STEPS, *([CONTENT] if contents else []))}
        kept = {name + CELL: name for name in modalities if contents}
        about: dict[int, dict[str, Any]] = {}
        for inside, table in self._rows(places, [name for name in names if name not in own]):
            table = table.rename_columns([kept.get(name, name) for name in table.column_names])
            about |= dict(zip(inside, table.to_pylist(), strict=True))
        return [about[place] for place in places]

    def cells(self, columns: Sequence[str], places: Sequence[int]) -> dict[int, tuple[Any, ...]]:
        """What stands in some columns beside the vectors, by places of the file."""
        found: dict[int, tuple[Any, ...]] = {}
        for inside, table in self._rows(places, list(columns)):
            values = [table.column(name).to_pylist() for name in columns]
            found |= dict(zip(inside, zip(*values, strict=True), strict=True))
        return found

    def places_of(self, rows: Sequence[int]) -> list[int]:
        """The places in the file, from 0, of the rows that hits name by the numbers `rows`. Raises `BadInput` where
        there is none of a number, or several, since the file is of several sources."""
        found: dict[int, list[int]] = {row: [] for row in rows}
        wanted, ends, start = np.array(list(found), np.int64), list[int](), 0
        for numbers in self._numbers():
            for k in np.flatnonzero(np.isin(numbers, wanted)).tolist():
                found[int(numbers[k])].append(start + k)
            ends = [min([*ends, int(numbers.min())]), max([*ends, int(numbers.max())])]
            start += len(numbers)
        for row, places in found.items():
            if not places:
                of_data = " of the data" if self.tables else ""
                known = f"rows {ends[0]} to {ends[1]}{of_data}" if ends else "no rows"
                raise BadInput(f"--row {row}: {self.path} has {known}")
            if len(places) > 1:
                named = " and ".join(str(line["id"]) for line in self.about(places[:2]))
                raise BadInput(
                    f"--row {row}: {self.path} has {len(places)} rows of this number, from several files ({named}): "
                    "embed one --split of the data, or ask with a file"
                )
        return [found[row][0] for row in rows]

    def _numbers(self) -> Iterator[np.ndarray[Any, Any]]:
        """The numbers of the rows in the data, some at a time, never none."""
        from pyarrow import parquet

        if not self.tables and (count := self.count()):
            yield np.arange(1, count + 1)
        for path in self.tables:
            with parquet.ParquetFile(path, pre_buffer=False) as file:
                for batch in file.iter_batches(ROWS, columns=["row"], use_threads=False):
                    yield batch.column(0).to_numpy(zero_copy_only=False)

    def vectors(self, name: str, places: Sequence[int]) -> Tensor:
        """Unit rows `[n, D]` at places of the file."""
        if self.path.suffix == ".npy":
            return unit([self.array(name)[np.asarray(places, dtype=np.int64), : self.dim]])
        found: dict[int, np.ndarray[Any, Any]] = {}
        for inside, table in self._rows(places, [name]):
            found |= dict(zip(inside, dense(table.column(0).combine_chunks()), strict=True))
        return unit([found[place][None, : self.dim] for place in places])


def unit(rows: Sequence[np.ndarray[Any, Any]]) -> Tensor:
    """Arrays `[n, D]` one below the other as unit rows in float32."""
    return F.normalize(torch.from_numpy(np.concatenate(rows).astype(np.float32, copy=False)), dim=1)
