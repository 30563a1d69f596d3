"""Decoded and resized samples, kept for the next epoch or the next run; shared by all processes that read data.

What is kept is what `read` makes of files and of bytes of files. A cell that is numbers or text is read as fast as
it would be found.
"""

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from warnings import warn

import torch
from torch import Tensor

from clx.modalities.base import Modality
from clx.modalities.series_files import piece_of
from clx.pipelines.batches.cells import read_cell
from clx.pipelines.batches.decoded import Decoded
from clx.pipelines.config.options import options_of
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.pieces import Piece
from clx.pipelines.system.cache_folder import cache_folder
from clx.pipelines.system.errors import ClxWarning
from clx.pipelines.system.memory import free_memory
from clx.pipelines.system.remote import Url, scheme_of
from clx.pipelines.system.row_store import SPARE, RowStore

Where = Literal["memory", "disk"]
LOOK = 1024
"""Rows after which a process that keeps them looks how much memory is left."""
KEPT = 32
"""Caches on disk that stay, the last used ones: a run has one for each input."""
TYPES = (torch.uint8, torch.float32, torch.int16, torch.int64, torch.float64, torch.bool)
FORMS: tuple[type, ...] = (Tensor, list, tuple)
HEAD, PART = struct.Struct("<BI"), struct.Struct("<BB")


