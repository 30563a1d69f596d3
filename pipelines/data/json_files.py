"""JSON: one object per line, a list of objects, or COCO's annotations; numbers, text and lists keep their type."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from clx.pipelines.data.coco import is_coco, rows_of
from clx.pipelines.data.mapped import is_large, mapped
from clx.pipelines.data.text_files import BLOCK, arrow_source, check_encoding, opened, refuse_bomb
from clx.pipelines.system.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

WHOLE = "one JSON object per line, or a list of objects"


def read_json(path: Path, name: str) -> "pa.Table":
    """The table in a JSON file. Text that looks like a date stays text. Raises `BadInput`, naming line or row."""
    import pyarrow as pa

    refuse_bomb(path, name)
    if _by_line(path, name):
        try:
            table = mapped(path, lambda: _parts(path)) if is_large(path) else None
            return _parsed(lambda: arrow_source(path)) if table is None else table
        except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeDecodeError, OSError) as error:
            _explain(path, name, error)
    return objects(_documents(path, name), name)


def objects(records: list[dict[str, Any]], name: str) -> "pa.Table":
    """Rows given as JSON objects; a key that some lack is missing there. Raises `BadInput`, naming the row."""
    import pyarrow as pa

    text = "\n".join(json.dumps(record) for record in records).encode()
    try:
        return _parsed(lambda: pa.BufferReader(text))
    except pa.ArrowInvalid as error:
        _refuse_two_types(((f"row {i}", record) for i, record in enumerate(records, 1)), name)
        raise BadInput(f"{name}: {' '.join(str(error).split())}") from None


def _parsed(source: Any) -> "pa.Table":
    """What Arrow makes of lines; `source` is called for a stream at its beginning, perhaps twice."""
    import pyarrow as pa
    from pyarrow import json as arrow

    read = arrow.ReadOptions(block_size=BLOCK)
    table = arrow.read_json(source(), read_options=read)
    undated = pa.schema([field.with_type(_undated(field.type)) for field in table.schema])
    if undated != table.schema:  # Arrow turns text that looks like a date into a time, and would not give the text back
        dates = [field for field, before in zip(undated, table.schema, strict=True) if field != before]
        parse = arrow.ParseOptions(explicit_schema=pa.schema(dates))
        table = arrow.read_json(source(), read_options=read, parse_options=parse)
    table.validate(full=True)
    return table


def _undated(kind: "pa.DataType") -> "pa.DataType":
    """The type with text in the place of times, at any depth."""
    import pyarrow as pa

    if pa.types.is_temporal(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_undated(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_undated(field.type)) for field in kind])
    return kind


def _parts(path: Path) -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
    """The columns of a large file of lines, of which any line may be the first to have one, and its rows by blocks."""
    import pyarrow as pa
    from pyarrow import json as arrow

    read = arrow.ReadOptions(block_size=2 * BLOCK)  # a line may be longer than the end of a block
    schema = pa.schema([])
    for block in _blocks(path):
        found = arrow.read_json(pa.BufferReader(block), read_options=read).schema
        found = pa.schema([field.with_type(_undated(field.type)) for field in found])
        schema = pa.unify_schemas([schema, found], promote_options="permissive")
    parse = arrow.ParseOptions(explicit_schema=schema)

    def batches() -> Iterator["pa.RecordBatch"]:
        for block in _blocks(path):
            table = arrow.read_json(pa.BufferReader(block), read_options=read, parse_options=parse)
            table.validate(full=True)
            yield from table.select(schema.names).combine_chunks().to_batches()

    return schema, batches()


def _blocks(path: Path) -> Iterator[bytes]:
    """The lines of a file, some 16 MB of whole ones at a time."""
    with opened(path, path.name) as file:
        left = file.read(3)
        left = b"" if left == b"\xef\xbb\xbf" else left
        while block := file.read(BLOCK):
            whole, end, behind = (left + block).rpartition(b"\n")
            if end and not whole.isspace() and whole:
                yield whole + end
            left = behind if end else left + block
        if left.strip():
            yield left


def _by_line(path: Path, name: str) -> bool:
    """Whether the first line is a JSON value of its own that is no list of objects, nor all of a file with such lists
    in it."""
    with opened(path, name) as file:
        for line in file:
            text = line.removeprefix(b"\xef\xbb\xbf").strip()
            if not text:
                continue
            if text[:1] not in b"[{":
                return True
            try:
                value = json.loads(text)
                alone = ".json" in map(str.lower, path.suffixes) and not file.read(1)  # no first row of .jsonl
                return not isinstance(value, list) and not (alone and _holds_rows(value))
            except (ValueError, RecursionError):
                # An object that goes on in the next line is pretty-printed; what is only damaged is explained by line.
                return text[:1] == b"{" and len(text) > 1 and not text.endswith((b"{", b"[", b",", b'"'))
    return True


def _documents(path: Path, name: str) -> list[dict[str, Any]]:
    """The objects of one list, or of several values that go over many lines each."""
    check_encoding(path, name)
    with opened(path, name) as file:
        text = file.read().decode("utf-8-sig").strip()
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError) as error:
            said = f": {error.msg}" if isinstance(error, json.JSONDecodeError) else ""
            line = f" line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            raise BadInput(f"{name}{line}: not JSON{said}; {WHOLE} is read") from None
        found.append(value)
        while at < len(text) and text[at] in " \r\n\t,":
            at += 1
    if len(found) == 1 and is_coco(found[0]):
        return rows_of(found[0], name)
    if len(found) == 1 and isinstance(found[0], dict):
        lists = [key for key, value in found[0].items() if isinstance(value, list) and _all_objects(value)]
        inside = f"; save the list under {lists[0]!r} alone" if lists else ""
        raise BadInput(
            f"{name}: one JSON object with the keys {', '.join(map(repr, found[0]))[:80]}, where {WHOLE} "
            f"makes rows{inside}"
        )
    rows = found[0] if len(found) == 1 else found
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise BadInput(f"{name} row {number}: expected an object, found {_type(row)}: {WHOLE} makes rows")
    return list(rows)


def _holds_rows(value: Any) -> bool:
    return isinstance(value, dict) and any(_all_objects(each) for each in value.values() if isinstance(each, list))


def _all_objects(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(each, dict) for each in value)


def _explain(path: Path, name: str, error: Exception) -> NoReturn:
    """Read again line by line to name the line at fault."""
    check_encoding(path, name)
    _refuse_two_types(_lines(path, name), name)
    raise BadInput(f"{name}: {' '.join(str(error).split())}") from None


def _lines(path: Path, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with opened(path, name) as file:
        for number, line in enumerate(file, 1):
            text = line.decode("utf-8-sig").strip()
            if not text:
                continue
            try:
                record = json.loads(text)
            except (json.JSONDecodeError, RecursionError) as reason:
                said = f": {reason.msg} at column {reason.colno}" if isinstance(reason, json.JSONDecodeError) else ""
                raise BadInput(f"{name} line {number}: not JSON{said}") from None
            if not isinstance(record, dict):
                raise BadInput(f"{name} line {number}: expected one JSON object per line, found {_type(record)}")
            yield f"line {number}", record


def _refuse_two_types(records: Iterator[tuple[str, dict[str, Any]]], name: str) -> None:
    """Raise `BadInput` at the first cell whose type is not that of its column before."""
    kinds: dict[str, tuple[str, str]] = {}
    for where, record in records:
        for key, value in _fields(record):
            if value is None:
                continue
            before, first = kinds.setdefault(key, (_type(value), where))
            if before != _type(value):
                raise BadInput(
                    f"{name} {where}: {key!r} is {_type(value)} here and {before} in {first}; a column has one type"
                )


def _fields(record: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Keys and values, also of objects in the values: `product.title`."""
    for key, value in record.items():
        yield above + key, value
        if isinstance(value, dict):
            yield from _fields(value, f"{above}{key}.")


def _type(value: Any) -> str:
    """A JSON type in words."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "null")
