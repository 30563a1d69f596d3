"""Tables elsewhere: one, a folder or a pattern of shards. Each is fetched once into the cache folder and read there.

What was fetched is known by its URL and by what the other side says of it (etag, or size and time of change); where
that says nothing, it is fetched by each command. Images, recordings and series that cells name are read when needed.
"""

import atexit
import hashlib
import io
import os
import posixpath
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from clx.pipelines.data import mapped
from clx.pipelines.data.folder_tables import LISTS
from clx.pipelines.data.manifest import Manifest, all_rows
from clx.pipelines.data.mapped import FORGOTTEN
from clx.pipelines.data.patterns import expanded, is_pattern
from clx.pipelines.data.readers import READERS, as_read, read_file, table_suffix
from clx.pipelines.data.row_groups import WINDOW, blocks_of, in_groups
from clx.pipelines.data.shards import sharded
from clx.pipelines.data.tars import table_of
from clx.pipelines.system.cache_folder import cache_folder
from clx.pipelines.system.durable_files import replacing, unwritable
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.remote import NotGiven, Ranges, Unreachable, Url, asked, fetch, known_once, scheme_of, url_of

if TYPE_CHECKING:
    import pyarrow as pa

AT_ONCE = 8
"""Tables that are fetched at a time."""
BUFFER = 1 << 20
"""Bytes of a tar file that are fetched at a time while it is looked through."""


def read_remote(source: str) -> Manifest:
    """Every row of a table elsewhere, or of the shards that a folder or a pattern stands for.

    Paths in cells count from the folder of the table. Raises `BadInput`, naming the URL, for what cannot be had.
    """
    url = url_of(source)
    query = source.removeprefix(url.path)
    try:
        return replace(_read([Url(name + query) for name in expanded(url.path)]), query=query)
    except (NotGiven, Unreachable) as error:
        raise BadInput(str(error)) from None


def _read(files: list[Url]) -> Manifest:
    if len(files) == 1 and not is_pattern(files[0].path):
        if table_suffix(files[0].name) in READERS or not (found := tables_in(files[0])):
            return _one(files[0])
        return _several(files[0], found)
    found = matching(files)
    return _one(found[0]) if len(found) == 1 else _several(common(found), found)


def _one(url: Url) -> Manifest:
    table, version = Tables([url]).read(url)
    return _noted(Manifest(str(url), url.parent, table, all_rows(table.num_rows), version=version))


def _several(folder: Url, files: list[Url]) -> Manifest:
    """The rows of shards below a folder, as `sharded` reads those of a folder here."""
    top = folder.path.rstrip("/")
    listed = [url for url in files if url.name.lower() in LISTS and url.parent.text.rstrip("/") == top]
    if len(listed) == 1:
        return _one(listed[0])
    below = {posixpath.relpath(url.path, folder.path): url for url in files}
    tables, versions = Tables(files), {}

    def read(file: str) -> "pa.Table":
        table, versions[file] = tables.read(below[file])
        return table

    found = sharded(Path(), str(folder), sorted(below), read)
    if found is None:
        raise BadInput(f"{folder}: its {len(files)} CSV files are series of numbers, not pieces of a table")
    manifest, _ = found
    version = hashlib.blake2b(repr(sorted(versions.items())).encode(), digest_size=16).hexdigest()
    return _noted(replace(manifest, root=folder, rows=all_rows(manifest.table.num_rows), file=None, version=version))


def _noted(manifest: Manifest) -> Manifest:
    """The same with a word on how it is read, where that is by row groups."""
    blocks = blocks_of(manifest)
    if blocks is None:
        return manifest
    said = f"files in cells are fetched by row groups, {len(blocks) - 1} of them; training mixes the rows of {WINDOW}"
    return replace(manifest, notes=(*manifest.notes, said))


