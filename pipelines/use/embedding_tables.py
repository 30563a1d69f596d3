"""Tables of embeddings, a batch of rows each: ids, labels and a vector column per modality."""

import itertools
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from clx.losses.base import Steps
from clx.pipelines.batches.batch import Batch, Key
from clx.pipelines.batches.columns import column_of, columns_of, has_columns
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.data.label_sets import spoken
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.model.build import Run
from clx.pipelines.model.token_scores import Ragged, TokenScores
from clx.pipelines.system.devices import Turns
from clx.pipelines.system.errors import BadInput, nearest
from clx.pipelines.system.read_ahead import read_ahead
from clx.pipelines.use.embedding_meta import CELL, CONTENT, STEPS
from clx.pipelines.use.embedding_shards import Block
from clx.pipelines.use.new_values import NewValues

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class EmbeddingOptions:
    """What to embed, and how."""

    split: str | None = None
    modalities: list[str] = field(default_factory=list)
    """Some of the run's; all that the data have when empty."""
    id: str | None = None
    """Column with the id of a row; its path, or its number, when not given."""
    keep: list[str] = field(default_factory=list)
    """Further columns to copy."""
    dtype: Literal["float32", "float16"] = "float32"
    normalize: bool = False
    """Unit vectors instead of the model's own lengths."""
    batch_size: int = 128
    dim: int | None = None
    """How many of the embeddings' columns, the first so many; all when None."""


def usable(run: Run, manifests: list[Manifest], asked: list[str]) -> list[str]:
    """The modalities to embed: those asked for, else all that the data have columns for. Raises `BadInput`."""
    for name in asked:
        if name not in run.modalities:
            raise BadInput(f"unknown modality {name!r}{nearest(name, run.modalities)}")
        if isinstance(run.modalities[name].column, list):
            raise BadInput(f"{name} reads several columns, as negatives in training: --column {name}=COLUMN names one")
    modalities = {name: run.modalities[name] for name in asked} or run.scored()
    readable = [name for name, m in modalities.items() if all(has_columns(each, name, m) for each in manifests)]
    lacking = [name for name in modalities if name not in readable]
    if lacking if asked else not readable:
        wanted = ", ".join(columns_of({name: run.modalities[name] for name in lacking}))
        columns = ", ".join(manifests[0].columns)
        raise BadInput(
            f"{manifests[0].name} has no column {wanted}; its columns are {columns} "
            "(--column MODALITY=COLUMN names another)"
        )
    names = [name for name in run.modalities if name in readable]
    reserved = {"row", "id", "split", "label", *(name + end for name in names for end in (CONTENT, CELL))} & set(names)
    if reserved:
        raise BadInput(f"a modality called {reserved.pop()!r} would take the place of that column")
    return names


def refuse_kept(keep: Collection[str], names: Collection[str]) -> None:
    """Raise `BadInput` for a column that would take the place of one of the file, or of what a hit tells."""
    taken = {"row", "id", "rank", "score", "rows", *(name + end for name in names for end in (STEPS, CONTENT, CELL))}
    for column in keep:
        if column in taken:
            other = "name it with --id, or rename it in the data" if column == "id" else "rename it in the data"
            raise BadInput(f"--keep {column}: embeddings and hits have something of this name: {other}")


