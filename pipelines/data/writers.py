"""Rows written as CSV, JSON lines or Parquet, a batch at a time."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clx.pipelines.system.durable_files import replacing
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.text import finite

if TYPE_CHECKING:
    import pyarrow as pa

Line = dict[str, Any]
Write = Callable[[list[Line]], None]


def refuse_input(out: Path, *names: str) -> None:
    """Raise `BadInput` when `out`, which is to be written, is a manifest of one of these names."""
    for name in names:
        source = Path(name).expanduser()
        if source.is_file() and out.exists() and source.samefile(out):
            raise BadInput(f"--out {out} is what the rows are read from: choose another name")


@contextmanager
def writer(out: Path, schema: "pa.Schema", read: Sequence[str] = (), *, overwrite: bool = False) -> Iterator[Write]:
    """Writes lines to a CSV, TSV, JSONL or Parquet file, which has its name only when it is whole.

    The lines come from the manifests `read`, none of which may be replaced; other files may with `overwrite`.
    """
    check_name(out, overwrite)
    refuse_input(out, *read)
    with replacing(out) as beside, FORMATS[out.suffix](beside, schema) as write:
        yield write


def check_name(out: Path, overwrite: bool = False) -> None:
    """Raises `BadInput` where `writer` has no format of that name, no folder for it, or a file to `overwrite`."""
    if out.suffix not in FORMATS:
        raise BadInput(f"--out {out}: the name should end in {', '.join(FORMATS)}")
    if out.is_dir() or not out.parent.is_dir():
        raise BadInput(f"--out {out}: " + ("is a folder" if out.is_dir() else f"no folder {out.parent}"))
    if out.exists() and not overwrite:
        raise BadInput(f"--out {out} exists already: choose another name, or replace it with --overwrite")


@contextmanager
def _write_csv(path: Path, schema: "pa.Schema", delimiter: str = ",") -> Iterator[Write]:
    with open(path, "w", encoding="utf-8", newline="") as file:
        lines = csv.DictWriter(file, schema.names, lineterminator="\n", delimiter=delimiter)
        lines.writeheader()
        yield lines.writerows


@contextmanager
def _write_jsonl(path: Path, schema: "pa.Schema") -> Iterator[Write]:
    with open(path, "w", encoding="utf-8") as file:
        yield lambda lines: file.writelines(json.dumps(finite(line), ensure_ascii=False) + "\n" for line in lines)


@contextmanager
def _write_parquet(path: Path, schema: "pa.Schema") -> Iterator[Write]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    with ParquetWriter(path, schema) as file:
        yield lambda lines: file.write_table(pa.Table.from_pylist(lines, schema))


FORMATS: dict[str, Callable[[Path, "pa.Schema"], AbstractContextManager[Write]]] = {
    ".csv": _write_csv,
    ".tsv": partial(_write_csv, delimiter="\t"),
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
