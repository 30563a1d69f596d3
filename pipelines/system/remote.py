"""Files elsewhere, by URL: `s3://`, `gs://`, `https://`, `http://`, and `memory://` of this process, through fsspec.

Credentials and settings are those that fsspec and its packages look for by themselves (`FSSPEC_S3_ANON`,
`AWS_ACCESS_KEY_ID`, `GOOGLE_APPLICATION_CREDENTIALS`, `~/.config/fsspec`). A file system is asked for anew at each
access: fsspec keeps one for each process and thread, so that a forked one never uses that of its parent.
"""

import io
import os
import posixpath
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC, EROFS
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from clx.pipelines.system.errors import BadInput, Failed

SCHEMES = ("s3", "gs", "https", "http", "memory")
WEB = ("https", "http")
TRIES = 4
"""How often what may pass (no connection, an answer cut short, 429, 5xx) is tried."""
PAUSE = 0.5
"""Seconds before the second try, twice as many before each one after it."""
CONNECT, SILENT = 20, 60
"""Seconds after which a server that does not answer, or sends nothing more, is given up."""
TEMPORARY = (408, 425, 429)
DENIED = (401, 403)
FULL = (ENOSPC, EDQUOT, EROFS)
PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
CREDENTIALS = {
    "s3": ": s3fs finds credentials in AWS_ACCESS_KEY_ID or ~/.aws; FSSPEC_S3_ANON=true asks without any",
    "gs": ": gcsfs finds credentials in GOOGLE_APPLICATION_CREDENTIALS or gcloud's; FSSPEC_GS_TOKEN=anon asks without",
}
_scheme = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
T = TypeVar("T")


class NotGiven(ValueError):
    """The other side answers, and does not give the file. The message says of which URL, and why."""


class Unreachable(Failed):
    """The other side could not be reached, or broke off, however often it was tried. One line for the user."""


@dataclass(frozen=True)
class Url:
    """A file, or a folder, elsewhere. As text it is without what may be a secret: its query, a name and password."""

    text: str

    def __str__(self) -> str:
        parts = urlsplit(self.text)
        if self.scheme not in WEB:
            return self.text
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    @property
    def scheme(self) -> str:
        return scheme_of(self.text)

    @property
    def path(self) -> str:
        """Without a query."""
        return self.text.partition("?")[0] if self.scheme in WEB else self.text

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.name)[1]

    @property
    def parent(self) -> "Url":
        """The folder that it is in, without its query: a signature is of one file."""
        return Url(self.path[: -len(self.name)].rstrip("/") if self.name else self.path)

    @property
    def secret(self) -> bool:
        """Whether the text holds more than is shown."""
        return str(self) != self.text

    def __truediv__(self, below: str) -> "Url":
        """A file below a folder. Names on the web are written as URLs have them."""
        below = quote(below, safe="/") if self.scheme in WEB else below
        return Url(f"{self.path.rstrip('/')}/{below}")


@dataclass(frozen=True)
class Known:
    """What is known of a file before it is read."""

    size: int | None
    version: str | None
    """Another one where its content is another: its etag, or size and time of change; None where nothing tells."""


def scheme_of(text: str) -> str:
    """`https` of `https://x.org/a.csv`; nothing for what is no URL."""
    match = _scheme.match(text)
    return match[1].lower() if match else ""


def shown(text: str) -> str:
    """A path, or a URL without what may be a secret."""
    return str(Url(text)) if scheme_of(text) else text


def url_of(text: str) -> Url:
    """A URL that can be read. Raises `BadInput` for one of another kind, `file://` too: paths are written as paths."""
    if scheme_of(text) not in SCHEMES or "\0" in text:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise BadInput(f"{text.partition('?')[0]!r} is a URL of a kind that is not read; these are: {known}")
    return Url(text)


def system_of(url: Url) -> Any:
    """Fsspec's file system for a URL, of this process. Raises `BadInput`, naming what to install."""
    import fsspec

    scheme, options = url.scheme, {}
    try:
        if scheme in WEB:
            import aiohttp
            from fsspec.config import conf

            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENT)
            set_by_user = conf.get(scheme, {}).get("client_kwargs", {})
            options = {"client_kwargs": {"timeout": timeout, "trust_env": True} | set_by_user}
        return fsspec.filesystem(scheme, **options)
    except ImportError as error:
        package = PACKAGES.get(scheme, "aiohttp")
        raise BadInput(
            f"{url}: {scheme}:// needs {package}, which is not installed ({error.name or error}): "
            "pip install '.[remote]'"
        ) from None