@dataclass
class EmbeddingTables:
    """Makes the tables of batches."""

    run: Run
    rows: list[tuple[str | None, Manifest]]
    names: list[str]
    options: EmbeddingOptions
    strict: bool

    def __post_init__(self) -> None:
        data, options = self.run.config.data, self.options
        modalities = {name: self.run.modalities[name] for name in self.names}
        refuse_kept(options.keep, self.names)
        self.data = [BatchDataset(manifest, modalities, on_bad="skip", contents=True) for _, manifest in self.rows]
        for _, manifest in self.rows:
            for column in [*([options.id] if options.id else []), *options.keep]:
                manifest.require(column)
        shared = set.intersection(*(set(manifest.columns) for _, manifest in self.rows))
        self.label = next((column for column in (data.label_column, "label") if column in shared), None)
        self.split = data.split if data.split in shared else None
        settings = TokenScores.of_run(self.run)
        self.by_steps = [] if settings is None else [name for name in self.names if name in settings.names]
        """Modalities whose steps are written, too."""
        self.new, self.looking = NewValues(), threading.Lock()
        self.modalities = modalities
        self.paths = [str(column_of(n, m)) for n, m in modalities.items() if m.files]

    def parts(
        self, work: list[Block], has: Callable[[int], bool], workers: int
    ) -> Iterator[tuple[int, Iterator[tuple["pa.Table", list[str]]]]]:
        """Numbers of the parts that are not there yet, each with the tables of its batches and their bad rows."""
        missing = [number for number in range(len(work)) if not has(number)]
        batches = (each for number in missing for each in work[number])
        size = self.options.batch_size

        def make(group: Block) -> tuple["pa.Table", list[str]]:
            [(source, number)] = group
            rows = np.arange(number * size, min((number + 1) * size, len(self.data[source])))
            key = Key(0, number, rows)
            batch = self.data[source][key]
            with turn():
                return self.table(source, key, batch)

        with Turns(self.run.device, workers) as turn, closing(read_ahead(batches, make, 1, workers)) as tables:
            for number in missing:
                yield number, itertools.islice(tables, len(work[number]))

    @torch.no_grad()
    def table(self, source: int, key: Key, batch: Batch) -> tuple["pa.Table", list[str]]:
        """One batch as rows of the file, and the rows left out with their reasons."""
        import pyarrow as pa

        split, manifest = self.rows[source]
        bad = [f"{one.where}, column {one.column}: {one.reason}" for one in batch.bad]
        out = {one.row for one in batch.bad}
        rows = [int(i) for i in key.rows if int(i) not in out]
        columns: dict[str, Any] = {
            "row": pa.array([int(manifest.rows[i]) + 1 for i in rows], pa.int64()),
            "id": pa.array([self.name(manifest, i) for i in rows], pa.string()),
        }
        if split is not None or self.split:
            splits = [split or manifest.cell(i, str(self.split)) for i in rows]
            columns["split"] = pa.array([None if s is None else str(s) for s in splits], pa.string())
        for name, column in [("label", self.label), *((self.kept(c), c) for c in self.options.keep)]:
            if column is not None:
                cells = [manifest.cell(i, column) for i in rows]
                columns[name] = pa.array([spoken(c) for c in cells], pa.string())
        with self.looking:
            self.new.look(self.modalities, manifest, batch)
        moved = batch.to(self.run.device)
        inner: Steps | None = {} if self.by_steps else None
        z = self.run.model(moved.inputs, moved.present, inner) if rows else {}
        for name in self.names:
            present = batch.present[name].numpy()
            columns[name] = self.vectors(z.get(name), present)
            columns[name + CONTENT] = pa.array((batch.contents or {})[name].numpy(), pa.int64(), mask=~present)
        for name in self.by_steps:
            columns[name + STEPS] = self.lists((inner or {}).get(name), len(rows), name)
        return pa.table(columns), bad

    def kept(self, column: str) -> str:
        """What a column that is kept is called in the file."""
        return column + CELL if column in self.names else column

    def name(self, manifest: Manifest, i: int) -> str:
        """The id of a row: a column, its path, or where it stands."""
        if self.options.id is not None:
            cell = manifest.cell(i, self.options.id)
            return "" if cell is None else str(cell)
        paths = (manifest.cell(i, column) for column in self.paths)
        return next((cell for cell in paths if isinstance(cell, str)), manifest.where(i))

    def vectors(self, z: torch.Tensor | None, present: Any) -> "pa.Array":
        """Rows `[N, D]` as lists of one length, null where the input is missing."""
        import pyarrow as pa

        width, kind = self.run.config.embed_dim, np.dtype(self.options.dtype)
        rows = torch.zeros(0, width) if z is None else z.float().cpu()
        if self.options.normalize:
            rows = F.normalize(rows, dim=-1)
        flat = pa.array(rows.numpy().astype(kind).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, width, mask=pa.array(~present))

    def lists(self, steps: tuple[torch.Tensor, torch.Tensor] | None, count: int, name: str) -> "pa.Array":
        """Steps `[N, T, D]` as a list of vectors for each row, empty where the input is missing."""
        import pyarrow as pa

        width = self.run.config.embed_dim
        if steps is None and count:
            raise BadInput(f"modalities.{name} has several cells in a row, which are not compared step by step")
        each = Ragged(torch.zeros(0, width), torch.zeros(0)) if steps is None else Ragged.of(*steps).narrowed(width)
        rows = F.normalize(each.values, dim=-1) if self.options.normalize else each.values
        flat = pa.array(rows.numpy().astype(np.dtype(self.options.dtype)).reshape(-1))
        ends = np.concatenate([[0], each.counts.numpy().cumsum()]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(ends), pa.FixedSizeListArray.from_arrays(flat, width))
