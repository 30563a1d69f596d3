"""What the user names, as items to embed: files, folders, patterns, rows of manifests, JSON objects and phrases."""

import glob
import json
import os
import stat
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from clx.modalities.base import CellError, Modality
from clx.pipelines.batches.cells import cell_of, read_cell
from clx.pipelines.batches.columns import columns_of, has_columns
from clx.pipelines.data.file_kinds import KNOWN, is_picture, looked_at
from clx.pipelines.data.folder_tables import LISTS
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.splits import load_manifest, split_by, split_in
from clx.pipelines.model.build import Run
from clx.pipelines.system.errors import BadInput, nearest
from clx.pipelines.use.given_cells import given_cell, name_of, table_row
from clx.pipelines.use.json_items import cell_of_json, is_json, is_object

Item = tuple[str, dict[str, Any] | str]
"""A name with its cells by modality, or with the reason why there are none."""
Answer = TypeVar("Answer")


class Skipped(NamedTuple):
    """An input that could not be used."""

    name: str
    reason: str


KINDS: dict[str, str] = {**KNOWN, ".json": "table", ".txt": "text"}
MANIFESTS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


def check_modality(run: Run, name: str) -> str:
    """The kind of a run's modality. Raises `BadInput` when it has none of that name."""
    if name not in run.modalities:
        raise BadInput(f"unknown modality {name!r}{nearest(name, run.modalities)}")
    return run.modalities[name].kind


def modality_of_kind(run: Run, kind: str | None, what: str) -> str:
    """The run's one modality of a kind; `what` is called so when there is none or there are several."""
    names = run.readers(kind)
    if len(names) == 1:
        return names[0]
    if not names:
        raise BadInput(f"this run has no modality for {what}; it has {', '.join(run.modalities)}")
    raise BadInput(f"say what it is with --as {' or --as '.join(names)}")


def modality_of_file(run: Run, path: Path) -> str:
    """The run's modality that reads a file of this name. Raises `BadInput` when none or several may."""
    suffix, known = path.suffix, KINDS.get(path.suffix.lower())
    kind, reason = (known, None) if known and not is_picture(str(path)) else looked_at(str(path))
    if reason is not None:
        raise BadInput(reason)
    return modality_of_kind(run, kind, f"{suffix} files" if suffix else "files without an extension")


def set_columns(run: Run, columns: Mapping[str, str]) -> None:
    """Let modalities read other columns of a manifest than their own, given by modality. Raises `BadInput`."""
    for name, column in columns.items():
        if check_modality(run, name) == "table":
            raise BadInput(f"--column {name}={column}: a table reads the columns that it was trained on")
        run.modalities[name].column = column


def one_item(run: Run, cells: Mapping[str, Any]) -> Iterator[Item]:
    """The one thing given by several of its modalities, by name or, the first of it, by kind (see `given_cell`)."""
    item: dict[str, Any] = {}
    for key, value in cells.items():
        name = key if key in run.modalities else next(iter(run.readers(key)), None)
        if name is None:
            raise BadInput(f"--{key}: this run has no {key} modality; it has {', '.join(run.modalities)}")
        item[name] = given_cell(run, name, value)
    yield "+".join(str(value) if isinstance(value, str | Path) else key for key, value in cells.items()), item