class SampleCache:
    """What was read of a manifest's rows: in memory, on disk, or nothing.

    In memory rows are kept as they are by the one process that reads; where workers read, and on disk, samples are
    kept as bytes that all processes share.
    """

    def __init__(self, where: Where | None, modalities: Mapping[str, Modality], manifest: Manifest) -> None:
        self.where = where
        self.modalities, self.manifest = modalities, manifest
        self.rows: dict[int, Decoded] = {}
        self.stores: dict[str, RowStore] | None = None
        self.trouble: str | None = None
        """Why no more is kept; it was said."""

    def share(self, workers: int) -> None:
        """Be ready for this number of processes that read, before they start. Where that fails, a warning says so."""
        if self.where is None or self.stores is not None or (self.where == "memory" and not workers):
            return
        self.rows, self.stores = {}, {}
        for name, modality in self.modalities.items() if self.trouble is None else ():
            if modality.files:
                try:
                    folder = None if self.where == "memory" else _folder(name, modality, self.manifest)
                    self.stores[name] = RowStore(folder)
                except OSError as error:
                    self._warn(f"{error.filename or 'shared memory'}: {error.strerror or 'cannot be had'}")
                    return

    def read(self, name: str, row: int, cell: Any) -> Any:
        """What `read_cell` gives for the cell of the table's row: kept, or read now. Raises `CellError`."""
        modality = self.modalities[name]
        store = self.stores.get(name) if self.stores else None
        key = None if store is None else key_of(modality, cell)
        if store is None or key is None:
            return read_cell(modality, cell)
        if (kept := store.get(row, key)) is not None:
            return unpacked(kept)
        sample = read_cell(modality, cell)
        if (content := packed(sample)) is not None:
            store.put(row, key, content)
        return sample

    def has(self, name: str, row: int, cell: Any) -> bool:
        """Whether the sample of a cell of the table's row is kept as bytes."""
        store = self.stores.get(name) if self.stores else None
        key = None if store is None else key_of(self.modalities[name], cell)
        return store is not None and key is not None and store.get(row, key) is not None

    def keep(self, i: int, decoded: Decoded) -> None:
        """The row as this process read it, where no other reads."""
        if self.where != "memory" or self.stores is not None or self.trouble is not None:
            return
        if len(self.rows) % LOOK == 0 and (found := free_memory()) and found[0] < min(SPARE, found[1] // 10):
            self._warn("memory is almost full")
        else:
            self.rows[i] = decoded

    def tell(self) -> None:
        """Warn, once, where there is no more room: training goes on without."""
        for store in (self.stores or {}).values() if self.trouble is None else ():
            if (trouble := store.trouble()) is not None:
                return self._warn(trouble)

    def _warn(self, trouble: str) -> None:
        self.trouble = trouble
        said = "samples that are not kept by now are read anew each epoch"
        warn(f"data.cache: {self.where}: {trouble}; {said}", ClxWarning, stacklevel=2)


def key_of(modality: Modality, cell: Any) -> bytes | None:
    """What a sample was made from: of a file its path, size and time of change; of one elsewhere its URL, since to ask
    whether it has changed takes as long as to fetch it; of bytes themselves. None where the cell is no file or is not
    there."""
    digest = hashlib.blake2b(digest_size=16)
    for one in cell if isinstance(cell, (list, tuple)) else (cell,):
        if isinstance(one, bytes):
            digest.update(b"%d " % len(one) + one)
        elif isinstance(one, Url):
            digest.update(f"{one.text}\0".encode("utf-8", "surrogateescape"))
        elif isinstance(one, Piece):
            digest.update(f"{one.key}\0".encode("utf-8", "surrogateescape"))
        elif isinstance(one, Path):
            name = str(one)
            try:
                there = os.stat(piece_of(name)[0] if modality.kind == "series" else name)
            except OSError:
                return None
            digest.update(f"{there.st_size} {there.st_mtime_ns} {name}\0".encode("utf-8", "surrogateescape"))
        else:
            return None
    return digest.digest()


def packed(sample: Any) -> bytes | None:
    """A tensor, or a list or tuple of tensors, as bytes; None for what is something else."""
    form = next((number for number, each in enumerate(FORMS) if isinstance(sample, each)), None)
    parts = [sample] if isinstance(sample, Tensor) else sample
    if form is None or not all(isinstance(part, Tensor) and part.dtype in TYPES for part in parts):
        return None
    head = HEAD.pack(form, len(parts))
    for part in parts:
        head += PART.pack(TYPES.index(part.dtype), part.ndim) + struct.pack(f"<{part.ndim}I", *part.shape)
    return _padded(head) + b"".join(_padded(part.contiguous().numpy().tobytes()) for part in parts)


def unpacked(content: bytearray) -> Any:
    """What `packed` was given; tensors share the memory of `content`."""
    form, count = HEAD.unpack_from(content)
    at, shapes = HEAD.size, []
    for _ in range(count):
        dtype, ndim = PART.unpack_from(content, at)
        shapes.append((TYPES[dtype], struct.unpack_from(f"<{ndim}I", content, at + PART.size)))
        at += PART.size + 4 * ndim
    parts = []
    for dtype, shape in shapes:
        at += -at % 16
        size = torch.Size(shape).numel()
        if size:
            parts.append(torch.frombuffer(content, dtype=dtype, count=size, offset=at).view(shape))
        else:
            parts.append(torch.empty(shape, dtype=dtype))
        at += size * dtype.itemsize
    return parts[0] if form == 0 else FORMS[form](parts)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 16)


def _folder(name: str, modality: Modality, manifest: Manifest) -> Path:
    """Where an input's samples are kept, by all that decides how its cells are read; the caches that were used least
    lately go. Raises `OSError` where there is no folder for caches."""
    caches = cache_folder()
    if caches is None:
        raise OSError(0, "the variable is set empty", "CLX_CACHE")
    options = {key: value for key, value in options_of(modality).items() if key in ("pair", *modality.read_by)}
    places = (manifest.name if scheme_of(manifest.name) else Path(manifest.name), manifest.root)
    source = [str(place.absolute()) if isinstance(place, Path) else str(place) for place in places]
    # pieces of tables elsewhere are known by where they are in them, and those of another version are others
    source += [part.version for part in manifest.parts or (manifest,) if part.version]
    said = json.dumps([modality.kind, name, options, modality.state(), source], sort_keys=True, default=str)
    folder = caches / "samples" / hashlib.blake2b(said.encode(), digest_size=12).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    with suppress(OSError):
        for one in sorted(folder.parent.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(one, ignore_errors=True)
    return folder
