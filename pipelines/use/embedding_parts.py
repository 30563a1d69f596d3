"""Parts of a file of embeddings beside it, until it is whole, so that a kill loses little.

OUT.parts/             what is done so far, with the plan that it belongs to; gone when all is done
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clx.pipelines.system.durable_files import LOCK, replacing, write_text
from clx.pipelines.system.errors import BadInput
from clx.pipelines.use.embedding_files import array_file, dense

if TYPE_CHECKING:
    import pyarrow as pa

GROUP = 1 << 22
"""Bytes of a row group, at least. A search reads whole groups, and the end of a file tells of each of them."""


def read_plan(folder: Path) -> dict[str, Any] | None:
    """The plan that the parts in a folder belong to; None for none. Raises `BadInput` for a damaged one."""
    try:
        plan: dict[str, Any] = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder}/plan.json cannot be read ({error}): --overwrite drops the parts") from None
    return plan


class Parts:
    """The finished parts of one plan, in a folder."""

    def __init__(self, folder: Path, plan: dict[str, Any], overwrite: bool) -> None:
        self.folder = folder
        earlier = None if overwrite else read_plan(folder)
        if earlier is None:
            for path in folder.iterdir():  # parts without a plan may be of any
                if path.name != LOCK:
                    path.unlink()
            write_text(folder / "plan.json", json.dumps(plan))
        elif earlier != plan:
            raise BadInput(f"{folder} holds parts of another model, data or option: --overwrite drops them")

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.parquet"

    def has(self, number: int) -> bool:
        return self.path(number).exists()

    def count(self) -> int:
        return len(list(self.folder.glob("[0-9]*.parquet")))

    def save(self, number: int, tables: list["pa.Table"]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        with replacing(self.path(number)) as beside:
            parquet.write_table(pa.concat_tables(tables), beside, compression="none")

    def load(self, number: int) -> "pa.Table":
        from pyarrow import parquet

        return parquet.read_table(self.path(number), partitioning=None)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def write_whole(out: Path, whole: Path, parts: Parts, count: int, meta: dict[str, Any]) -> None:
    """Join the parts, a row group in memory at a time; the file that holds the metadata comes last."""
    from pyarrow import parquet

    names = list(meta["modalities"])
    if out.suffix == ".npy":
        whole.unlink(missing_ok=True)  # ids of an earlier call must not stand beside new arrays
        write_arrays(out, parts, count, meta)
    with replacing(whole) as beside:
        writer = None
        for table in row_groups(parts.load(number) for number in range(count)):
            if out.suffix == ".npy":
                table = table.drop_columns(names)
            table = table.replace_schema_metadata({"clx": json.dumps(meta)})
            writer = writer or parquet.ParquetWriter(beside, table.schema, compression="none", use_dictionary=False)
            writer.write_table(table, row_group_size=max(1, len(table)))
        assert writer is not None
        writer.close()


def row_groups(tables: Iterable["pa.Table"]) -> Iterator["pa.Table"]:
    """The same rows in tables of `GROUP` bytes or a little more; parts of few short rows would make a large end."""
    import pyarrow as pa

    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(each.nbytes for each in waiting) >= GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def write_arrays(out: Path, parts: Parts, count: int, meta: dict[str, Any]) -> None:
    """One array `[N, D]` per modality, NaN where a row lacks it."""
    rows = sum(parts.load(number).num_rows for number in range(count))
    for name in meta["modalities"]:
        with replacing(array_file(out, name, meta)) as beside:
            shape = (rows, meta["embed_dim"])
            array = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                beside, mode="w+", dtype=np.dtype(meta["dtype"]), shape=shape
            )
            start = 0
            for number in range(count):
                column = parts.load(number).column(name)
                for chunk in column.chunks:
                    array[start : start + len(chunk)] = dense(chunk)
                    start += len(chunk)
            array.flush()