@dataclass(frozen=True)
class Inputs:
    """How names become items."""

    run: Run
    modality: str | None = None
    """What all of them are; the file name tells when not given."""
    text: str | None = None
    """The text modality that rows of manifests and JSON objects are not asked with, unless `modality` says so."""
    split: str | None = None
    """Of manifests with a split column: which of their rows."""
    allow_outside: bool = False
    """Whether paths in manifests may lead out of the manifest's folder."""

    def __post_init__(self) -> None:
        if self.modality is not None:
            check_modality(self.run, self.modality)

    @property
    def asked(self) -> dict[str, Modality]:
        """The modalities that a row may be given by."""
        names = [self.modality] if self.modality else [name for name in self.run.scored() if name != self.text]
        return {name: self.run.modalities[name] for name in names}

    @property
    def takes_words(self) -> bool:
        """Whether a name that is no file is a phrase."""
        return self.modality is not None and self.run.modalities[self.modality].kind == "text"

    def items(self, names: Iterable[str | Mapping[str, Any]]) -> Iterator[Item]:
        """The items of each name, in order; one that cannot be used is an item with its reason.

        A mapping is one thing by its files (see `one_item`). Raises `BadInput` for one that the run does not read.
        """
        for number, given in enumerate(names, 1):
            if isinstance(given, Mapping):
                yield from one_item(self.run, given)
                continue
            path = Path(name := name_of(given))
            try:
                if is_object(name) if self.takes_words else is_json(name):
                    yield self.of_json(name, number)
                elif (mode := _mode(name)) is not None:
                    yield from self.of_folder(path) if stat.S_ISDIR(mode) else self.of_file(path)
                elif self.takes_words:
                    yield printable(name), {str(self.modality): name}
                elif glob.has_magic(name):
                    yield from self.of_pattern(name)
                else:
                    yield from self.of_file(path)
            except (BadInput, OSError, ValueError, TypeError) as error:  # a name with a zero byte, a list of objects
                yield printable(name), str(error)

    def of_pattern(self, pattern: str) -> Iterator[Item]:
        """Files that match, sorted; `**` goes into folders."""
        files = sorted(name for name in glob.iglob(pattern, recursive=True) if os.path.isfile(name))
        if not files:
            raise BadInput("no file matches")
        for name in files:
            yield from self.of_file(Path(name))

    def of_folder(self, folder: Path) -> Iterator[Item]:
        """Rows of the folder's `metadata.csv` or `manifest.csv`, else its files at any depth, sorted."""
        listed = next((folder / name for name in LISTS if (folder / name).is_file()), None)
        if listed is not None and any(True for _ in self.usable(load_manifest(str(listed)))):
            yield from self.of_file(listed)
            return
        asked = {modality.kind for modality in self.asked.values()}
        for top, folders, files in os.walk(folder):
            folders[:] = sorted(name for name in folders if name[0] != ".")
            for name in sorted(files):
                kind = "image" if is_picture(os.path.join(top, name)) else KINDS.get(Path(name).suffix.lower())
                if name[0] != "." and kind in asked:
                    yield from self.of_file(Path(top, name))

    def usable(self, manifest: Manifest) -> dict[str, Modality]:
        """The modalities that a manifest has columns for."""
        return {name: m for name, m in self.asked.items() if has_columns(manifest, name, m)}

    def of_file(self, path: Path) -> Iterator[Item]:
        """The items in one file: the rows of a manifest, or the one thing that it holds."""
        shown = printable(str(path))
        try:
            if path.suffix.lower() in MANIFESTS:
                manifest = load_manifest(str(path), allow_outside=self.allow_outside)
                if modalities := self.usable(manifest):
                    yield from self.of_rows(manifest, modalities)
                    return
            name = self.modality or modality_of_file(self.run, path)
            kind = self.run.modalities[name].kind
            if self.run.modalities[name].pair:
                yield shown, f"{name} is a pair of columns: give a manifest that has them"
            elif kind == "table":
                yield shown, {name: table_row(self.run, name, path)}
            elif kind == "text":
                yield shown, {name: path.read_text(encoding="utf-8").strip()}
            else:
                yield shown, {name: path}
        except UnicodeDecodeError as error:
            yield shown, f"not UTF-8 text (byte {error.start})"
        except OSError as error:
            yield shown, error.strerror or str(error)
        except BadInput as error:
            yield shown, str(error)

    def of_rows(self, manifest: Manifest, modalities: Mapping[str, Modality]) -> Iterator[Item]:
        """Every row of a manifest as an item, given by all the modalities that it has."""
        if self.split is not None:
            manifest = split_in(split_by(manifest, self.run.config.data.split), self.split, manifest.name)
        columns = columns_of(dict(modalities))
        for i in range(len(manifest)):
            try:
                row = manifest.row(i, columns)
                cells = {n: cell_of(row, n, m, manifest.of_row(i)) for n, m in modalities.items()}
                present = {n: cell for n, cell in cells.items() if cell is not None}
                yield manifest.where(i), present or "every cell is empty"
            except BadInput as error:
                yield manifest.where(i), str(error)

    def of_json(self, text: str, number: int) -> Item:
        """A row as a JSON object, by the columns of a manifest; or a list of numbers, which is a series.

        Its name is its `id`, or the number of the line. Paths count from where clx was started.
        """
        name = f"line {number}"
        try:
            value = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            return name, f"not JSON ({getattr(error, 'msg', error)})"
        if isinstance(value, list):
            return name, {self.modality or modality_of_kind(self.run, "series", "lists of numbers"): value}
        if value.get("id") is not None:
            name = str(value["id"])
        cells = {}
        for key, modality in self.asked.items():
            cell = cell_of_json(value, key, modality)
            if cell is not None:
                cells[key] = cell
        if cells:
            return name, cells
        read = value.keys() & columns_of({} if self.text is None else {self.text: self.run.modalities[self.text]})
        hint = f" ({self.text} reads the labels; --as {self.text} asks about it)" if read else ""
        return name, f"it has none of the columns {', '.join(columns_of(self.asked))}{hint}"


def _mode(name: str) -> int | None:
    """What a name stands for in the file system; None for nothing. Paths of a long list are asked once each."""
    try:
        return os.stat(name).st_mode
    except OSError:
        return None


def printable(name: str) -> str:
    """A file name as UTF-8 can show it: names may hold any bytes."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "replace")


def refuse_skipped(answers: Generator[Answer, None, None], strict: bool) -> Generator[Answer, None, None]:
    """The same answers; with `strict` the first that is `Skipped` raises `BadInput`."""
    with closing(answers):
        for answer in answers:
            if strict and isinstance(answer, Skipped):
                raise BadInput(f"{answer.name}: {answer.reason}")
            yield answer


def read_items(run: Run, items: Iterable[Item]) -> list[Item]:
    """The items with their cells read, or with the reason why one of them cannot be."""

    def read(name: str, given: dict[str, Any] | str) -> Item:
        if isinstance(given, str):
            return name, given
        try:
            return name, {m: read_cell(run.modalities[m], cell) for m, cell in given.items()}
        except CellError as error:
            return name, str(error)

    return [read(*item) for item in items]
