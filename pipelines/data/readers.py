"""Readers of manifest files and folders: each gives an Arrow table or one line that says what is wrong and where."""

import codecs
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from clx.pipelines.data.windows import lists
from clx.pipelines.system.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 1 << 24  # bytes parsed at a time; a single row must fit into one block
SAMPLE = 1 << 16  # bytes looked at to find the separator


def read_file(path: Path, name: str) -> "pa.Table":
    """The table in a CSV, TSV, JSONL, Parquet or .ts file. Raises `BadInput`, calling the file `name`."""
    readers = {
        ".csv": read_csv,
        ".tsv": read_csv,
        ".jsonl": read_jsonl,
        ".ndjson": read_jsonl,
        ".json": read_jsonl,
        ".parquet": read_parquet,
        ".ts": read_ts,
    }
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise BadInput(f"{name}: expected a folder or a file ending in {', '.join(readers)}")
    try:
        if not path.is_file():  # reading a pipe could wait for ever
            raise BadInput(f"{name}: a pipe or device, not a file")
        if path.stat().st_size == 0:
            raise BadInput(f"{name}: the file is empty")
        table = readers[suffix](path, name)
    except OSError as error:
        raise BadInput(f"{name}: {error.strerror or error}") from None
    doubles = sorted({c for c in table.column_names if table.column_names.count(c) > 1})
    if doubles:
        raise BadInput(f"{name}: column {doubles[0]!r} appears more than once")
    if not table.num_rows:
        raise BadInput(f"{name}: there are no rows of data")
    return table


def read_csv(path: Path, name: str) -> "pa.Table":
    """Every column as text; the separator is the one among `, ; tab |` that divides header and rows evenly."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    names, separator = _header(path, name)
    read = arrow.ReadOptions(block_size=BLOCK)
    parse = arrow.ParseOptions(delimiter=separator, newlines_in_values=True)
    convert = arrow.ConvertOptions(column_types={column: pa.string() for column in names})
    try:
        table = arrow.read_csv(path, read_options=read, parse_options=parse, convert_options=convert)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        _explain_csv(path, name, separator, error)
    if table.num_rows:
        _refuse_open_quote(path, name, table)
    return table.rename_columns([column.strip() for column in names])


def _header(path: Path, name: str) -> tuple[list[str], str]:
    """Column names as written, and the separator."""
    with path.open("rb") as file:
        head = file.read(SAMPLE)
        complete = not file.read(1)
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head, final=complete)
    except UnicodeDecodeError:
        _check_encoding(path, name)
        raise
    if not text.strip():
        raise BadInput(f"{name}: the file is empty")
    best: tuple[tuple[bool, float, int], list[str], str, int] | None = None
    for separator in "\t,;|" if path.suffix.lower() == ".tsv" else ",\t;|":
        records = [r for r in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if r]
        body = records[1:51] if complete else records[1:-1][:50]
        width = len(records[0])
        even = sum(len(r) == width for r in body) / max(len(body), 1)
        score = (width > 1, even, width)
        if best is None or score > best[0]:
            best = score, records[0], separator, len(records)
    assert best is not None
    _, names, separator, count = best
    if complete and count == 1:
        raise BadInput(f"{name}: there is a header but no rows of data")
    bare = [column.strip() for column in names]
    doubles = [column for i, column in enumerate(bare) if column in bare[:i]]
    if doubles:
        raise BadInput(f"{name}: column {doubles[0]!r} appears more than once")
    return names, separator


def _explain_csv(path: Path, name: str, separator: str, error: Exception) -> NoReturn:
    """Read again, one row after the other, to name the row at fault."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    _check_encoding(path, name)
    ragged: list[Any] = []

    def note(row: Any) -> str:
        ragged.append(row)
        return "error"

    read = arrow.ReadOptions(block_size=BLOCK, use_threads=False)
    parse = arrow.ParseOptions(delimiter=separator, newlines_in_values=True, invalid_row_handler=note)
    try:
        with arrow.open_csv(path, read_options=read, parse_options=parse) as batches:
            for _ in batches:
                if ragged:
                    break
    except pa.ArrowInvalid:
        pass
    if ragged:
        row, shown = ragged[0], " ".join(ragged[0].text.split())[:60]
        raise BadInput(
            f"{name} row {row.number - 1}: {row.actual_columns} cells where the header has "
            f"{row.expected_columns} columns: {shown!r} (quote a cell that holds {_spoken(separator)})"
        ) from None
    raise BadInput(f"{name}: {' '.join(str(error).split())}") from None


def _spoken(separator: str) -> str:
    return "a tab" if separator == "\t" else repr(separator)


def _refuse_open_quote(path: Path, name: str, table: "pa.Table") -> None:
    """Arrow takes everything after a quote that is never closed as one cell: refuse that, it loses rows."""
    last = table.column(table.num_columns - 1)[-1].as_py() or ""
    if "\n" not in last:
        return
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 64))
        if not file.read().rstrip().endswith(b'"'):
            raise BadInput(f"{name} row {table.num_rows}: a quote opens and is never closed")


def _check_encoding(path: Path, name: str) -> None:
    """Raise `BadInput` at the first byte that is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, start, pending = 1, 0, 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            try:
                decoder.decode(block, final=len(block) < BLOCK)
            except UnicodeDecodeError as error:
                at = error.start - pending
                line += block.count(b"\n", 0, max(at, 0))
                utf16 = "; it begins like UTF-16" if start == 0 and block[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
                raise BadInput(
                    f"{name} line {line}: not UTF-8 text ({error.reason} at byte {start + at}{utf16}); "
                    "save the file as UTF-8"
                ) from None
            pending = len(decoder.getstate()[0])
            start, line = start + len(block), line + block.count(b"\n")


def read_jsonl(path: Path, name: str) -> "pa.Table":
    """One JSON object per line; numbers, text and lists keep their type."""
    import pyarrow as pa
    from pyarrow import json as arrow

    read = arrow.ReadOptions(block_size=BLOCK)
    try:
        table = arrow.read_json(path, read_options=read)
        dates = [field.name for field in table.schema if pa.types.is_temporal(field.type)]
        if dates:  # Arrow turns text that looks like a date into a time, and would not give the text back
            schema = pa.schema([(column, pa.string()) for column in dates])
            parse = arrow.ParseOptions(explicit_schema=schema)
            table = arrow.read_json(path, read_options=read, parse_options=parse)
        table.validate(full=True)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        _explain_jsonl(path, name, error)
    return table


def _explain_jsonl(path: Path, name: str, error: Exception) -> NoReturn:
    """Read again line by line to name the line at fault."""
    _check_encoding(path, name)
    kinds: dict[str, tuple[str, int]] = {}
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as reason:
                said = f": {reason.msg} at column {reason.colno}" if isinstance(reason, json.JSONDecodeError) else ""
                raise BadInput(f"{name} line {number}: not JSON{said}") from None
            if not isinstance(record, dict):
                found = "a list" if isinstance(record, list) else type(record).__name__
                raise BadInput(f"{name} line {number}: expected one JSON object per line, found {found}")
            for key, kind in _kinds(record):
                before, first = kinds.setdefault(key, (kind, number))
                if before != kind:
                    raise BadInput(
                        f"{name} line {number}: {key!r} is {kind} here and {before} in line {first}; "
                        "a column has one type"
                    )
    raise BadInput(f"{name}: {' '.join(str(error).split())}") from None


def _kinds(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
    }
    return ((key, names[type(value)]) for key, value in record.items() if value is not None)


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
    return table


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
