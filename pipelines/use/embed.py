"""Rows of data as a file of embeddings. Parts stand beside it until it is whole, so that a kill loses little."""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from clx.pipelines.batches.batch import Batch, Key
from clx.pipelines.batches.columns import column_of, columns_of, has_columns
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import once
from clx.pipelines.data.builtin import is_builtin
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.splits import Otherwise, choose
from clx.pipelines.data.writers import refuse_input
from clx.pipelines.model.build import Run
from clx.pipelines.model.fingerprint import fingerprint
from clx.pipelines.system.devices import Turns
from clx.pipelines.system.durable_files import locked
from clx.pipelines.system.errors import BadInput, Stopped, in_memory, nearest
from clx.pipelines.system.read_ahead import default_workers, read_ahead
from clx.pipelines.system.signals import Signals
from clx.pipelines.use.embedding_files import FORMAT, Parts, files_of, read_meta, read_plan, write_whole

if TYPE_CHECKING:
    import pyarrow as pa

BATCHES = 8
"""Batches in a part: what a kill loses at most, besides the batch that is being made."""


@dataclass(frozen=True)
class Wanted:
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


def identity(run: Run, model: str, pretrained: str | None) -> dict[str, Any]:
    """Which weights: enough to find them again, and to know them."""
    if pretrained is None:
        named: dict[str, Any] = {"run": str(Path(model).resolve()), "step": run.step}
    else:
        file = Path(pretrained)
        named = {"model": model, "pretrained": str(file.resolve()) if file.is_file() else pretrained}
    return {**named, "weights": fingerprint(run.model)}


def sources(run: Run, source: str | None, wanted: Wanted, allow_outside: bool) -> list[tuple[str | None, Manifest]]:
    """The rows to embed with the name of their split; None where a column, or nothing, says it."""
    data = run.config.data
    if source is not None:
        data = data.model_copy(update={"allow_outside": allow_outside})
    otherwise: Otherwise = "every" if source is None or is_builtin(source) else "file"
    splits = choose(data, run.config.train.seed, source, wanted.split, otherwise=otherwise)
    return [(None if name == "all" else name, manifest) for name, manifest in splits.items()]


