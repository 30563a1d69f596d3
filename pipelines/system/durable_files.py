"""Files that survive what happens to jobs: replaced whole or not at all, logs of whole lines, sealed JSON, a lock."""

import glob
import hashlib
import json
import os
import platform
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EDQUOT, EIO, ENOSPC, EROFS
from pathlib import Path
from typing import IO, Any
from warnings import warn

from clx.pipelines.system.errors import BadInput, ClxWarning, Failed

FORMAT = 1
"""Of run folders. Raise it when an older version could not read what this one writes."""
LOCK = ".lock"
FORGOTTEN = 24 * 3600.0
"""Seconds without a change after which what a killed writer left is removed."""


class Damaged(ValueError):
    """A file that is not what was written. The message is the reason alone, such as `trainer.pt is cut short`."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes `path`'s place, on disk for certain, when the block ends well.

    Its name is its own: of two that write one file at once the last to end counts, and neither's is mixed.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > FORGOTTEN:
                leftover.unlink()
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield beside
        sync(beside)
        os.replace(beside, path)
        sync(path.parent)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def is_used(folder: Path) -> bool:
    """Whether there is more in a folder than a lock and what killed writers left."""
    return any(p.name != LOCK and not (p.name.startswith(".") and p.suffix == ".tmp") for p in folder.iterdir())


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def sync(path: Path) -> None:
    """A file or folder on disk for certain."""
    windows = os.name == "nt"
    if windows and path.is_dir():  # it has no such thing for folders
        return
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unwritable(path: str | Path, error: OSError) -> BadInput | Failed:
    """What to raise where a new file cannot be written: `Failed` when the disk is full, broken or read-only,
    `BadInput` when it is its name."""
    message = f"{path}: {error.strerror}"
    return Failed(message) if error.errno in (ENOSPC, EDQUOT, EROFS, EIO) else BadInput(message)


def write_text(path: Path, text: str) -> None:
    """Replace a file. Raises `Failed`, and leaves the old one, when the disk does not take it."""
    try:
        with replacing(path) as beside:
            beside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror or error}") from None


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line to a log: the whole line, or none of it and `Failed`."""
    rest = memoryview((json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
    try:
        with open(path, "ab", buffering=0) as file:
            end = file.tell()
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                with suppress(OSError):
                    file.truncate(end)
                raise
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror or error}") from None


def read_log(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """The lines of a log that are `wanted`; the file is left with these alone.

    A crash may have left half a line at the end; a damaged one elsewhere is warned of.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.removesuffix("\n").split("\n") if text else []
    kept: list[tuple[str, dict[str, Any]]] = []
    for number, line in enumerate(lines, 1):
        try:
            content = json.loads(line)
            if wanted(content):
                kept.append((line, content))
        except (ValueError, KeyError, TypeError, RecursionError):
            if number < len(lines):
                warn(f"{path} line {number} is damaged and left out", ClxWarning, stacklevel=2)
    if len(kept) < len(lines) or not text.endswith("\n"):
        write_text(path, "".join(line + "\n" for line, _ in kept))
    return [content for _, content in kept]


@contextmanager
def locked(out: Path, what: str = "trained") -> Iterator[None]:
    """Keep other processes out of this folder, which is being `what`. The lock ends with the process, however it ends.

    Worker processes that are forked meanwhile let go of it, so that it does not outlive a killed parent. The lock's
    file says who holds it, from its second byte on: Windows lets nobody else read the first, which is locked.
    Raises `BadInput` when another process has it.
    """
    path = out / LOCK
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab+", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror}") from None
    with file:
        try:
            if not take_lock(file):
                file.seek(1)
                holder = file.read().decode(errors="replace").strip()
                raise BadInput(f"{out} is being {what} by another process ({holder or 'unknown'})")
        except OSError as error:  # a file system without locks
            warn(
                f"{out} cannot be locked ({error.strerror}): see that no other run writes there",
                ClxWarning,
                stacklevel=2,
            )
        try:
            file.truncate(0)
            file.write(f" process {os.getpid()} on {platform.node()}\n".encode())
        except OSError as error:
            raise Failed(f"{path} cannot be written: {error.strerror}") from None
        _HELD.add(file)
        try:
            yield
        finally:
            _HELD.discard(file)


def is_locked(out: Path) -> bool:
    """Whether a process, this one or another, holds the lock of a folder now. It is tried, and at once let go."""
    try:
        with open(out / LOCK, "r+b") as file:
            return not take_lock(file)
    except PermissionError:
        return (out / LOCK).exists()
    except OSError:  # there is no lock, or the file system has none
        return False


def take_lock(file: IO[bytes]) -> bool:
    """Lock an open file until it is closed, without waiting; whether that could be. Raises `OSError` where files
    cannot be locked."""
    from filelock import lock_descriptor

    return lock_descriptor(file.fileno(), blocking=False)


_HELD: set[IO[bytes]] = set()
"""Files whose locks this process holds."""


def _let_go() -> None:
    """In a forked child, which has the open files too: the lock is the parent's alone."""
    for file in _HELD:
        file.close()
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def seal(content: dict[str, Any]) -> str:
    """JSON that carries its own digest."""
    content = json.loads(json.dumps(content))
    return json.dumps(content | {"digest": _digest_of(content)})


def _digest_of(content: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def unseal(path: Path) -> dict[str, Any]:
    """The content of a sealed file. Raises `Damaged`; `BadInput` for a whole one of another format.

    Every format has `format` and `digest` at this place, so that any version knows damage from age.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(content, dict) and content.pop("digest", None) == _digest_of(content)
    except FileNotFoundError:
        raise Damaged(f"{path.name} is missing") from None
    except OSError as error:
        raise Damaged(f"{path.name}: {error.strerror}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        whole = False
    if not whole:
        raise Damaged(f"{path.name} is not what was written")
    check_format(path, content.get("format"), FORMAT)
    return content  # type: ignore[no-any-return]


def check_format(path: Path, found: object, known: int) -> None:
    """Raises `BadInput` for a file of another format than this version knows."""
    if found != known:
        raise BadInput(
            f"{path} has format {found!r:.20}, and this version of clx reads format {known}: "
            "use the version that wrote it"
        )
