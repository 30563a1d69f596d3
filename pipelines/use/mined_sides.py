"""The two sides of rows that are mined, what asks and what it is asked of: vectors on disk, in order of the rows."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from clx.pipelines.batches.columns import column_of
from clx.pipelines.config.data_schema import Data
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.splits import choose
from clx.pipelines.model.build import Run
from clx.pipelines.runs.open import open_model
from clx.pipelines.system.errors import BadInput, nearest
from clx.pipelines.system.read_ahead import default_workers
from clx.pipelines.use.embed import embed_rows
from clx.pipelines.use.embedding_files import ROWS, EmbeddingFile
from clx.pipelines.use.embedding_tables import EmbeddingOptions, usable
from clx.pipelines.use.inputs import set_columns


@dataclass(frozen=True)
class Side:
    """One side of every row."""

    name: str
    """The modality; the column for a plain array."""
    column: str | None
    """The column of the source that it is made of; None for several."""
    rows: NDArray[Any]
    """Vectors `[M, D]` as they are stored, mapped from a file; NaN where an input is missing."""
    at: NDArray[np.int64]
    """Where in `rows` each row of the source has its vector, `[N]`; -1 for nowhere."""

    def unit(self, places: NDArray[np.int64], device: torch.device | str = "cpu") -> Tensor:
        """Unit rows `[n, D]` of rows of the source, NaN where there is no vector."""
        at = self.at[places]
        found = torch.from_numpy(self.rows[np.maximum(at, 0)].astype(np.float32)) if len(self.rows) else torch.zeros(
            len(at), self.rows.shape[1]
        )  # fmt: skip
        found[torch.from_numpy(at < 0)] = torch.nan
        return F.normalize(found.to(device), dim=1)

    def present(self) -> NDArray[np.bool_]:
        """Which rows of the source have a vector, `[N]`."""
        found = np.zeros(len(self.at), dtype=bool)
        for start in range(0, len(self.at), ROWS):
            places = np.arange(start, min(start + ROWS, len(self.at)))
            found[places] = ~self.unit(places).isnan().any(1).numpy()
        return found


@dataclass(frozen=True)
class Model:
    """What makes vectors: a run, an OpenCLIP model, or a file of vectors that are made."""

    run: str | None = None
    pretrained: str | None = None
    checkpoint: str = "best"
    embeddings: Path | None = None
    device: str = "auto"
    batch_size: int = 128
    workers: int | None = None
    dim: int | None = None

    @property
    def named(self) -> str:
        return str(self.embeddings) if self.run is None else self.run


@dataclass(frozen=True)
class Source:
    """Rows to be mined."""

    manifest: Manifest
    """All that are asked for."""
    data: Data
    """How they are read."""
    split: str | None


def source_of(name: str, data: Data, split: str | None, allow_outside: bool) -> Source:
    """The rows of a file or folder. Raises `BadInput`."""
    data = data.model_copy(update={"allow_outside": allow_outside})
    (manifest,) = choose(data, 0, name, split, otherwise="file").values()
    return Source(manifest, data, split)


def sides(
    model: Model,
    run: Run | None,
    source: Source,
    folder: Path,
    by: str | None,
    among: str | None,
    step: Callable[[int], None],
    say: Callable[[str], None],
) -> tuple[Side, Side]:
    """What asks, and what it is asked of; one and the same where the model has one modality that the rows have.

    Args:
        run: the opened model, of one that is no file.
        folder: where vectors are kept that are made here.
        by: MODALITY or MODALITY=COLUMN.
        among: likewise.

    Raises `BadInput`.
    """
    if run is None:
        return _of_file(model, source, folder, by, among)
    names = [part.partition("=")[0] for part in (by, among) if part]
    if not (by and among):
        names = usable(run, [source.manifest], names)
    first, second = _two(by, among, names, model.named)
    found: dict[str, Side] = {}
    for asked in (first, second):
        if asked not in found:
            found[asked] = _embedded(run, model, source, asked, folder / f"{len(found)}.npy", step, say)
    return found[first], found[second]


def _two(by: str | None, among: str | None, names: list[str], model: str) -> tuple[str, str]:
    """The sides that are asked for, else the first and the second modality, or the only one twice."""
    if by and among:
        return by, among
    others = [name for name in names if name != (by or among or "").partition("=")[0]]
    if by or among:
        given = by or among or ""
        if len(others) > 1:
            raise BadInput(
                f"say what is asked {'of' if by else 'with'}, --{'in' if by else 'by'} {' or '.join(others)}"
            )
        other = others[0] if others else given
        return (given, other) if by else (other, given)
    if len(others) > 2:
        raise BadInput(f"{model} has {', '.join(others)}: say what asks and what it is asked of, as --by A --in B")
    return others[0], others[-1]


def _embedded(
    run: Run,
    model: Model,
    source: Source,
    asked: str,
    out: Path,
    step: Callable[[int], None],
    say: Callable[[str], None],
) -> Side:
    """One side by a model, its vectors in the file `out`."""
    name, equals, column = asked.partition("=")
    run = replace(run, modalities={each: copy(modality) for each, modality in run.modalities.items()})
    if equals:
        set_columns(run, {name: column})
    usable(run, [source.manifest], [name])
    options = EmbeddingOptions(source.split, [name], batch_size=model.batch_size, dim=model.dim)
    embed_rows(
        run, {"weights": ""}, [(None, source.manifest)], out, options,
        workers=model.workers or default_workers(), step=step, say=say,
    )  # fmt: skip
    from pyarrow import parquet

    numbers = parquet.read_table(out.with_suffix(".ids.parquet"), columns=["row"]).column(0).to_numpy()
    wanted = column_of(name, run.modalities[name])
    return Side(
        name,
        wanted if isinstance(wanted, str) else None,
        np.load(out, mmap_mode="r", allow_pickle=False),
        _at(source, numbers),
    )


def _at(source: Source, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each row stands among vectors of rows of these numbers, counted from 1 in the source's table; -1 for
    nowhere."""
    rows = source.manifest.rows
    of = np.full(source.manifest.table.num_rows, -1, dtype=np.int64)
    of[numbers - 1] = np.arange(len(numbers))
    return of[rows]


