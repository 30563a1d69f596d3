"""Cells that name files: where these are, and the bytes of those that are elsewhere or a piece of another file."""

import os
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from clx.modalities.errors import CellError
from clx.modalities.files import LARGEST_FILE
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.pieces import Piece, content, split_text
from clx.pipelines.data.row_groups import cell_of_group
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.fetch_ahead import FetchAhead
from clx.pipelines.system.remote import WEB, NotGiven, Url, read, url_of


@lru_cache(maxsize=1 << 12)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _real(path: str) -> str:
    """Where an absolute path leads. Of files of one folder the folder is looked up once."""
    folder, name = os.path.split(path)
    if name in ("", ".", "..") or os.path.islink(path):
        return os.path.realpath(path)
    return os.path.join(_real_folder(folder), name)


def resolve(cell: Any, manifest: Manifest) -> Any:
    """A cell that says which file is meant: text becomes a path below the manifest's root, a URL, or a piece
    of one of both.

    Bytes, arrays and None pass through, and what is a URL itself may be anywhere. Raises `BadInput`, with the reason
    alone, for a path that leaves the root by `..`, as an absolute path or through a symbolic link, unless the manifest
    allows that. Whether the file exists is for the reader to find out.
    """
    if not isinstance(cell, str):
        return cell
    if "\0" in cell:
        raise BadInput(f"{cell!r} is no path")
    if (piece := split_text(cell)) is not None:
        return Piece(_of_piece(piece[0], manifest), piece[1], piece[3], piece[4], piece[2])
    if "://" in cell:
        return url_of(cell)
    if isinstance(manifest.root, Url):
        if not manifest.allow_outside and (cell.startswith("/") or ".." in cell.split("/")):
            raise BadInput(f"path {cell!r} leaves {manifest.root} (data.allow_outside: true accepts that)")
        return manifest.root / cell
    path = manifest.root / cell
    if not manifest.allow_outside:
        here = os.path.abspath(manifest.root)  # a relative one changes with the folder one is in
        if not _real(os.path.join(here, cell)).startswith(_real_folder(here).rstrip(os.sep) + os.sep):
            raise BadInput(f"path {cell!r} leaves {manifest.root} (data.allow_outside: true accepts that)")
    return path


def _of_piece(file: str, manifest: Manifest) -> Any:
    """The file that a piece is of. Tables elsewhere are called in their pieces what their URLs call them."""
    if not isinstance(manifest.root, Url) or manifest.root.scheme not in WEB or "://" in file:
        return resolve(file, manifest)
    return Url(resolve(unquote(file), manifest).text + manifest.query)


def _bytes_of(cell: Url | Piece) -> bytes:
    if isinstance(cell, Url):
        return read(cell, LARGEST_FILE)
    return cell_of_group(cell) if cell.of_group else content(cell)


ahead: FetchAhead[Url | Piece] = FetchAhead(_bytes_of)
"""Cells that this process will read soon."""


def fetched(cell: Any) -> Any:
    """The bytes of a file elsewhere, or of a piece of a file; another cell as it is. Raises `CellError` where there is
    none, and `Unreachable` where the other side does not answer, which is not the row's fault."""
    try:
        return ahead.take(cell) if isinstance(cell, Url | Piece) else cell
    except NotGiven as error:
        raise CellError(str(error)) from None


def here(cell: Any, manifest: Manifest) -> Any:
    """As `resolve`, for what reads whole files of this machine alone. Raises `BadInput` for a URL, and for a piece."""
    found = resolve(cell, manifest)
    if isinstance(found, Url | Piece):
        raise BadInput(f"{found}: windows and pieces are read of files of their own on this machine alone")
    return found
