"""Pictures with words and speech in many languages: the stamps of Tux Paint, read from where their package lies."""

import hashlib
from collections import defaultdict
from pathlib import Path

from clx.pipelines.data.builtin_digits import Tables
from clx.pipelines.system.errors import BadInput

FOLDER = Path("/usr/share/tuxpaint/stamps")
"""Where the Debian package puts them."""
ENGLISH = "text_en"
SPLITS = {"test": 0.2, "val": 0.1}
"""Shares of the different English texts."""
STAMP_ROWS = {"train": 550, "val": 73, "test": 162}
"""Of version 2022.06.04."""


def stamps(root: str) -> Tables:
    """A row a picture (PNG) that is described: `image`, `class`, `subclass`, `text_LANGUAGE`, `speech_LANGUAGE`.

    Languages are as in the file names, `text_pt_BR`; a row lacks what nobody translated or spoke. `text_en` is each
    description's first line, and decides the split, so that equal words stand in one. `class` and `subclass` are the
    folders. Drawings in SVG are left out, which no decoder here reads. Raises `BadInput` where there are no stamps.
    """
    import pyarrow as pa

    folder = Path(root)
    by_split: dict[str, list[dict[str, str]]] = defaultdict(list)
    spoken = _spoken(folder) if folder.is_dir() else {}
    for path in sorted(folder.rglob("*.png")) if folder.is_dir() else []:
        if (row := _row(folder, path)) is not None:
            by_split[row["split"]].append(row | spoken.get((row["subclass"], path.stem), {}))
    if not by_split:
        raise BadInput(
            f"stamps: no stamps of Tux Paint in {folder}: apt install tuxpaint-stamps-default (GPL-2), "
            "or -s data.root=FOLDER with its usr/share/tuxpaint/stamps"
        )
    names = {name for rows in by_split.values() for row in rows for name in row}
    first = ["image", "class", "subclass", "split", ENGLISH]
    columns = first + sorted(names - set(first), key=lambda name: (name.startswith("speech"), name))
    return {
        split: pa.table({name: pa.array([row.get(name) for row in by_split[split]], pa.string()) for name in columns})
        for split in ("train", "val", "test")
        if by_split[split]
    }


def _row(folder: Path, picture: Path) -> dict[str, str] | None:
    """What there is of a picture, paths counted from `folder`; None where nothing describes it."""
    try:
        first, *others = picture.with_suffix(".txt").read_text("utf-8").splitlines()
    except (OSError, ValueError):  # no file, no line, or not UTF-8
        return None
    if not first.strip():
        return None
    place = picture.relative_to(folder)
    row: dict[str, str] = {"image": place.as_posix(), "class": place.parts[0], "subclass": place.parent.as_posix()}
    row |= {"split": _split(first.strip()), ENGLISH: first.strip()}
    for line in others:
        language, equals, text = line.partition(".utf8=")
        if equals and text.strip() and language != "en":
            row[f"text_{language}"] = text.strip()
    return row


def _spoken(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    """By folder and stem of a picture, the file in which its description is spoken, by language."""
    found: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for path in sorted(folder.rglob("*_desc_*.ogg")):
        stem, _, language = path.stem.removesuffix(".ogg").partition("_desc_")
        place = path.relative_to(folder)
        found[place.parent.as_posix(), stem][f"speech_{language}"] = place.as_posix()
    return found


def _split(text: str) -> str:
    """By the words alone, on every machine alike."""
    place = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64
    for split, share in SPLITS.items():
        if place < share:
            return split
        place -= share
    return "train"
