"""Files that belong together by name: `1.jpg` with its caption `1.txt` and its facts `1.json`."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clx.pipelines.data.json_files import objects
from clx.pipelines.system.errors import BadInput

CAPTIONS, FACTS = (".txt", ".caption"), (".json",)
FACTS_OF_ONE = "metadata.json"
NUMBERS = re.compile(r"[\d\s.eE+-]+")


def columns_beside(
    root: Path, paths: Sequence[str], others: Sequence[str], name: str, taken: Sequence[str]
) -> tuple[dict[str, Any], set[str], list[str]]:
    """Columns of text files with the names of `paths`, the files that they are made of, and notes.

    A line of a `.txt` is a caption: one makes a text cell, several in any file make all cells lists. The keys of a
    `.json`, or of a `metadata.json` beside one file alone, are columns; one that is `taken` is called `json_KEY`. Boxes
    of numbers (YOLO's) are no captions. Raises `BadInput` for a file that is not what its name says.
    """
    stems = {os.path.splitext(path)[0] for path in paths}
    alone = files_alone(paths)
    found: dict[str, dict[str, str]] = {"text": {}, "facts": {}}
    for other in others:
        stem, extension = os.path.splitext(other)
        if os.path.basename(other).lower() == FACTS_OF_ONE and os.path.dirname(other) in alone:
            stem = os.path.splitext(alone[os.path.dirname(other)])[0]
        if stem in stems and extension.lower() in (*CAPTIONS, *FACTS):
            found["text" if extension.lower() in CAPTIONS else "facts"][stem] = other
    columns: dict[str, Any] = {}
    used: set[str] = set()
    notes: list[str] = []
    if found["text"]:
        captions = _captions(root, paths, found["text"], name)
        if captions is None:
            notes.append(f"{next(iter(found['text'].values()))} and its like hold numbers: no captions")
        else:
            columns["text"] = captions
            used |= set(found["text"].values())
    if found["facts"]:
        table = _facts(root, paths, found["facts"], name)
        for column in table.column_names:
            if column:
                columns[f"json_{column}" if column in (*taken, *columns) else column] = table.column(column)
        used |= set(found["facts"].values())
    return columns, used, notes


def files_alone(paths: Sequence[str]) -> dict[str, str]:
    """By folder, the file of `paths` that is the only one there; not of the folder itself."""
    inside: dict[str, list[str]] = {}
    for path in paths:
        inside.setdefault(os.path.dirname(path), []).append(path)
    return {folder: found[0] for folder, found in inside.items() if folder and len(found) == 1}


def _captions(root: Path, paths: Sequence[str], files: Mapping[str, str], name: str) -> list[Any] | None:
    """The lines of each file's caption; None where they are numbers."""
    texts: dict[str, list[str]] = {}
    for stem, file in files.items():
        texts[stem] = [line.strip() for line in _read(root, file, name).splitlines() if line.strip()]
    lines = [line for each in texts.values() for line in each]
    if lines and all(NUMBERS.fullmatch(line) and " " in line for line in lines[:1000]):
        return None
    several = any(len(each) > 1 for each in texts.values())
    cells = [texts.get(os.path.splitext(path)[0]) for path in paths]
    return [(cell if several else cell[0]) if cell else None for cell in cells]


def _facts(root: Path, paths: Sequence[str], files: Mapping[str, str], name: str) -> Any:
    records: list[dict[str, Any]] = []
    for path in paths:
        file = files.get(os.path.splitext(path)[0])
        if file is None:
            records.append({})
            continue
        try:
            record = json.loads(_read(root, file, name))
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{name}/{file}: not JSON ({error})") from None
        if not isinstance(record, dict):
            raise BadInput(f"{name}/{file}: expected a JSON object with what is known of {Path(path).name}")
        records.append(record)
    return objects(records, f"{name}, .json files")


def _read(root: Path, file: str, name: str) -> str:
    inside = os.path.realpath(root).rstrip(os.sep) + os.sep
    if os.path.islink(root / file) and not os.path.realpath(root / file).startswith(inside):
        raise BadInput(f"{name}/{file}: a link that leaves the folder")
    try:
        return (root / file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{name}/{file}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise BadInput(f"{name}/{file}: {error.strerror}") from None
