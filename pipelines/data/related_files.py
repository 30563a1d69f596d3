"""Files of a folder that mean something only together, and are not put together here: what to make of them is said."""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from clx.pipelines.data.readers import read_file
from clx.pipelines.data.split_names import split_of, split_of_file
from clx.pipelines.system.errors import BadInput

FEWEST = 3
"""Folders with files of the same names from which on that is no chance."""
MOST = 8
"""Tables at the top of a folder that are looked at for columns in common."""


def refuse_parts(tables: Sequence[str], name: str) -> None:
    """Raise `BadInput` where each folder holds the same few tables, as `subject_01/acc.csv` and `subject_01/label.csv`.

    Such a folder is one recording, or one person, not a class of examples. Names with digits number examples.
    """
    inside: dict[str, list[str]] = defaultdict(list)
    for file in tables:
        folder, base = os.path.split(file)
        if folder:
            inside[folder].append(base)
    first, *others = inside.values() or [[]]
    if len(inside) < FEWEST or len(first) < 2 or any(each != first for each in others):
        return
    if any(c.isdigit() for base in first for c in base) or any(split_of_file(base.partition(".")[0]) for base in first):
        return
    if all(split_of(os.path.basename(folder)) for folder in inside):
        return
    raise BadInput(
        f"{name}: each of {len(inside)} folders, as {next(iter(inside))!r}, holds {' and '.join(first[:3])}: parts "
        "of a recording, which are not put together here; write a file per stretch of one answer and a metadata.csv "
        "that names it, or one table with a row per time step and a column that numbers such stretches (data.long)"
    )


def refuse_keyed(root: Path, tables: Sequence[str], name: str) -> None:
    """Raise `BadInput` where a table pairs the rows of two others by their keys, as qrels with queries and products."""
    top = [file for file in tables if os.sep not in file and split_of_file(file.partition(".")[0]) is None]
    columns: dict[str, set[str]] = {}
    for file in top if FEWEST <= len(top) <= MOST else []:
        try:
            columns[file] = set(read_file(root / file, file).column_names)
        except BadInput:
            continue  # who reads it says so
    for file, here in columns.items():
        others = {other: here & there for other, there in columns.items() if other != file and len(here & there) == 1}
        for one, (key, *_) in others.items():
            for two, (second, *_) in others.items():
                if key != second and not columns[one] & columns[two]:
                    raise BadInput(
                        f"{name}: {file} joins the rows of {one} by {key!r} and of {two} by {second!r}; tables are not "
                        f"joined here: write one, in pandas {Path(file).stem}.merge({Path(one).stem}).merge("
                        f"{Path(two).stem}), or name the one that is meant"
                    )
    pairs = [file for file in tables if "qrels" in re.split(r"[\W_]+", file.lower())]
    rest = [file for file in tables if file not in pairs]
    if pairs and len(rest) == 2:  # whose keys have other names: queries.jsonl, corpus.jsonl, qrels/test.tsv of BEIR
        raise BadInput(
            f"{name}: {pairs[0]} says which rows of {rest[0]} and {rest[1]} belong together; tables are not joined "
            "here: write one with a row per pair, of both texts and their relevance"
        )
