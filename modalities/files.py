"""Files of data: opened without waiting, and what is wrong with one that is not there or not read."""

import errno
import io
import os
import stat
import sys
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO
from unicodedata import normalize

from clx.modalities.errors import CellError

LARGEST_FILE = 1 << 29
"""Bytes of a file that are read into memory at most."""


def open_file(path: Path, largest: int = LARGEST_FILE) -> BinaryIO:
    """A file of data, opened for reading. Raises `CellError` if it is no file, is empty or has over `largest` bytes.

    Never waits: opening a pipe where a file is expected would otherwise hang the run without a message.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise CellError(f"no such file{_hint(path)}") from None
        raise CellError((error.strerror or "cannot be opened").lower()) from None
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise CellError("a folder, not a file" if stat.S_ISDIR(found.st_mode) else "a pipe or device, not a file")
        if found.st_size == 0:
            raise CellError("zero bytes")
        if found.st_size > largest:
            raise CellError(f"{found.st_size / 1e6:.0f} MB, more than the {largest / 1e6:.0f} MB that are read")
        return os.fdopen(handle, "rb")
    except CellError:
        os.close(handle)
        raise


def _hint(path: Path) -> str:
    """Why a file may not be found that looks to be there: backslashes, letter case, how accents are encoded."""
    if "\\" in path.name:
        there = Path(str(path).replace("\\", "/")).exists()
        return (
            "; with / in place of backslashes it is there" if there else "; its path has backslashes, write / instead"
        )
    name = _names(path.parent.absolute()).get(normalize("NFC", path.name).casefold())
    if name is None:
        return ""
    same = normalize("NFC", name) == normalize("NFC", path.name)
    return f"; {name!r} is there: {'accents are encoded in two ways (NFC, NFD)' if same else 'letter case differs'}"


@lru_cache(maxsize=8)
def _names(folder: Path) -> dict[str, str]:
    """Names in a folder by what they are without letter case and with accents composed; kept for the next bad cell."""
    try:
        return {normalize("NFC", name).casefold(): name for name in os.listdir(folder)}
    except OSError:
        return {}


def sound_in(cell: Path | bytes) -> tuple[int, int]:
    """Samples of each channel of a recording and its rate in Hz, from its header alone.

    Raises `CellError` for what `open_file` refuses, `RuntimeError` for what is no sound.
    """
    import soundfile

    with io.BytesIO(cell) if isinstance(cell, bytes) else open_file(cell, sys.maxsize) as raw:
        found = soundfile.SoundFile(raw if isinstance(cell, bytes) else raw.fileno(), closefd=False)
        with found as file:
            return int(file.frames), int(file.samplerate)


def foreign(head: bytes) -> str | None:
    """What a file that no decoder here reads is, by its first bytes, and what to do; None where that is not known."""
    start = head[:512].lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if head[4:8] == b"ftyp":
        if head[8:11] in (b"hei", b"hev", b"mif", b"msf"):
            return "HEIC is not read: convert it to JPEG or PNG"
        sound = head[8:11] in (b"M4A", b"M4B")
        return "AAC in MP4 (m4a) is not read: convert it to WAV or FLAC" if sound else "video is not read"
    if start.startswith(b"<svg") or (start.startswith((b"<?xml", b"<!--")) and b"<svg" in start):
        return "SVG is a drawing, not pixels: convert it to PNG"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page, not the file: the download went wrong"
    return (
        "a pointer of Git LFS: `git lfs pull` fetches the file"
        if start.startswith(b"version https://git-lfs")
        else None
    )


def missing_bytes(raw: BinaryIO, size: int) -> int:
    """How many bytes a WAV file lacks of its data chunk; libsndfile reads such a file without an error."""
    head = raw.read(12)
    missing = 0
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        while len(chunk := raw.read(8)) == 8:
            length = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"data":
                streamed = length >= 0xFFFFFF00 or length == 0  # written to a pipe: the length is not known
                missing = 0 if streamed else max(0, raw.tell() + length - size)
                break
            raw.seek(length + length % 2, io.SEEK_CUR)
    raw.seek(0)
    return missing