class Tables:
    """Tables elsewhere that are one together; where they are large, Parquet is read by row groups and tar files are
    looked through, and else copies of them are read."""

    def __init__(self, urls: list[Url]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            known = list(pool.map(known_once, urls))
        self.known = dict(zip(urls, known, strict=True))
        size = sum(each.size or 0 for each in known)
        self.in_place = {
            url
            for url, each in self.known.items()
            if size >= mapped.LARGE and each.version is not None and each.size and url.suffix in (".parquet", ".tar")
        }
        with ThreadPoolExecutor(AT_ONCE) as pool:  # an error is raised again where the table is read
            self.coming = {url: pool.submit(self._table if url in self.in_place else copied, url) for url in urls}

    def read(self, url: Url) -> "tuple[pa.Table, str]":
        """A table and its version. Raises as `asked`, and `BadInput`."""
        if url in self.in_place:
            table = self.coming[url].result()
            return as_read(table, str(url)), str(self.known[url].version)
        path, version = self.coming[url].result()
        with mapped.as_one(path for path, _ in (self.coming[u].result() for u in self.known if u not in self.in_place)):
            return read_file(path, str(url)), version

    def _table(self, url: Url) -> "pa.Table":
        """Of Parquet what is no file, of a tar file what is text, with where the rest is; kept in the cache folder."""
        import pyarrow as pa

        def parts() -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
            if url.suffix == ".parquet":
                return in_groups(url)
            with io.BufferedReader(Ranges(url, self.known[url].size or 0), BUFFER) as file:
                table = table_of(file, str(url), url.name)
            return table.schema, iter(table.to_batches())

        key = hashlib.blake2b(f"{url.text}\0{self.known[url].version}".encode(), digest_size=16).hexdigest()
        table = mapped.mapped_as(key, str(url), parts)
        if table is None:
            schema, batches = parts()
            table = pa.Table.from_batches(batches, schema)
        return table


def tables_in(folder: Url) -> list[Url]:
    """Tables in a folder elsewhere and in the folders in it; nothing for what is no folder. Raises as `asked`, and
    `BadInput` for a folder without tables."""
    entries = _entries(folder) if folder.text.endswith("/") or _is_folder(folder) else None
    if entries is None:
        return []
    found = [url for url in entries if table_suffix(url.name) in READERS]
    if not found:
        raise BadInput(
            f"{folder}: no table in this folder (of {', '.join(READERS)}); folders of images and sound elsewhere are "
            "read by a metadata.csv in them"
        )
    return found


def _is_folder(url: Url) -> bool:
    return bool(asked(url, lambda system: system.info(url.text)).get("type") == "directory")


def _entries(folder: Url) -> list[Url]:
    names = asked(folder, lambda system: system.find(folder.text, maxdepth=2))
    return sorted((_named(name, folder) for name in names), key=lambda url: url.text)


def _named(name: str, like: Url) -> Url:
    """What fsspec calls a file, without the scheme of all but the web, as a URL."""
    return Url(name if scheme_of(name) else f"{like.scheme}://{name.lstrip('/')}")


def matching(patterns: list[Url]) -> list[Url]:
    """Files that patterns stand for, sorted. Raises `BadInput` where there is none for one of them."""
    found: dict[str, Url] = {}
    for url in patterns:
        if not is_pattern(url.path):
            found[url.text] = url
            continue
        top = Url(url.path[: re.search(r"[*\[]", url.path).start()].rpartition("/")[0])  # type: ignore[union-attr]
        here = [each for each in _entries(top) if _fits(each.path, url.path)]
        if not here:
            raise BadInput(f"{url}: no file there matches")
        found |= {each.text: each for each in here}
    return [found[text] for text in sorted(found)]


def _fits(path: str, pattern: str) -> bool:
    """Whether a path is one of a pattern, folder by folder."""
    ours, theirs = path.split("/"), pattern.split("/")
    return len(ours) == len(theirs) and all(map(fnmatchcase, ours, theirs))


def common(urls: list[Url]) -> Url:
    """The folder that all of them are in."""
    first, *others = (url.parent.text.split("/") for url in urls)
    shared = [part for part, *rest in zip(first, *others, strict=False) if all(part == each for each in rest)]
    return Url("/".join(shared))


def copied(url: Url) -> tuple[Path, str]:
    """A file in the cache folder that is what the URL holds, and the version of that. Raises as `asked`, `BadInput`
    where the disk here does not take it."""
    known = known_once(url)
    named = hashlib.blake2b(f"{url.text}\0{known.version or os.getpid()}".encode(), digest_size=16).hexdigest()
    at = _folder() / named / url.name
    try:
        at.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(at.parent / ".lock"):
            if not at.exists() or (known.version is None and at not in _fetched):
                with replacing(at) as beside:
                    fetch(url, str(beside), known.size)
                _forget(at.parent.parent)
            _fetched.add(at)
        os.utime(at.parent)
    except OSError as error:
        found = unwritable(at, error)
        raise type(found)(f"{url}: cannot be kept at {found} (CLX_CACHE names another folder)") from None
    return at, known.version or _digest(at)


_fetched: set[Path] = set()
"""Copies made by this process."""


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _folder() -> Path:
    caches = cache_folder()
    return _temporary(os.getpid()) if caches is None else caches / "remote"


@lru_cache(maxsize=1)
def _temporary(process: int) -> Path:
    """Where files are kept while this process lives, for want of a folder for caches."""
    path = tempfile.mkdtemp(prefix="clx-")
    atexit.register(lambda: shutil.rmtree(path, ignore_errors=True) if os.getpid() == process else None)
    return Path(path)


def _forget(folder: Path) -> None:
    """Remove copies that nobody asked for in a month."""
    for path in folder.iterdir():
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > FORGOTTEN:
                shutil.rmtree(path)
