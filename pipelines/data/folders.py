"""Folders of files as tables: a class per folder, or splits with classes in them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from clx.pipelines.system.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa


EXTENSIONS = {
    "image": {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"},
    "audio": {".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".opus"},
    "series": {".npy", ".csv", ".tsv"},
}
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}


def read_folder(root: Path, name: str) -> tuple["pa.Table", str]:
    """Files in class folders as a table, and the name of its path column (image, audio or series).

    `root/CLASS/**/*.ext` gives `label`; `root/{train,val,test}/CLASS/**/*.ext` gives `split` too; files
    directly in `root` are rows without a label, used when there are no class folders. Hidden files and files
    of other types are passed over.
    """
    import pyarrow as pa

    folders = _folders(root)
    by_split = bool(folders) and all(f.lower() in SPLITS and _folders(root / f) for f in folders)
    tops = [(split, root / split) for split in folders] if by_split else [(None, root)]
    found: list[tuple[str, str | None, str | None]] = [
        (os.path.relpath(file, root), label, split)
        for split, top in tops
        for label in _folders(top)
        for file in _files(top / label)
    ]
    if not found:
        found = [(e.name, None, None) for e in _visible(root) if e.is_file() and kind_of_file(e.name)]
    if not found:
        raise BadInput(f"{name}: no image, audio or series files in this folder, and no metadata.csv")
    kinds = {kind: sum(kind_of_file(path) == kind for path, _, _ in found) for kind in EXTENSIONS}
    media = [kind for kind in ("image", "audio") if kinds[kind]]
    if len(media) > 1:
        raise BadInput(
            f"{name}: holds {kinds['image']} image and {kinds['audio']} audio files; "
            "a metadata.csv must say which belong together"
        )
    kind = media[0] if media else "series"
    kept = [row for row in found if kind_of_file(row[0]) == kind]
    columns = {kind: [row[0] for row in kept]}
    if kept[0][1] is not None:
        columns["label"] = [str(row[1]) for row in kept]
    if by_split:
        columns["split"] = [str(row[2]) for row in kept]
    return pa.table(columns), kind


def _visible(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if e.name[0] != "." and e.name != "__MACOSX"), key=lambda e: e.name)
    except OSError as error:
        raise BadInput(f"{folder}: {error.strerror}") from None


def _folders(folder: Path) -> list[str]:
    return [entry.name for entry in _visible(folder) if entry.is_dir()]


def _files(folder: Path) -> Iterator[str]:
    for entry in _visible(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif entry.is_file() and kind_of_file(entry.name):
            yield entry.path


def kind_of_file(path: str) -> str | None:
    suffix = os.path.splitext(path)[1].lower()
    return next((kind for kind, suffixes in EXTENSIONS.items() if suffix in suffixes), None)
