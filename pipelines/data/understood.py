"""What was understood of data, for people to see before time is spent: files, splits and the use of each column."""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from clx.pipelines.config.data_schema import ABSENT_LABELS, LABELS, Data, Fraction, Last
from clx.pipelines.config.schema import Config
from clx.pipelines.data.classes import alike_but_for_case
from clx.pipelines.data.column_kinds import kinds_of
from clx.pipelines.data.distinct import distinct
from clx.pipelines.data.draw import held_together
from clx.pipelines.data.label_columns import answer_columns, label_columns
from clx.pipelines.data.label_sets import labels_in
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.missing_cells import missing_in, numbers_for_missing, words_for_missing
from clx.pipelines.data.other_meanings import other_meanings
from clx.pipelines.system.remote import shown

SHOWN = 40  # characters of an example
NAMED = 12  # columns in a line
CLASSES = 8  # names of classes in a line
LEFT_OUT = 3  # sorts of what was left out in a line
NOT_NAMED = "the config does not name it"
MADE = ("recording", "start", "future", "times")
"""Columns that windows and long tables make."""


def understood(
    config: Config, splits: Mapping[str, Manifest], unused: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Files found and left out, splits, and columns.

    Args:
        splits: by name, as `load_splits` gives them.
        unused: why columns are not used, where that is known.

    Returns:
        `classes` of the label, their number and the first names, where there is one; `columns`, each with `column`,
        `kind`, `use`, `missing` (cells, of the splits that have it) and an `example`; `left_out`, each with `reason`,
        `count` and an `example`; `notes`, what one might not expect, in words; `splits` by name with their `rows` and
        what they are `from`.
    """
    train = splits["train"]
    kinds, uses, own = kinds_of(train), uses_of(config, train), label_columns(config.data, train.columns)
    columns, notes = [], [note for manifest in splits.values() for note in manifest.notes]
    for column, found in kinds.items():
        if column in MADE and (config.data.windows or config.data.long) and column not in uses:
            continue
        if column in (LABELS, ABSENT_LABELS) and isinstance(config.data.label, list):
            continue  # notes tell what they were made of
        use = uses.get(column) or f"not used: {(unused or {}).get(column, NOT_NAMED)}"
        having = [manifest for manifest in splits.values() if column in manifest.columns]
        missing = sum(int(missing_in(manifest, column, found.kind).sum()) for manifest in having)
        example = _example(train, column)
        is_label, taken = column == config.data.label, column in uses and column not in own
        if taken and (is_label or found.kind == "category"):
            notes += words_for_missing(column, having, "class" if is_label else "category")
        if taken and found.kind == "number" and not is_label:
            notes += numbers_for_missing(column, train)
        if is_label:
            notes += alike_but_for_case(column, having)
        kind = "split" if column == config.data.split else found.kind  # of which the train rows have one value
        columns.append({"column": column, "kind": kind, "use": use, "missing": missing, "example": example})
    notes += other_meanings(train, kinds, uses)
    parts = {
        name: {"rows": len(manifest), "from": split_from(name, manifest, config.data)}
        for name, manifest in splits.items()
    }
    for split, part in (("val", config.data.val), ("test", config.data.test)):
        if isinstance(part, Fraction) and split not in splits:
            by = part.by
            whole = f", by {by if isinstance(by, str) else ' and '.join(by)}" if by and by != "row" else ""
            share = f"{100 * part.fraction:g} % drawn of the train rows{whole}"
            parts[split] = {"rows": None, "from": share}
    return {
        "classes": classes_in(config.data, train),
        "columns": columns + list(_steps(config.data)),
        "left_out": [
            {"reason": left.reason, "count": left.count, "example": left.example}
            for left in dict.fromkeys(left for manifest in splits.values() for left in manifest.left_out)
        ],
        "notes": list(dict.fromkeys(notes)),
        "splits": parts,
    }


def classes_in(data: Data, train: Manifest) -> dict[str, Any] | None:
    """How many classes the training rows have, and the first of their names, of a label in one column."""
    label = data.label
    if not isinstance(label, str) or label in data.target or label not in train.columns:
        return None
    values, _ = distinct(train, label)
    names = sorted({name for value in values for name in labels_in(value, data.several) or []})
    return {"label": label, "count": len(names), "names": names[:CLASSES]}


def classes_line(found: Mapping[str, Any]) -> list[str]:
    """What `classes_in` found, in a line; none where there is no label."""
    if (at := found.get("classes")) is None:
        return []
    more = f" and {at['count'] - CLASSES} more" if at["count"] > CLASSES else ""
    shorter = [name if len(name) <= SHOWN else name[: SHOWN - 3] + "..." for name in at["names"]]
    return [f"label {at['label']}: {at['count']} classes ({', '.join(shorter)}{more})"]


def uses_of(config: Config, manifest: Manifest) -> dict[str, str]:
    """What each column that the config names is used for."""
    data, uses = config.data, dict[str, list[str]]()

    def add(column: str | None, use: str) -> None:
        if column is not None:
            uses.setdefault(column, []).append(use)

    for name, options in config.modalities.items():
        for column in columns_read(name, options, manifest, data):
            add(column, f"{'negatives' if name in config.only_negatives else 'input'} {name}")
    for column in answer_columns(data, manifest.columns):
        add(column, "label")
    for column in data.target:
        add(column, "target")
    add(data.weight, "weight")
    add(data.group, "group")
    add(data.split if data.split in manifest.columns else None, "split")
    for by in held_together(data):
        add(by if by in manifest.columns else None, "group: its rows stay in one split")
    if data.neighbours is not None:
        add(data.neighbours.group, "group of neighbours")
        add(data.neighbours.time, "time of neighbours")
    batches = config.train.batches
    if batches is not None:
        add(batches.together, "batches: its rows meet")
        add(batches.distinct, "batches: its rows never meet")
        for column in batches.near or []:
            add(column, "batches: rows near each other meet")
    if data.long is not None:
        add(data.long.id, "whose steps: a row per series")
    return {column: ", ".join(dict.fromkeys(said)) for column, said in uses.items()}


def columns_read(name: str, options: Mapping[str, Any], manifest: Manifest, data: Data) -> list[str]:
    """The columns that feed a modality, by its options; patterns are what they match."""
    if options.get("kind", name) == "table":
        wanted = options.get("columns") or ([options["column"]] if options.get("column") else ["*"])
    else:
        column = options.get("column") or name
        wanted = column if isinstance(column, list) else [column]
        wanted = [*wanted, *([options["pair"]] if options.get("pair") else [])]
    answers = {*answer_columns(data, manifest.columns), data.split, *data.target}
    return [
        column
        for column in manifest.columns
        if column in wanted or (column not in answers and any(fnmatch.fnmatchcase(column, w) for w in wanted))
    ]


def split_from(split: str, manifest: Manifest, data: Data) -> str:
    """What decided that rows are of this split."""
    if manifest.split_from:
        return manifest.split_from
    given = {"val": data.val, "test": data.test}.get(split)
    if isinstance(given, Fraction):
        return f"{100 * given.fraction:g} % drawn"
    if isinstance(given, Last):
        return f"the last {100 * given.last:g} % of every series"
    if isinstance(given, str):
        return f"its own source {given}"
    return f"column {data.split!r}" if data.split in manifest.columns else "all rows"


def _steps(data: Data) -> Iterator[dict[str, Any]]:
    """The columns of a table of time steps, of which the rows of a run have only what was made of them."""
    if data.long is None:
        return
    yield {"column": data.long.time, "kind": "time", "use": "time of a step", "missing": 0, "example": ""}
    for column in data.long.channels:
        yield {"column": column, "kind": "number", "use": "channel of series", "missing": None, "example": ""}


def _example(manifest: Manifest, column: str) -> str:
    for i in range(min(len(manifest), 100)):
        cell = manifest.cell(i, column)
        if cell is None:
            continue
        if isinstance(cell, bytes):
            return f"{len(cell)} bytes"
        if isinstance(cell, np.ndarray):
            return f"{' x '.join(map(str, cell.shape))} numbers"
        if isinstance(cell, list):
            first = cell[0] if cell else ""
            said = f"{len(first)} bytes" if isinstance(first, bytes) else shown(str(first))
            cell = f"{len(cell)}: {said}{', ...' * (len(cell) > 1)}"
        text = " ".join(shown(str(cell)).split())
        return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
    return ""


def in_lines(found: Mapping[str, Any]) -> list[str]:
    """Splits and what was left out; what the columns are used for; the classes; which columns are not used: a line
    each, where there is something to say, behind what was noted of how things were read."""
    splits = ", ".join(f"{at['rows']} {name} ({at['from']})" for name, at in found["splits"].items())
    left = "".join(f"; left out: {said}" for said in left_out_lines(found["left_out"], LEFT_OUT))
    used = [at for at in found["columns"] if not at["use"].startswith("not used")]
    used.sort(key=lambda at: not at["use"].startswith(("label", "target")))  # the answer first: many columns are cut
    named = [
        f"{at['column']} ({at['use']}{', ' + str(at['missing']) + ' missing' if at['missing'] else ''})" for at in used
    ]
    rest = [at["column"] for at in found["columns"] if at["use"].startswith("not used")]
    lines = [*found["notes"], f"rows: {splits}{left}", f"columns: {_listed(named)}"]
    lines += classes_line(found)
    return [*lines, f"not used: {_listed(rest)}"] if rest else lines


def left_out_lines(left_out: Sequence[Mapping[str, Any]], most: int) -> list[str]:
    """What was left out in words, at most so many sorts by how many there are, and the sum of the rest."""
    ordered = sorted(left_out, key=lambda at: -at["count"])
    said = [f"{at['count']} {at['reason']} ({at['example']})" for at in ordered[:most]]
    rest = sum(at["count"] for at in ordered[most:])
    return [*said, f"{rest} of {len(ordered) - most} more sorts"] if rest else said


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
