"""Embeddings in files: what they are called, and how they are read.

OUT.parquet            one row per row of data, one vector column per modality, metadata under the key `clx`
OUT.npy, OUT.ids.parquet   or the vectors as an array (OUT.MODALITY.npy when there are several), the rest beside it
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from clx.pipelines.system.durable_files import check_format
from clx.pipelines.system.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
CHUNK = 1 << 26
"""Bytes of vectors in memory at a time."""


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


def read_meta(path: Path) -> dict[str, Any] | None:
    """The metadata of a file that `embed_rows` wrote; None for another's. Raises `BadInput` for what is no Parquet."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        raw = (parquet.read_schema(path).metadata or {}).get(b"clx")
        return None if raw is None else json.loads(raw)
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise BadInput(f"{path} is no Parquet file of embeddings ({str(error).splitlines()[0]})") from None


class EmbeddingMeta(BaseModel):
    """What a reader relies on of that which `clx embed` noted."""

    model_config = ConfigDict(strict=True, extra="allow")

    format: int
    embed_dim: int = Field(ge=1)
    modalities: dict[str, str] = Field(min_length=1)
    weights: str
    run: str | None = None
    step: int | None = None
    model: str | None = None
    pretrained: str | None = None

    def names_its_model(self) -> bool:
        """Whether there is a run and a step, or a model and its weights."""
        return None not in (self.run, self.step) or None not in (self.model, self.pretrained)


def check(path: Path, meta: Any, vectors: bool) -> None:
    """Whether metadata are those of `clx embed` and columns, with `vectors` also those, are what they say.

    Raises `BadInput`.
    """
    import pyarrow as pa
    from pyarrow import parquet

    wrong = f"{path}: its metadata are not those of clx embed"
    if isinstance(meta, dict) and type(meta.get("format")) is int:
        check_format(path, meta["format"], FORMAT)
    try:
        noted = EmbeddingMeta.model_validate(meta)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadInput(f"{wrong} ({where}: {first['msg']})" if where else wrong) from None
    if not noted.names_its_model():
        raise BadInput(f"{wrong} (neither a run with its step nor a model with its weights)")
    schema = parquet.read_schema(path)
    if {"id", "row"} - {*schema.names}:
        raise BadInput(f"{path} lacks its columns id and row")
    for name in noted.modalities if vectors else []:
        kind = schema.field(name).type if name in schema.names else pa.null()
        if not (
            pa.types.is_fixed_size_list(kind)
            and pa.types.is_floating(kind.value_type)
            and kind.list_size == noted.embed_dim
        ):
            raise BadInput(f"{path}: column {name}: expected vectors of {noted.embed_dim} numbers, found {kind}")


