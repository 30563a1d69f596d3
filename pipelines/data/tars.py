"""WebDataset archives: the members of one key are a row, `0001.jpg` and `0001.txt` its columns."""

import json
import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from clx.pipelines.data.file_kinds import HEAD, KNOWN, kind_of_bytes, why_unread, why_unread_bytes
from clx.pipelines.data.json_files import objects
from clx.pipelines.data.mapped import is_large, mapped
from clx.pipelines.data.pieces import written
from clx.pipelines.data.text_files import refuse_too_large
from clx.pipelines.system.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

WORDS = {"txt": "text", "caption": "text", "text": "text", "transcript": "text"}
LABELS = {"cls": "label", "cls_name": "label", "label": "label"}


def read_tar(path: Path, name: str) -> "pa.Table":
    """A row per key, in the order of the archive: bytes of `image`, `audio` and `series`, `text`, `label` of `.cls`,
    and the keys of `.json`, with the `key` itself. Raises `BadInput`.

    Of a large archive, unless it is compressed, media are not read but cells say where they are (`pieces`); which they
    are is found once and kept in the cache folder. Of another all of it is in memory.
    """
    called = path.suffix.lower() == ".tar"  # what pieces of it are known by
    if not (called and is_large(path) and tarfile.is_tarfile(path) and not compressed(path)):
        refuse_too_large(path.stat().st_size, name)
        with open(path, "rb") as file:
            return table_of(file, name)

    def made() -> "pa.Table":
        with open(path, "rb") as file:
            return table_of(file, name, path.name)

    kept: list[pa.Table] = []

    def parts() -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
        kept.append(made())
        return kept[0].schema, iter(kept[0].to_batches())

    table = mapped(path, parts)
    return table if table is not None else kept[0] if kept else made()


def compressed(path: Path) -> bool:
    """Whether a tar file is one of gzip, bzip2 or xz around it, whatever it is called."""
    with open(path, "rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"))


def table_of(file: BinaryIO, name: str, indexed: str | None = None) -> "pa.Table":
    """The table in an open archive; with `indexed`, what the file is called in its folder, cells of media say where in
    it they are. Raises `BadInput`."""
    size = 0
    rows: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:*" if indexed is None else "r:") as archive:
            for member in archive:
                base = posixpath.basename(member.name)
                if not member.isfile() or base.startswith(".") or "." not in base or "__MACOSX" in member.name:
                    continue
                size += 0 if indexed is not None else member.size
                refuse_too_large(size, name)
                source = archive.extractfile(member)
                assert source is not None  # a file
                stem, _, extension = base.partition(".")
                key = posixpath.join(posixpath.dirname(member.name), stem)
                place = None if indexed is None else written(indexed, member.offset_data, member.size, base)
                row = rows.setdefault(key, {})
                if indexed is not None and member.issparse():
                    raise BadInput(
                        f"{name}, {member.name}: a sparse member, which is not read: pack it without --sparse"
                    )
                _add(row, extension.lower(), source, place, f"{name}, {member.name}", skipped)
    except (tarfile.TarError, EOFError) as error:
        raise BadInput(f"{name}: not a whole tar file ({error})") from None
    rows = {key: row for key, row in rows.items() if row}
    if not rows:
        reasons = "; ".join(f"{member}: {why}" for member, why in list(skipped.items())[:3])
        raise BadInput(
            f"{name}: no image, audio, series, text or JSON in this tar file" + f" ({reasons})" * bool(reasons)
        )
    _refuse_folders(rows, name)
    return _table(rows, name)


def _add(
    row: dict[str, Any], extension: str, source: IO[bytes], place: str | None, where: str, skipped: dict[str, str]
) -> None:
    """One member as a cell of its row: its bytes, or, of media, its `place`."""
    last = extension.rpartition(".")[2]
    kind = KNOWN.get(f".{last}") if last not in ("csv", "tsv") else None
    content = b""
    if kind is None and last not in (*WORDS, *LABELS, "json"):
        content = source.read(HEAD)
        kind = kind_of_bytes(content)
    if kind is not None:
        column = extension.replace(".", "_") if kind in row else kind
        row[column] = content + source.read() if place is None else place
    elif last in (*WORDS, *LABELS):
        try:
            text = source.read().decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise BadInput(f"{where}: not UTF-8 text (byte {error.start})") from None
        row[WORDS.get(last) or LABELS[last]] = text
    elif last == "json":
        try:
            found = json.loads(source.read())
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{where}: not JSON ({error})") from None
        if not isinstance(found, dict):
            raise BadInput(f"{where}: expected a JSON object")
        for each, value in found.items():
            row.setdefault(each if each != "key" else "json_key", value)
    else:
        skipped[where] = why_unread(f".{last}") or why_unread_bytes(content) or f".{last} files are not read"


def _refuse_folders(rows: dict[str, dict[str, Any]], name: str) -> None:
    """An archive of class folders is no WebDataset: which folder a row is of would be lost."""
    folders = {posixpath.dirname(key) for key in rows}
    columns = set().union(*rows.values())
    if len(folders) > 1 and len(columns) == 1:
        raise BadInput(
            f"{name}: a tar file of {len(folders)} folders, such as {min(folders)!r}, without text or labels beside "
            "the files: unpack it (tar -xf) and name the folder"
        )


def _table(rows: dict[str, dict[str, Any]], name: str) -> "pa.Table":
    import pyarrow as pa

    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    binary = [c for c in columns if any(isinstance(row.get(c), bytes) for row in rows.values())]
    plain = [{c: row.get(c) for c in columns if c not in binary} for row in rows.values()]
    made: dict[str, Any] = {"key": list(rows)}
    try:
        made |= {c: pa.array([row.get(c) for row in rows.values()], pa.large_binary()) for c in binary}
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError):
        raise BadInput(f"{name}: some rows have bytes under {', '.join(binary)} and some have not") from None
    if plain and plain[0]:
        table = objects(plain, name)
        made |= {c: table.column(c) for c in table.column_names}
    return pa.table(made)
