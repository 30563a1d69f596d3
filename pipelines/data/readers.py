"""Readers of manifest files: each gives an Arrow table or one line that says what is wrong and where."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clx.pipelines.data.csv_files import read_csv
from clx.pipelines.data.file_kinds import head_of, looked_at
from clx.pipelines.data.hugging_face import with_class_names
from clx.pipelines.data.json_files import read_json
from clx.pipelines.data.nested import flat
from clx.pipelines.data.tars import read_tar
from clx.pipelines.data.windows import lists
from clx.pipelines.system.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa


def read_file(path: Path, name: str) -> "pa.Table":
    """The table in a CSV, TSV, JSON, Parquet, Arrow, .ts or WebDataset file; text may be gzipped.

    Raises `BadInput`, calling the file `name`.
    """
    try:
        if not path.is_file():  # reading a pipe could wait for ever
            raise BadInput(f"{name}: a pipe or device, not a file")
        if path.stat().st_size == 0:
            raise BadInput(f"{name}: the file is empty")
        table = flat(_reader(path, name)(path, name))
    except OSError as error:
        raise BadInput(f"{name}: {error.strerror or error}") from None
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
    """The whole file; image and audio bytes in it stay in memory."""
    import pyarrow as pa
    from pyarrow import parquet as arrow

    try:
        # Without partitioning=None a folder called `split=train` would add a column.
        table = arrow.read_table(path, partitioning=None)
        table.validate(full=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise BadInput(f"{name}: not a Parquet file that can be read ({str(error).splitlines()[0]})") from None
    return with_class_names(table)


def read_arrow(path: Path, name: str) -> "pa.Table":
    """An Arrow file or stream, as `save_to_disk` of Hugging Face's datasets and Feather write them."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            whole = source.read(6) == b"ARROW1"
            source.seek(0)
            table = (pa.ipc.open_file(source) if whole else pa.ipc.open_stream(source)).read_all()
            table.validate(full=True)
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
