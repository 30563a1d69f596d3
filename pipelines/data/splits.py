"""From what the user names (a file, a folder, built-in data) to splits of rows."""

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clx.pipelines.config.data_schema import Data, Fraction, Last
from clx.pipelines.config.series_schema import Long
from clx.pipelines.data.arrow_types import in_words
from clx.pipelines.data.builtin import BUILTIN, is_builtin, load_builtin
from clx.pipelines.data.draw import draw
from clx.pipelines.data.folders import read_folder, read_pattern, read_table
from clx.pipelines.data.label_columns import answer_columns, with_labels
from clx.pipelines.data.long_tables import grouped
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.patterns import is_pattern
from clx.pipelines.data.remote_tables import read_remote
from clx.pipelines.data.replay import with_replay
from clx.pipelines.data.several_sources import joined, with_shares
from clx.pipelines.data.split_names import split_of
from clx.pipelines.data.windows import parted, windowed
from clx.pipelines.data.written_columns import with_numbers, with_numbers_beside
from clx.pipelines.system.errors import BadInput, nearest
from clx.pipelines.system.remote import scheme_of, shown, url_of


def load_manifest(source: str, *, allow_outside: bool = False, root: str | None = None) -> Manifest:
    """Every row of a manifest file, of those that a pattern stands for, here or elsewhere, or of a folder (see
    `read_folder`); paths in cells count from `root`, if given.

    Raises `BadInput` for anything that is not a well-formed table with at least one row.
    """
    path = Path(source).expanduser()
    if scheme_of(source):
        manifest = read_remote(source)
    elif path.is_dir():
        manifest = read_folder(path, source)
    elif path.exists():
        manifest = read_table(path, source, search=root is None)
    elif is_pattern(source):
        manifest = read_pattern(source)
    else:
        raise BadInput(f"data {source}: no such file or folder (from {Path.cwd()})")
    if root is not None:
        folder = url_of(root) if scheme_of(root) else Path(root).expanduser()
        if isinstance(folder, Path) and not folder.is_dir():
            raise BadInput(f"data.root = {root}: no such folder (from {Path.cwd()})")
        if manifest.path_column is not None:
            raise BadInput(f"data.root is for the paths in a table; {manifest.name} is a folder without one")
        manifest = replace(manifest, root=folder)
    return replace(manifest, allow_outside=allow_outside)


def load_splits(
    data: Data, seed: int, *, whole: bool = False, inputs: Mapping[str, bool] | None = None
) -> dict[str, Manifest]:
    """Rows by split: `train`, and `val` and `test` where there are any; none of them is empty.

    `data.train` may name built-in data. Its `split` column is obeyed; `data.val` and `data.test` add files (of
    which the rows of that split count, if they have a split column) or draw a share of the training rows with
    `seed`, or the last steps of every series. With `whole` series are not cut into windows, and those of a table of
    time steps have their `times`. `inputs` are the columns whose content keeps rows together in a draw (see
    `shared_content.inputs_of`) unless `data.val.by` says what does, as in the config of a run. Raises `BadInput` when
    a split is empty or is given twice.
    """
    ends = {split: part.last for split, part in (("val", data.val), ("test", data.test)) if isinstance(part, Last)}
    if isinstance(data.train, str):
        splits = _source(data.train, data, whole, ends)
    else:
        splits = joined({part.source: _source(part.source, data, whole, ends) for part in data.train})
    total = len(split_in(splits, "train", data.named))
    for split, given in (("test", data.test), ("val", data.val)):
        if given is None:
            continue
        if split in splits:
            raise BadInput(
                f"data.{split} is given, but {len(splits[split])} rows of {data.named} already have that split: "
                f"leave out data.{split}, or name another column in data.split"
            )
        if isinstance(given, Last):
            continue  # both at once, below
        if isinstance(given, Fraction):
            splits["train"], splits[split] = draw(splits["train"], given, data, seed, inputs or {}, split, total)
        else:
            splits[split] = _holdout(given, split, data, whole)
    if ends and data.windows is not None:
        splits |= parted(splits["train"], data.windows.column, ends, whole and data.long is not None)
    if splits["train"].parts:
        splits["train"] = with_shares(splits["train"], data)
    kept: dict[str, Manifest] = {split: splits[split] for split in ("train", "val", "test") if split in splits}
    if whole:
        return kept
    kept = {split: _cut(rows, data) for split, rows in kept.items()}
    if data.replay is not None:
        kept["train"] = with_replay(kept["train"], data, seed, partial(load_splits, seed=seed))
    return kept