def asked(url: Url, work: Callable[[Any], T]) -> T:
    """`work(file system)`, tried again where it may succeed then. Raises `NotGiven`, `Unreachable`, `BadInput`.

    Errors of the disk here, which `work` may write to, are raised as they are.
    """
    for number in range(1, TRIES + 1):
        try:
            return work(system_of(url))
        except (BadInput, NotGiven, Unreachable):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            reason, passing = _explained(url, error)
            if not passing:
                raise NotGiven(f"{url}: {reason}") from None
            if number == TRIES:
                raise Unreachable(f"{url}: {reason} (tried {TRIES} times)") from None
            time.sleep(PAUSE * 2 ** (number - 1))
    raise AssertionError("unreachable")


def _explained(url: Url, error: Exception) -> tuple[str, bool]:
    """What went wrong, in words without the URL, which may hold a secret; and whether it may pass."""
    status = getattr(error, "status", None) or getattr(error, "code", None)
    kind = type(error).__name__
    if url.scheme in WEB and isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        return _explained(url, error.__cause__)  # whatever is wrong, fsspec's `info` calls it so
    if isinstance(error, FileNotFoundError) or status == 404:
        return "no such file there (404)" if url.scheme in WEB else "no such file there", False
    if isinstance(error, PermissionError) or status in DENIED or "Credentials" in kind:
        number = f" ({status})" if status in DENIED else ""
        return f"access denied{number}{CREDENTIALS.get(url.scheme, '')}", False
    if isinstance(error, IsADirectoryError):
        return "a folder, not a file", False
    if isinstance(status, int):
        return f"the server answers {status}", status in TEMPORARY or status >= 500
    if "Payload" in kind or kind in ("IncompleteReadError", "ResponseStreamingError", "_CutShort"):
        return "the file breaks off before its end", True
    if isinstance(error, TimeoutError) or "Timeout" in kind:
        return "no answer in time", True
    if isinstance(error, OSError) or kind.endswith(("ConnectionError", "ClientError", "Disconnected", "HttpError")):
        said = " ".join(str(getattr(error, "os_error", None) or error.__cause__ or kind).split())
        return f"cannot be reached ({said[:80]})", True
    said = " ".join(str(error).replace(url.text, str(url)).split())[:120]
    return f"{kind}: {said}" if said else kind, False


class _CutShort(Exception):
    """Fewer bytes came than were asked for."""


def known_of(url: Url) -> Known:
    """Size and version of a file, by one request. Raises as `asked`."""
    found = asked(url, lambda system: system.info(url.text))
    if found.get("type") == "directory":
        raise NotGiven(f"{url}: a folder, not a file")
    size = found.get("size")
    etag = next((found[key] for key in ("ETag", "etag", "md5Hash", "crc32c") if found.get(key)), None)
    times = ("LastModified", "Last-Modified", "updated", "mtime", "created")
    changed = next((found[key] for key in times if found.get(key)), None)
    told = etag or changed
    return Known(None if size is None else int(size), None if told is None else f"{size} {told}")


@lru_cache(maxsize=1 << 17)
def known_once(url: Url) -> Known:
    """What is known of a file, asked for once by a process and those that it starts: all of a command reads the same
    one. Raises as `asked`."""
    return known_of(url)


def read(url: Url, largest: int) -> bytes:
    """All bytes of a file. Raises as `asked`, and `NotGiven` for an empty file and for one of over `largest` bytes."""

    def whole(system: Any) -> bytes:
        size = system.info(url.text).get("size") if url.scheme not in WEB else None
        if size is not None and size > largest:
            raise NotGiven(f"{url}: {size / 1e6:.0f} MB, more than the {largest / 1e6:.0f} MB that are read")
        return bytes(system.cat_file(url.text))

    content = asked(url, whole)
    if not content:
        raise NotGiven(f"{url}: zero bytes")
    return content


def part(url: Url, start: int, stop: int) -> bytes:
    """The bytes from `start` to `stop - 1`, by a range request. Raises as `asked`."""

    def some(system: Any) -> bytes:
        found = bytes(system.cat_file(url.text, start=start, end=stop))
        if len(found) > stop - start:
            raise NotGiven(f"{url}: this server gives whole files only, and a part of one is wanted (HTTP Range)")
        if len(found) < stop - start:
            raise _CutShort
        return found

    return asked(url, some) if stop > start else b""


def fetch(url: Url, path: str, size: int | None) -> None:
    """A file as a whole into a file here. Raises as `asked`, and `OSError` of the disk."""

    def whole(system: Any) -> None:
        system.get_file(url.text, path)
        if size is not None and os.path.getsize(path) != size:
            raise _CutShort

    asked(url, whole)


class Ranges(io.RawIOBase):
    """A file elsewhere as one that can be read from any place, each `read` by a request. Raises as `asked`."""

    def __init__(self, url: Url, size: int) -> None:
        self.url, self.size, self.at = url, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def read(self, size: int = -1) -> bytes:
        stop = self.size if size is None or size < 0 else min(self.size, self.at + size)
        found = part(self.url, self.at, stop) if stop > self.at else b""
        self.at += len(found)
        return found
