"""Tables in a folder that are pieces of one, such as `train-00000-of-00002.parquet`."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clx.pipelines.data.folder_tables import called, manifest_of, together, with_split
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.mapped import as_one
from clx.pipelines.data.pieces import below
from clx.pipelines.data.readers import read_file, table_suffix
from clx.pipelines.data.split_names import split_of, split_of_file
from clx.pipelines.system.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

TEXT = {".csv", ".tsv", ".txt"}


Read = Callable[[str], "pa.Table"]


def sharded(
    root: Path, name: str, tables: Sequence[str], read_one: Read | None = None
) -> tuple[Manifest, set[str]] | None:
    """The rows of tables that are pieces of one, and the files used; None where CSV files are series. `read_one` reads
    those that are not below `root`, but elsewhere.

    A file is of the split that its folder or its own name begins or ends with; where some are, others are not used.
    Raises `BadInput` for tables that do not belong together.
    """
    rich = [file for file in tables if table_suffix(file) not in (*TEXT, ".json")]
    read_one = read_one or (lambda file: read_file(root / file, called(name, file)))
    if not rich and _are_series(read_one, tables):
        return None
    pool = (
        rich
        if rich and not any(split_of_table(f) for f in tables if table_suffix(f) in {".csv", ".tsv"})
        else [file for file in tables if file in rich or table_suffix(file) in {".csv", ".tsv"}] or list(tables)
    )
    splits = {file: split for file in pool if (split := split_of_table(file)) is not None}
    chosen = [file for file in pool if file in splits] if "train" in splits.values() else pool
    _refuse_mixed(chosen, splits, name)
    with as_one(path for file in chosen if (path := root / file).exists()):
        read = [below(read_one(file), os.path.dirname(file)) for file in chosen]
    split_from = None
    if chosen != pool or len(splits) == len(pool):
        for file, table in zip(chosen, read, strict=True):
            same = next(k for k, other in enumerate(chosen) if splits[other] == splits[file])
            _refuse_other_columns(table, read[same], file, chosen[same], name)
        if not any("split" in table.column_names for table in read):
            read = [with_split(table, splits[f]) for f, table in zip(chosen, read, strict=True)]
            split_from = "names of files and folders"
    else:
        for file, table in zip(chosen, read, strict=True):
            _refuse_other_columns(table, read[0], file, chosen[0], name)
    table, notes = together(chosen, read, name)
    parts = [(file, len(one)) for file, one in zip(chosen, read, strict=True)]
    return manifest_of(root, name, table, parts, notes, split_from), set(chosen)


def split_of_table(file: str) -> str | None:
    """The split that a folder of a table, or its own name, stands for."""
    *folders, base = file.split(os.sep)
    return next((s for f in folders if (s := split_of(f)) is not None), None) or split_of_file(base.partition(".")[0])


def _are_series(read: Read, tables: Sequence[str]) -> bool:
    """Whether CSV files are a recording each, not pieces of a table: in class folders, or all numbers and no splits."""
    if any(split_of_file(os.path.basename(file).partition(".")[0]) for file in tables):
        return False
    folders = {os.path.dirname(file) for file in tables}
    if len(folders) > 1 and not all(split_of(os.path.basename(folder)) for folder in folders):
        return True
    if len(tables) == 1:
        return False
    try:
        table = read(tables[0])
    except BadInput:
        return True  # no header: numbers alone
    return all(_numeric(table.column(column).slice(0, 20).to_pylist()) for column in table.column_names)


def _numeric(cells: Sequence[object]) -> bool:
    try:
        return all(float(str(cell)) is not None for cell in cells if cell not in (None, ""))
    except ValueError:
        return False


def _refuse_mixed(chosen: Sequence[str], splits: dict[str, str], name: str) -> None:
    """Raise `BadInput` for a split that is there in two formats, and for tables in folders of several names."""
    folders = sorted({os.path.dirname(file) for file in chosen if file not in splits})
    if len(folders) > 1:
        raise BadInput(f"{name}: tables in {', '.join(folders[:4])}: name the folder that is meant")
    for split in dict.fromkeys(splits.get(file) for file in chosen):
        of_split = [file for file in chosen if splits.get(file) == split]
        other = next((f for f in of_split if table_suffix(f) != table_suffix(of_split[0])), None)
        if other is not None:
            raise BadInput(f"{name}: {of_split[0]} and {other} may be the same rows twice: name the one that is meant")
        several = {os.path.dirname(file) for file in of_split}
        if split is not None and len(several) > 1:
            raise BadInput(
                f"{name}: {split} is in the folders {', '.join(sorted(several)[:4])}: name the one that is meant"
            )


def _refuse_other_columns(table: "pa.Table", first: "pa.Table", file: str, other: str, name: str) -> None:
    lacking = sorted(set(first.column_names) ^ set(table.column_names))
    if lacking:
        raise BadInput(
            f"{name}: {other} and {file} are no pieces of one table ({lacking[0]!r} is a column of one of them): name "
            "the one that is meant"
        )