def embed_rows(
    run: Run,
    model: dict[str, Any],
    rows: list[tuple[str | None, Manifest]],
    out: Path,
    wanted: Wanted,
    *,
    workers: int | None = None,
    strict: bool = False,
    overwrite: bool = False,
    done: Callable[[int], None],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Embed rows into `out`, going on where an earlier call with the same arguments was ended.

    `model` is what `identity` gave; `done` hears how many rows each batch added, `say` of rows left out (which end
    the work when `strict`). The file is equal, byte for byte, to that of an unbroken call. Raises `BadInput`, also
    when `out` exists and is another's, and `Stopped` after a signal.
    """
    if out.suffix not in (".parquet", ".npy"):
        raise BadInput(f"--out {out}: expected a name that ends in .parquet or .npy")
    names = usable(run, [manifest for _, manifest in rows], wanted.modalities)
    meta = {
        "format": FORMAT,
        **model,
        "data": [_describe(manifest) for _, manifest in rows],
        "embed_dim": run.config.embed_dim,
        "modalities": {name: run.modalities[name].kind for name in names},
        "columns": {name: column_of(name, run.modalities[name]) for name in names},
        "allow_outside": any(manifest.allow_outside for _, manifest in rows),
        **{key: getattr(wanted, key) for key in ("split", "id", "keep", "dtype", "normalize", "batch_size")},
    }
    files = files_of(out, meta)
    whole, folder = files[-1], out.with_name(f"{out.name}.parts")
    for file in files:
        refuse_input(file, *(str(manifest.file) for _, manifest in rows if manifest.file))
    there = sorted(file for file in files if file.exists())
    if there and not overwrite and read_plan(folder) != meta:
        if not whole.exists() or read_meta(whole) != meta:
            raise BadInput(f"{there[0]} exists and is not of this model and data: choose another --out, or --overwrite")
        if len(there) == len(files):
            say(f"{out} is whole already")
            return _summary(out, meta)
    maker = EmbeddingTables(run, rows, names, wanted, strict)  # refuses what it cannot make, before anything is written
    with locked(folder, "written"):
        parts = Parts(folder, meta, overwrite)
        count = make(maker, parts, workers or default_workers(), done, say)
        write_whole(out, whole, parts, count, meta)
        parts.remove()
    return _summary(out, meta)


def make(
    maker: "EmbeddingTables", parts: "Parts", workers: int, done: Callable[[int], None], say: Callable[[str], None]
) -> int:
    """Make the parts that are not there yet; how many there are in all."""
    size = maker.wanted.batch_size
    keys = [(s, key) for s, (_, manifest) in enumerate(maker.rows) for key in once(len(manifest), size)]
    work = [keys[start : start + BATCHES] for start in range(0, len(keys), BATCHES)]
    if known := sum(parts.has(number) for number in range(len(work))):
        say(f"{known} of {len(work)} parts are there already")
    with Signals().watched() as signals, in_memory(lambda: short_of_memory(size, parts.count(), len(work))):
        for number, tables in maker.parts(work, parts.has, workers):
            made = []
            for table, bad in tables:
                for line in bad:
                    if maker.strict:
                        raise BadInput(line)
                    say(f"skipped {line}")
                made.append(table)
                done(len(table))
                if signals.stop is not None:
                    again = f"the same command goes on after part {parts.count()} of {len(work)}"
                    raise Stopped(f"stopped; {again}", 128 + signals.stop)
            parts.save(number, made)
    return len(work)


def short_of_memory(batch_size: int, parts: int, work: int) -> str:
    """Where memory ran out, and what to do."""
    said = f"with batches of {batch_size} rows, after part {parts} of {work}: --workers 1 makes one batch at a time"
    return f"{said} and goes on, --batch-size smaller ones" + (" anew (with --overwrite)" if parts else "")


def usable(run: Run, manifests: list[Manifest], asked: list[str]) -> list[str]:
    """The modalities to embed: those asked for, else all that the data have columns for. Raises `BadInput`."""
    for name in asked:
        if name not in run.modalities:
            raise BadInput(f"unknown modality {name!r}{nearest(name, run.modalities)}")
    found = [name for name, m in run.modalities.items() if all(has_columns(each, name, m) for each in manifests)]
    lacking = [name for name in asked or run.modalities if name not in found]
    if lacking if asked else not found:
        wanted = ", ".join(columns_of({name: run.modalities[name] for name in lacking}))
        columns = ", ".join(manifests[0].columns)
        raise BadInput(
            f"{manifests[0].name} has no column {wanted}; its columns are {columns} "
            "(--column MODALITY=COLUMN names another)"
        )
    names = [name for name in found if not asked or name in asked]
    reserved = {"row", "id", "split", "label"} & set(names)
    if reserved:
        raise BadInput(f"a modality called {reserved.pop()!r} would take the place of that column")
    return names


@dataclass
class EmbeddingTables:
    """Makes the tables of batches."""

    run: Run
    rows: list[tuple[str | None, Manifest]]
    names: list[str]
    wanted: Wanted
    strict: bool

    def __post_init__(self) -> None:
        data, given = self.run.config.data, self.wanted
        modalities = {name: self.run.modalities[name] for name in self.names}
        self.data = [BatchDataset(manifest, modalities, on_bad="skip") for _, manifest in self.rows]
        for _, manifest in self.rows:
            for column in [*([given.id] if given.id else []), *given.keep]:
                manifest.require(column)
        shared = set.intersection(*(set(manifest.columns) for _, manifest in self.rows))
        self.label = next((column for column in (data.label, "label") if column in shared), None)
        self.split = data.split if data.split in shared else None
        self.paths = [str(column_of(n, m)) for n, m in modalities.items() if m.files]

    def parts(
        self, work: list[list[tuple[int, Key]]], has: Callable[[int], bool], workers: int
    ) -> Iterator[tuple[int, Iterator[tuple["pa.Table", list[str]]]]]:
        """Numbers of the parts that are not there yet, each with the tables of its batches and their bad rows."""
        missing = [number for number in range(len(work)) if not has(number)]
        keys = [key for number in missing for key in work[number]]

        def make(group: list[tuple[int, Key]]) -> tuple["pa.Table", list[str]]:
            [(source, key)] = group
            batch = self.data[source][key]
            with turn():
                return self.table(source, key, batch)

        with Turns(self.run.device, workers) as turn, closing(read_ahead(keys, make, 1, workers)) as made:
            for number in missing:
                yield number, itertools.islice(made, len(work[number]))

    @torch.no_grad()
    def table(self, source: int, key: Key, batch: Batch) -> tuple["pa.Table", list[str]]:
        """One batch as rows of the file, and the rows left out with their reasons."""
        import pyarrow as pa

        split, manifest = self.rows[source]
        bad = [f"{one.where}, column {one.column}: {one.reason}" for one in batch.bad]
        out = {one.row for one in batch.bad}
        kept = [int(i) for i in key.rows if int(i) not in out]
        columns: dict[str, Any] = {
            "row": pa.array([int(manifest.rows[i]) + 1 for i in kept], pa.int64()),
            "id": pa.array([self.name(manifest, i) for i in kept], pa.string()),
        }
        if split is not None or self.split:
            shown = [split or manifest.cell(i, str(self.split)) for i in kept]
            columns["split"] = pa.array([None if s is None else str(s) for s in shown], pa.string())
        for name, column in [("label", self.label), *((c, c) for c in self.wanted.keep)]:
            if column is not None:
                cells = [manifest.cell(i, column) for i in kept]
                columns[name] = pa.array([None if c is None else str(c) for c in cells], pa.string())
        moved = batch.to(self.run.device)
        z = self.run.model(moved.inputs, moved.present) if kept else {}
        for name in self.names:
            columns[name] = self.vectors(z.get(name), batch.present[name].numpy())
        return pa.table(columns), bad

    def name(self, manifest: Manifest, i: int) -> str:
        """The id of a row: a column, its path, or where it stands."""
        if self.wanted.id is not None:
            cell = manifest.cell(i, self.wanted.id)
            return "" if cell is None else str(cell)
        paths = (manifest.cell(i, column) for column in self.paths)
        return next((cell for cell in paths if isinstance(cell, str)), manifest.where(i))

    def vectors(self, z: torch.Tensor | None, present: Any) -> "pa.Array":
        """Rows `[N, D]` as lists of one length, null where the input is missing."""
        import pyarrow as pa

        width, kind = self.run.config.embed_dim, np.dtype(self.wanted.dtype)
        rows = torch.zeros(0, width) if z is None else z.float().cpu()
        if self.wanted.normalize:
            rows = F.normalize(rows, dim=-1)
        flat = pa.array(rows.numpy().astype(kind).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, width, mask=pa.array(~present))


def _summary(out: Path, meta: dict[str, Any]) -> dict[str, Any]:
    from pyarrow import parquet

    files = files_of(out, meta)
    rows = parquet.read_metadata(files[-1]).num_rows
    return {
        "format": FORMAT,
        "out": str(out),
        "files": list(map(str, files)),
        "rows": rows,
        "skipped": sum(each["rows"] for each in meta["data"]) - rows,
        "modalities": list(meta["modalities"]),
    }


def _describe(manifest: Manifest) -> dict[str, Any]:
    """A manifest by its name and a digest that another, or a changed one, does not have."""
    digest = hashlib.blake2b(manifest.rows.tobytes(), digest_size=16)
    digest.update(str(manifest.table.schema).encode())
    file = manifest.root / Path(manifest.name).name
    if manifest.path_column:
        digest.update("\n".join(manifest.column(manifest.path_column)).encode("utf-8", "surrogateescape"))
    elif file.is_file():
        stat = file.stat()
        digest.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    return {"name": manifest.name, "rows": len(manifest), "digest": digest.hexdigest()}