def _of_file(model: Model, source: Source, folder: Path, by: str | None, among: str | None) -> tuple[Side, Side]:
    """Both sides by vectors in a file of `clx embed`, or in a plain array, which is both."""
    assert model.embeddings is not None
    file = EmbeddingFile.open(model.embeddings, model.dim)
    for option, asked in (("--by", by), ("--in", among)):
        if asked and "=" in asked:
            raise BadInput(f"{option} {asked}: the vectors of {file.path} are made; a column goes with --run")
    if file.meta is None:
        return _of_array(file, source, by, among)
    kinds = list(file.meta["modalities"])
    for option, asked in (("--by", by), ("--in", among)):
        if asked is not None and asked not in kinds:
            raise BadInput(f"{option} {asked}: {file.path} has no such vectors{nearest(asked, kinds)}")
    first, second = _two(by, among, kinds, model.named)
    numbers = np.concatenate([np.zeros(0, dtype=np.int64), *file._numbers()])
    at = _at(source, _checked(file, source, numbers))
    found: dict[str, Side] = {}
    for name in dict.fromkeys((first, second)):
        column = (file.meta.get("columns") or {}).get(name, name)
        if isinstance(column, str):
            source.manifest.require(column)
        array = _mapped(file, name, folder / f"{len(found)}.npy")
        found[name] = Side(name, column if isinstance(column, str) else None, array, at)
    return found[first], found[second]


def _of_array(file: EmbeddingFile, source: Source, by: str | None, among: str | None) -> tuple[Side, Side]:
    """A plain array, a row of it for each row of the source; `among` names the column that it is made of."""
    if by is not None:
        raise BadInput(f"--by {by}: {file.path} is a plain array, which asks and is asked of; --in names its column")
    if among is None:
        raise BadInput(f"{file.path} does not say which column it was made of: --in COLUMN does")
    source.manifest.require(among)
    if file.count() != len(source.manifest):
        raise BadInput(f"{file.path} has {file.count()} rows, {source.manifest.name} has {len(source.manifest)}")
    side = Side(among, among, file.array("")[:, : file.dim], np.arange(len(source.manifest)))
    return side, side


def _checked(file: EmbeddingFile, source: Source, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of a file's rows. Raises `BadInput` where they are not of the source."""
    of = f"{file.path} was not made of the rows of {source.manifest.name}"
    assert file.meta is not None
    rows = [int(each["rows"]) for each in file.meta.get("data", [])]
    if len(rows) != 1:
        raise BadInput(f"{of}: it is of {len(rows)} sources")
    whole = source.manifest.table.num_rows
    if len(numbers) and (numbers.max() > whole or len(np.unique(numbers)) < len(numbers)):
        raise BadInput(f"{of}, which are {whole}: it tells of row {numbers.max()}")
    if file.meta.get("split") in (None, "all") and rows[0] != whole:
        raise BadInput(f"{of}, which are {whole}: it was made of {rows[0]}")
    return numbers


def _mapped(file: EmbeddingFile, name: str, out: Path) -> NDArray[Any]:
    """The vectors of a modality as an array in its file; those of a Parquet file are copied into `out`."""
    if file.path.suffix == ".npy":
        return file.array(name)[:, : file.dim]
    shape = (file.count(), file.width)
    array: NDArray[Any] = np.lib.format.open_memmap(out, mode="w+", dtype=np.float32, shape=shape)  # type: ignore[no-untyped-call]
    for start, rows in file.chunks(name):
        array[start : start + len(rows)] = rows.numpy()
    return array


def opened(model: Model) -> Run | None:
    """The run, or None for vectors that are made. Raises `BadInput`."""
    if model.run is None:
        return None
    run = open_model(model.run, model.pretrained, model.checkpoint, model.device)
    for key in ("windows", "long"):
        if getattr(run.config.data, key) is not None:
            raise BadInput(f"{model.run} reads pieces of recordings (data.{key}): what is mined are rows of a table")
    if run.objective.leading.fuses_by_product:
        raise BadInput(f"{model.run} scores by the product of several inputs, and mining goes by cosines of two")
    return run.narrowed(model.dim)
