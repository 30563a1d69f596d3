"""Text of tables: plain or gzipped bytes, and the first of them that is not UTF-8."""

import codecs
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from clx.pipelines.system.errors import BadInput

BLOCK = 1 << 24  # bytes parsed at a time; a single row must fit into one block
LARGEST_RATIO = 1032  # how much smaller gzip can make a file


def is_gzip(path: Path) -> bool:
    """Whether a file is gzipped, whatever it is called."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def opened(path: Path, name: str) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked where it is gzipped. Raises `BadInput` for a damaged archive."""
    if not is_gzip(path):
        with path.open("rb") as file:
            yield file
        return
    try:
        with gzip.open(path, "rb") as file:
            yield cast(BinaryIO, file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{name}: not a whole gzip file ({error})") from None


def arrow_source(path: Path) -> str | io.RawIOBase:
    """What Arrow's readers of text are given: a path, or its own stream of a gzipped file, never a file of Python's."""
    import pyarrow as pa

    if not is_gzip(path):
        # As text: from the name of a Path Arrow would guess a compression.
        return cast(io.RawIOBase, pa.input_stream(str(path), compression=None))
    return cast(io.RawIOBase, pa.input_stream(str(path), compression="gzip"))


def refuse_too_large(size: int, name: str) -> None:
    """Raise `BadInput` for bytes that this machine cannot hold, before it gives out: all that is read is held."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX machine
        return
    if size > memory / 2:
        raise BadInput(
            f"{name}: over {size / 1e9:.1f} GB, which are read into memory, and this machine has {memory / 1e9:.0f} "
            "GB: unpack the archive and split it, or name a folder of files"
        )


def refuse_bomb(path: Path, name: str) -> None:
    """Raise `BadInput` for a gzipped file that would unpack to more than fits; only where its size leaves that open."""
    if not is_gzip(path) or path.stat().st_size * LARGEST_RATIO < 1 << 30:
        return
    size = 0
    with opened(path, name) as file:
        while block := file.read(BLOCK):
            size += len(block)
            refuse_too_large(size, name)


def _as_windows_writes(byte: bytes) -> str:
    """What a byte is in the encoding of Western European Windows, where it is a letter."""
    letter = byte.decode("cp1252", errors="ignore")
    return f"0x{byte.hex()} is {letter!r} in cp1252, in which Excel saves plain CSV" if letter.isalpha() else ""


def check_encoding(path: Path, name: str) -> None:
    """Raise `BadInput` at the first byte that is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, start, pending = 1, 0, 0
    with opened(path, name) as file:
        while block := file.read(BLOCK):
            try:
                decoder.decode(block, final=len(block) < BLOCK)
            except UnicodeDecodeError as error:
                at = error.start - pending
                line += block.count(b"\n", 0, max(at, 0))
                wide = start == 0 and block[:2] in (b"\xff\xfe", b"\xfe\xff")
                windows = "utf-16" if wide else "cp1252"
                said = "it begins like UTF-16" if wide else _as_windows_writes(block[max(at, 0) : at + 1])
                raise BadInput(
                    f"{name} line {line}: not UTF-8 text ({error.reason} at byte {start + at}{said and '; ' + said}); "
                    f"save the file as UTF-8{said and f' (iconv -f {windows} -t utf-8)'}"
                ) from None
            pending = len(decoder.getstate()[0])
            start, line = start + len(block), line + block.count(b"\n")