def splits_of(source: str, data: Data, *, whole: bool = False, split: str | None = None) -> dict[str, Manifest]:
    """The splits of a source other than the run's own; `all` for one without a split column. Raises `BadInput`, also
    where `split` is asked for and no column tells it."""
    if is_builtin(source):
        root = data.root if BUILTIN.get(source) and BUILTIN[source].folder else None
        splits = _builtin(source, data, root)
    else:
        manifest = _open(source, data, whole)
        manifest = manifest if split in (None, "all") else _telling(manifest, data, str(split))
        splits = split_by(manifest, data.split) if data.split in manifest.columns else {"all": manifest}
    return splits if whole else {split: _cut(rows, data) for split, rows in splits.items()}


Otherwise = Literal["first", "every", "file"]


def choose(
    data: Data,
    seed: int,
    source: str | None = None,
    split: str | None = None,
    *,
    otherwise: Otherwise = "first",
    whole: bool = False,
) -> dict[str, Manifest]:
    """The rows that a command is about, by split: of a source, or, where that is None, of the run's own data.

    Args:
        split: train, val or test; None leaves the choice to `otherwise`.
        otherwise: `first` takes test, val or train, the first that there is, or `all` of a source without a split
            column; `every` takes all of them; `file` takes all rows of a file in its order, whatever their split,
            under the name `all`; of the run's own and of built-in data it takes the first. Of a table of time steps
            the rows are its series or their windows, and need no label or target; other files are taken as they are.
        whole: as in `load_splits`.

    Raises:
        BadInput: where there are no such rows.
    """
    if otherwise == "file" and source is not None and not is_builtin(source):
        manifest = _as_it_is(source, data)
        splits = (
            {"all": manifest} if split in (None, "all") else split_by(_telling(manifest, data, str(split)), data.split)
        )
    elif source is None:
        splits = load_splits(data, seed, whole=whole)
    else:
        splits = splits_of(source, data, whole=whole, split=split)
    if split is None and otherwise == "every":
        return splits
    name = split or next(each for each in ("all", "test", "val", "train") if each in splits)
    return {name: split_in(splits, name, shown(source) if source else data.named)}


def is_same(one: object, other: object) -> bool:
    """Whether two sources are one file or folder."""
    if not (isinstance(one, str) and isinstance(other, str)):
        return False
    return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def _source(source: str, data: Data, whole: bool, ends: dict[str, float]) -> dict[str, Manifest]:
    """The splits of the training source, whose `train` will be cut at `ends`; rows of a source without a split column
    are all `train`."""
    if is_builtin(source):
        return _builtin(source, data, data.root)
    manifest = _open(source, data, whole, ends)
    if data.split in manifest.columns or data.split != "split":
        splits = split_by(manifest, data.split)
        if ends and len(splits) > 1 and data.long is not None and data.long.every is not None:
            uncut = split_by(_open(source, data, whole), data.split)  # only training series are cut
            splits = {split: rows if split == "train" else uncut[split] for split, rows in splits.items()}
        return splits
    return {"train": manifest}


def _holdout(source: str, split: str, data: Data, whole: bool) -> Manifest:
    """Rows of a source given for one split: those of that split, or all when it has no split column."""
    if is_builtin(source):
        splits = _builtin(source, data, data.root)
    else:
        manifest = _open(source, data, whole)
        if data.split not in manifest.columns:
            return replace(manifest, split_from=f"its own file {shown(source)}")
        splits = split_by(manifest, data.split)
    return split_in(splits, split, shown(source))


def _cut(manifest: Manifest, data: Data) -> Manifest:
    return manifest if data.windows is None else windowed(manifest, data.windows, data.long)


