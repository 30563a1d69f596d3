"""Bytes by row number, written once and read often by several processes: in memory that they share, or on disk.

Two files: `data`, to whose end whatever is kept is appended, and `index`, with an entry for each row: a key that says
what the bytes were made from, where they are, and checksums of them and of the entry itself. An entry is written after
its bytes, so a process that is killed leaves none or a whole one, and a machine that stops leaves one that the
checksums refuse. Nothing is mapped: a file that somebody shortens would end the process, and what is read from a
mapping counts as memory of each process that reads.
"""

import errno
import os
import shutil
import struct
import tempfile
import threading
import weakref
import zlib
from contextlib import suppress
from pathlib import Path

from clx.pipelines.system.memory import free_memory

HEAD = b"clx rows 1".ljust(16, b"\0")
ENTRY = struct.Struct("<16sQQI")
"""Key, first byte and number of bytes in `data`, and their checksum; that of the entry follows."""
WIDTH = ENTRY.size + 4
STEP = 64 << 20
"""Bytes that a process writes before it looks again for how much room is left."""
SPARE = 10 << 30
"""Bytes that are left free at most; a twentieth of the disk, and a tenth of the memory, where that is less."""
WASTE = 64 << 20
"""Bytes of `data` that no entry leads to and that are borne, besides as many as are led to."""
FULL, FAILED = 1, 2


class RowStore:
    """Bytes by row number. Copies of it in other processes have the same."""

    def __init__(self, folder: Path | None = None) -> None:
        """In a folder, with what is there already; else in memory, for as long as the process that made it lives.

        Raises `OSError` where a folder cannot be written, and on Windows.
        """
        if not hasattr(os, "pread"):
            raise OSError(errno.ENOSYS, "this system cannot read at a place of a shared file", "pread")
        self.folder = folder
        self.paths: tuple[str, str]
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self.paths = str(folder / "index"), str(folder / "data")
            if not _sound(*self.paths):
                for path in self.paths:
                    Path(path).unlink(missing_ok=True)
        elif hasattr(os, "memfd_create"):  # gone with the last process that has it, however that ends
            made = [os.memfd_create(name) for name in ("clx-index", "clx-data")]
            self.paths = (f"/proc/{os.getpid()}/fd/{made[0]}", f"/proc/{os.getpid()}/fd/{made[1]}")
            weakref.finalize(self, _close, made, os.getpid())
        else:
            here = tempfile.TemporaryDirectory(prefix="clx-")
            self.paths = str(Path(here.name) / "index"), str(Path(here.name) / "data")
            weakref.finalize(self, here.cleanup)
        self._forget()
        index, _ = self._open()
        os.pwrite(index, HEAD, 0)
        self.say(0)

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "paths": self.paths}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self.lock = threading.Lock()
        self.opened: tuple[int, int, int] | None = None
        self.written = STEP

    def _open(self) -> tuple[int, int]:
        """The two files, as this process opened them: a place to append at is not to be shared with another."""
        if self.opened is None or self.opened[0] != os.getpid():
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
            index = os.open(self.paths[0], flags, 0o644)
            data = os.open(self.paths[1], flags | os.O_APPEND, 0o644)
            self.opened = os.getpid(), index, data
            self.written = STEP
            weakref.finalize(self, _close, [index, data], os.getpid())
        return self.opened[1:]

    def get(self, row: int, key: bytes) -> bytearray | None:
        """What was kept for a row under this key of 16 bytes; None where nothing is, or where it is damaged."""
        try:
            index, data = self._open()
            entry = os.pread(index, WIDTH, len(HEAD) + 1 + row * WIDTH)
            if len(entry) < WIDTH or entry[:16] != key or _sum(entry[: ENTRY.size]) != entry[ENTRY.size :]:
                return None
            _, first, size, checksum = ENTRY.unpack_from(entry)
            found = bytearray(os.pread(data, size, first))
        except OSError:
            return None
        return found if len(found) == size and zlib.crc32(found) == checksum else None

    def put(self, row: int, key: bytes, content: bytes) -> None:
        """Keep the bytes for a row, unless there is no more room: `trouble` then says so."""
        with self.lock:
            try:
                index, data = self._open()
                if os.pread(index, 1, len(HEAD)) != b"\0":
                    return
                self.written += len(content)
                if self.written > STEP:
                    self.written = len(content)
                    if not self.room(len(content)):
                        return self.say(FULL)
                if os.write(data, content) < len(content):
                    return self.say(FULL)
                entry = ENTRY.pack(
                    key, os.lseek(data, 0, os.SEEK_CUR) - len(content), len(content), zlib.crc32(content)
                )
                os.pwrite(index, entry + _sum(entry), len(HEAD) + 1 + row * WIDTH)
            except OSError as error:
                with suppress(OSError):
                    self.say(FULL if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM) else FAILED)

    def say(self, state: int) -> None:
        """Tell every process whether more is kept."""
        os.pwrite(self._open()[0], bytes([state]), len(HEAD))

    def room(self, size: int) -> bool:
        """Whether so many bytes more, and what others write meanwhile, leave enough to everybody else."""
        if self.folder is not None:
            disk = shutil.disk_usage(self.folder)
            return disk.free - size > min(SPARE, disk.total // 20)
        found = free_memory()
        return found is None or found[0] - size > min(SPARE, found[1] // 10)

    @property
    def size(self) -> int:
        """Bytes that are kept, with those that no entry leads to any more."""
        return os.fstat(self._open()[1]).st_size

    def trouble(self) -> str | None:
        """Why no more is kept, where that is so."""
        try:
            state = os.pread(self._open()[0], 1, len(HEAD))
        except OSError as error:
            return error.strerror or "it cannot be opened"
        if state == bytes([FULL]):
            return "the disk is almost full" if self.folder is not None else "memory is almost full"
        return None if state == b"\0" else "it cannot be written"


def _sum(entry: bytes) -> bytes:
    return zlib.crc32(entry, 1).to_bytes(4, "little")


def _close(files: list[int], owner: int) -> None:
    for each in files if os.getpid() == owner else []:
        with suppress(OSError):
            os.close(each)


def _sound(index: str, data: str) -> bool:
    """Whether these are files of this form, and not mostly what no entry leads to, as after all files have changed."""
    import numpy as np

    kept = 0
    try:
        with Path(index).open("rb") as file:
            if not file.read(len(HEAD) + 1).startswith(HEAD):
                return False
            while entries := file.read(WIDTH << 16):
                whole = np.frombuffer(entries[: len(entries) // WIDTH * WIDTH], dtype=np.uint8).reshape(-1, WIDTH)
                kept += int(np.ascontiguousarray(whole[:, 24:32]).view(np.uint64).sum())
        return os.stat(data).st_size <= 2 * kept + WASTE
    except OSError:
        return False
