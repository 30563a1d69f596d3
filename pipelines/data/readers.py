"""Readers of manifest files: each gives an Arrow table or one line that says what is wrong and where."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clx.pipelines.data.arrow_types import decoded
from clx.pipelines.data.csv_files import read_csv
from clx.pipelines.data.file_kinds import head_of, looked_at
from clx.pipelines.data.hugging_face import with_class_names
from clx.pipelines.data.json_files import read_json
from clx.pipelines.data.mapped import is_large, mapped, open_mapped, release
from clx.pipelines.data.nested import flat
from clx.pipelines.data.tars import read_tar
from clx.pipelines.data.windows import lists
from clx.pipelines.system.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa


PART_ROWS, PART_BYTES = 1 << 16, 1 << 25
"""Of a table that is converted piece by piece, about what a piece has at most."""


def read_file(path: Path, name: str) -> "pa.Table":
    """The table in a CSV, TSV, JSON, Parquet, Arrow, .ts or WebDataset file; text may be gzipped.

    Raises `BadInput`, calling the file `name`.
    """
    try:
        if not path.is_file():  # reading a pipe could wait for ever
            raise BadInput(f"{name}: a pipe or device, not a file")
        if path.stat().st_size == 0:
            raise BadInput(f"{name}: the file is empty")
        table = _reader(path, name)(path, name)
    except OSError as error:
        raise BadInput(f"{name}: {error.strerror or error}") from None
    return as_read(table, name)


def as_read(table: "pa.Table", name: str) -> "pa.Table":
    """What was read as it is used: flat, its classes by their names. Raises `BadInput` for one that is no table."""
    table = flat(with_class_names(table))
    doubles = sorted({c for c in table.column_names if table.column_names.count(c) > 1})
    if doubles:
        raise BadInput(f"{name}: column {doubles[0]!r} appears more than once")
    if not table.num_rows:
        raise BadInput(f"{name}: there are no rows of data")
    return table


def table_suffix(name: str) -> str:
    """The extension that says what a table is: `.csv` of `a.csv.gz`, `.tar` of `a.tar.gz`."""
    stem, suffix = os.path.splitext(name.lower())
    return os.path.splitext(stem)[1] if suffix == ".gz" else suffix


def _reader(path: Path, name: str) -> Callable[[Path, str], "pa.Table"]:
    suffix = table_suffix(path.name)
    if suffix in READERS:
        return READERS[suffix]
    if head_of(str(path)).startswith(b"PAR1"):
        return read_parquet
    kind, reason = looked_at(str(path))
    if kind is not None:
        reason = f"one {kind} file; a table or a folder of files is data"
    said = f" ({reason})" if reason else ""
    raise BadInput(f"{name}: expected a folder or a file ending in {', '.join(READERS)}{said}")


def read_parquet(path: Path, name: str) -> "pa.Table":
    """The whole file; image and audio bytes in it stay in memory, unless it is large and mapped."""
    import pyarrow as pa
    from pyarrow import parquet as arrow

    try:
        table = mapped(path, lambda: _parquet_parts(path)) if is_large(path) else None
        if table is None:
            # Without partitioning=None a folder called `split=train` would add a column.
            table = arrow.read_table(path, partitioning=None)
            table.validate(full=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise BadInput(f"{name}: not a Parquet file that can be read ({str(error).splitlines()[0]})") from None
    return with_class_names(table)


def _parquet_parts(path: Path) -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
    """The columns of a Parquet file and its rows, some 32 MB at a time, never a row group at once."""
    import pyarrow as pa
    from pyarrow import parquet as arrow

    file = arrow.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    groups = [file.metadata.row_group(k) for k in range(file.metadata.num_row_groups)]
    size = sum(group.total_byte_size for group in groups) / max(1, file.metadata.num_rows)
    fields = [field.with_type(decoded(field.type)) for field in file.schema_arrow]
    schema = pa.schema(fields, file.schema_arrow.metadata)  # an Arrow file has one dictionary, row groups their own

    def batches() -> Iterator["pa.RecordBatch"]:
        for batch in file.iter_batches(max(1, min(PART_ROWS, int(PART_BYTES / max(1.0, size))))):
            batch.validate(full=True)
            yield batch if batch.schema == schema else batch.cast(schema)

    return schema, batches()


def read_arrow(path: Path, name: str) -> "pa.Table":
    """An Arrow file or stream, as `save_to_disk` of Hugging Face's datasets and Feather write them."""
    import pyarrow as pa

    try:
        table = open_mapped(path)
        table.validate(full=True)
        release()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise BadInput(f"{name}: not an Arrow file that can be read ({str(error).splitlines()[0]})") from None
    return with_class_names(table)


def read_ts(path: Path, name: str) -> "pa.Table":
    """The rows of a `.ts` archive file: `series`, and `label`, or `target` of a regression problem."""
    import pyarrow as pa
    from aeon.datasets import load_from_ts_file

    try:
        series, answers, meta = load_from_ts_file(str(path), return_meta_data=True)
    except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
        raise BadInput(f"{name}: not a .ts file that aeon reads ({' '.join(str(error).split())[:120]})") from None
    rows = [np.asarray(row).T for row in series]
    if not rows or any(row.ndim != 2 or not row.size for row in rows):
        raise BadInput(f"{name}: not a .ts file with series in it")
    columns = {"series": lists(rows)}
    if meta.get("targetlabel"):
        columns["target"] = pa.array(np.asarray(answers, dtype=np.float64))
    elif meta.get("classlabel"):
        columns["label"] = pa.array(np.asarray(answers).astype(str).tolist())
    return pa.table(columns)


READERS: dict[str, Callable[[Path, str], "pa.Table"]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".txt": read_csv,
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": read_json,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
    ".ts": read_ts,
    ".tar": read_tar,
    ".tgz": read_tar,
}
"""By the extension of a file, without a `.gz` behind it."""