def _builtin(source: str, data: Data, root: str | None) -> dict[str, Manifest]:
    return {split: with_labels(rows, data) for split, rows in load_builtin(source, root).items()}


def _open(source: str, data: Data, timed: bool, ends: dict[str, float] | None = None) -> Manifest:
    if not Path(source).expanduser().exists() and not Path(source).suffix and "/" not in source:
        raise BadInput(f"no file, folder or built-in data named {source!r}{nearest(source, BUILTIN)}")
    manifest = load_manifest(source, allow_outside=data.allow_outside, root=data.root)
    manifest = with_labels(with_numbers(manifest, data.target, data.numbers), data)
    return manifest if data.long is None else _series(manifest, data, data.long, timed, ends)


def _series(
    manifest: Manifest, data: Data, long: Long, timed: bool = False, ends: dict[str, float] | None = None
) -> Manifest:
    channels = [c for c in manifest.columns if any(fnmatchcase(c, each) for each in long.channels)]
    manifest = with_numbers(manifest, channels, data.numbers)
    near = [data.neighbours.group] if data.neighbours else []
    needed = [data.split, *data.target, *near, *answer_columns(data, manifest.columns)]
    needed += [data.label_column] if data.label_column else []
    return grouped(manifest, long, needed, timed, ends)


def _telling(manifest: Manifest, data: Data, split: str) -> Manifest:
    """Rows that a column divides into splits. Raises `BadInput` where there is none, as where a run drew its own."""
    if data.split not in manifest.columns:
        drawn = any(isinstance(part, Fraction | Last) for part in (data.val, data.test))
        hint = f", or --data for the {split} rows that the run drew from {data.named}" if drawn else ""
        raise BadInput(
            f"{manifest.name} has no column {data.split!r} that tells its {split} rows: leave out --split for all of "
            f"its rows{hint}"
        )
    return manifest


def _as_it_is(source: str, data: Data) -> Manifest:
    """All rows of a file; of a table of time steps its series, or their windows, whatever they are to be told by."""
    manifest = load_manifest(source, allow_outside=data.allow_outside, root=data.root)
    if data.long is None or (data.long.time not in manifest.columns and "series" in manifest.columns):
        return with_labels(with_numbers_beside(manifest, data.target, data.numbers), data)
    told_by_nothing = data.model_copy(update={"label": None, "label_cells": {}, "target": [], "neighbours": None})
    return _cut(_series(manifest, told_by_nothing, data.long), data)


def split_in(splits: Mapping[str, Manifest], name: str, source: str) -> Manifest:
    """The rows of one split of a source. Raises `BadInput` when there are none."""
    if name not in splits:
        raise BadInput(f"{source}: no row has the split {name!r} (found: {', '.join(splits)})")
    return splits[name]


def split_by(manifest: Manifest, column: str) -> dict[str, Manifest]:
    """Rows by the value of a split column: train, val (valid, validation, dev) or test, in any case."""
    import pyarrow as pa
    import pyarrow.compute as pc

    manifest.require(column)
    cells = manifest.table.column(column)
    if pa.types.is_dictionary(cells.type):
        cells = cells.cast(cells.type.value_type)
    if not (pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)):
        found = in_words(cells.type)
        raise BadInput(f"{manifest.name}: column {column!r} should hold train, val or test, and holds {found}")
    masks: dict[str, NDArray[np.bool_]] = {}
    for value in pc.unique(cells).to_pylist():
        same = pc.is_null(cells) if value is None else pc.equal(cells, value).fill_null(False)
        mask = same.to_numpy()[manifest.rows]
        split = split_of(value or "")
        if split is None and mask.any():
            where = manifest.where(int(mask.argmax()))
            shown = repr(value) if value else "empty"
            raise BadInput(
                f"{where}: {column} is {shown}, but a split is one of train, val, test (training, valid, dev, eval ...)"
            )
        if split is not None:
            masks[split] = masks[split] | mask if split in masks else mask
    order = [split for split in ("train", "val", "test") if split in masks and masks[split].any()]
    manifest = replace(manifest, split_from=manifest.split_from or f"column {column!r}")
    return {split: manifest.take(np.flatnonzero(masks[split])) for split in order}