@dataclass(frozen=True)
class EmbeddingFile:
    """Embeddings in a file that `clx embed` wrote, or a plain array `[N, D]`."""

    path: Path
    meta: dict[str, Any] | None
    """What `clx embed` noted; None for a plain array."""

    @classmethod
    def open(cls, path: Path) -> "EmbeddingFile":
        """Raises `BadInput` for what is no such file."""
        if not path.is_file():
            several = ids_file(path).is_file() and read_meta(ids_file(path)) is not None
            if not (path.suffix == ".npy" and several):
                raise BadInput(f"{path}: no such file")
        if path.suffix == ".parquet":
            meta = read_meta(path)
            if meta is None:
                raise BadInput(f"{path} was not written by clx embed")
            check(path, meta, vectors=True)
            return cls(path, meta)
        if path.suffix != ".npy":
            raise BadInput(f"{path}: expected a .parquet or .npy file of embeddings")
        meta = read_meta(ids_file(path)) if ids_file(path).is_file() else None
        if meta is not None:
            check(ids_file(path), meta, vectors=False)
        return cls(path, meta)

    @cached_property
    def facts(self) -> Path | None:
        """The Parquet file with ids and labels."""
        return self.path if self.path.suffix == ".parquet" else None if self.meta is None else ids_file(self.path)

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """An array in its file, `[N, D]`."""
        path = self.path if self.meta is None else array_file(self.path, name, self.meta)
        try:
            rows: np.ndarray[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BadInput(f"{path} is no array of embeddings ({error})") from None
        if rows.ndim != 2 or rows.dtype.kind != "f" or rows.shape[1] == 0:
            raise BadInput(f"{path}: expected floats [N, D], found {rows.dtype} {list(rows.shape)}")
        if self.facts is not None and len(rows) != self.count():
            raise BadInput(f"{path} has {len(rows)} rows, {self.facts} has {self.count()}: they do not belong together")
        return rows

    def chunks(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """Unit rows `[n, D]` with the place of the first; rows that lack the modality are NaN."""
        start = 0
        for values in self._values(name):
            rows = torch.from_numpy(np.array(values, dtype=np.float32))
            yield start, F.normalize(rows, dim=1)
            start += len(rows)

    def _values(self, name: str) -> Iterator[np.ndarray[Any, Any]]:
        if self.path.suffix == ".npy":
            rows = self.array(name)
            size = max(1, CHUNK // (4 * rows.shape[1]))
            yield from (rows[start : start + size] for start in range(0, len(rows), size))
            return
        from pyarrow import parquet

        assert self.meta is not None
        size = max(1, CHUNK // (4 * self.meta["embed_dim"]))
        with parquet.ParquetFile(self.path, pre_buffer=False) as file:
            for batch in file.iter_batches(size, columns=[name], use_threads=False):
                yield dense(batch.column(0))

    def count(self) -> int:
        if self.facts is None:
            return len(self.array(""))
        from pyarrow import parquet

        return int(parquet.read_metadata(self.facts).num_rows)

    def about(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """Id, row, label and what else stands beside the vectors, of rows by their places in the file."""
        if self.facts is None:
            return [{"id": str(place), "row": place + 1} for place in places]
        from pyarrow import parquet

        assert self.meta is not None
        about: dict[int, dict[str, Any]] = {}
        with parquet.ParquetFile(self.facts) as file:
            columns = [c for c in file.schema_arrow.names if c not in self.meta["modalities"]]
            start = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                inside = sorted({place for place in places if start <= place < start + rows})
                if inside:
                    table = file.read_row_group(group, columns=columns)
                    lines = table.take([place - start for place in inside]).to_pylist()
                    about |= dict(zip(inside, lines, strict=True))
                start += rows
        return [about[place] for place in places]

    def place_of(self, row: int) -> int:
        """The place in the file, from 0, of the row that hits name by the number `row`. Raises `BadInput` where there
        is none, or several, since the file is of several sources."""
        if self.facts is None:
            found = [row - 1] if 1 <= row <= self.count() else []
            known = f"rows 1 to {self.count()}"
        else:
            from pyarrow import parquet

            numbers = parquet.read_table(self.facts, columns=["row"]).column("row").to_numpy()
            found = np.flatnonzero(numbers == row).tolist()
            known = f"rows {numbers.min()} to {numbers.max()} of the data" if len(numbers) else "no rows"
        if not found:
            raise BadInput(f"--row {row}: {self.path} has {known}")
        if len(found) > 1:
            named = " and ".join(str(line["id"]) for line in self.about(found[:2]))
            raise BadInput(
                f"--row {row}: {self.path} has {len(found)} rows of this number, from several files ({named}): embed "
                "one --split of the data, or ask with a file"
            )
        return int(found[0])

    def vectors(self, name: str, places: Sequence[int]) -> Tensor:
        """Unit rows `[n, D]` at places of the file."""
        vectors: dict[int, Tensor] = {}
        for start, rows in self.chunks(name):
            vectors |= {place: rows[place - start] for place in places if start <= place < start + len(rows)}
        return torch.stack([vectors[place] for place in places])
