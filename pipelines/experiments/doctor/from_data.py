"""What a run's data say: leaks, answers among the inputs, equal negatives, few positives, inputs without content."""

from collections.abc import Iterator

import numpy as np

from clx.losses.base import Loss
from clx.modalities.base import Modality
from clx.pipelines.batches.cells import cell_at, content_of
from clx.pipelines.batches.columns import column_of, spread
from clx.pipelines.batches.telling_columns import TELLS, telling_columns
from clx.pipelines.data.builtin import is_builtin
from clx.pipelines.data.leaks import groups_of, leaks
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.shared_content import inputs_of
from clx.pipelines.experiments.doctor.chance import class_counts
from clx.pipelines.experiments.doctor.opened import Opened
from clx.pipelines.system.doctor import Row, row
from clx.pipelines.system.errors import BadInput

LOOKED_AT = 1000
"""Rows, evenly spread, whose cells are looked at."""
EMPTY = 0.9
EQUAL, MANY_EQUAL = 0.02, 0.2
"""Share of a row's negatives that are equal to its partner, from which on it is told, and is a problem."""
ALONE = 0.5
"""Share of the rows that have no other of their class in a batch."""


def data_rows(opened: Opened) -> Iterator[Row]:
    """Findings from the data."""
    yield from leaked(opened)
    yield from told(opened)
    cells = contents_of(opened)
    yield from empty(opened, cells)
    yield from equal_negatives(opened, cells)
    yield from positives(opened)


def leaked(opened: Opened) -> Iterator[Row]:
    """Rows of other splits that share content with training rows."""
    config = opened.config
    if any(map(is_builtin, config.data.sources)):
        return
    windowed = None if config.data.windows is None else config.data.windows.column
    inputs = {column: files for column, files in inputs_of(config).items() if column != windowed}
    found = list(leaks(opened.splits, inputs, groups_of(config)))
    for line in found:
        advice = "-s data.val.by=COLUMN holds rows together that share it; figures of these rows say little"
        yield row("leaks", line, "problem", advice)
    if not found:
        yield row("leaks", "no row of another split shares an input with a training row")


def told(opened: Opened) -> Iterator[Row]:
    """Columns from which the answer follows."""
    try:
        found = telling_columns(opened.config, opened.run.modalities, opened.train)
    except BadInput as error:
        yield row("answers", str(error), "problem", "leave the column out of the inputs")
        return
    for column, answer in found:
        said = f"column {column!r} is among the inputs: {TELLS.format(answer=answer)}"
        yield row("answers", said, "problem", f"leave {column!r} out of the modality's columns")


def looked_at(manifest: Manifest, most: int = LOOKED_AT) -> list[int]:
    """Rows evenly spread."""
    return list(range(0, len(manifest), -(-len(manifest) // most)))


def contents_of(opened: Opened) -> dict[str, list[int | None]]:
    """By input, a number for each cell looked at, equal where the content is; None for a missing or bad one."""
    found: dict[str, list[int | None]] = {}
    for name, modality in spread(opened.run.modalities).items():
        found[name] = [content_at(opened.train, i, name, modality) for i in looked_at(opened.train)]
    return found


def content_at(manifest: Manifest, i: int, name: str, modality: Modality) -> int | None:
    """Of one cell."""
    try:
        cell = cell_at(manifest, i, name, modality)
    except (ValueError, OSError):
        return None
    return None if cell is None else content_of(cell)


def empty(opened: Opened, cells: dict[str, list[int | None]]) -> Iterator[Row]:
    """Inputs that are the same in every row, or missing in most."""
    inputs = spread(opened.run.modalities)
    for name, each in cells.items():
        known = [one for one in each if one is not None]
        column = column_of(name, inputs[name])
        of = f"modalities.{name} ({column if isinstance(column, str) else ', '.join(column[:5])})"
        if len(known) < (1 - EMPTY) * len(each):
            said = f"{of}: {len(each) - len(known)} of {len(each)} rows have none, so it is hardly ever trained"
            yield row("inputs", said, "problem", f"leave modalities.{name} out, or name the column it is in")
        elif len(set(known)) == 1 and len(known) > 1:
            said = f"{of}: the same in all {len(known)} rows looked at"
            yield row("inputs", said, "problem", f"leave modalities.{name} out, or name the column it is in")
        elif opened.config.data.missing > EMPTY / 2:
            said = f"data.missing leaves {opened.config.data.missing:.0%} of all cells out"
            yield row("inputs", said, "problem", "-s data.missing=0.2")
            return
        else:
            yield row("inputs", f"{of}: {len(set(known))} different in {len(each)} rows")


def equal_negatives(opened: Opened, cells: dict[str, list[int | None]]) -> Iterator[Row]:
    """The share of a row's negatives that are equal to its partner, where a loss takes them for wrong answers."""
    contrastive = []
    for k, (term, loss) in enumerate(zip(opened.config.objective, opened.run.objective.losses, strict=True)):
        assert isinstance(loss, Loss)
        excluded = getattr(loss, "exclude", "none")
        if "pairs" in loss.fits and len(opened.config.inputs_of(term)) > 1 and not isinstance(excluded, dict):
            key = "objective" if len(opened.config.objective) == 1 else f"objective.{k}"
            contrastive.append((term, f"-s {key}.exclude=labels" if hasattr(loss, "exclude") else None, excluded))
    for term, by_label, excluded in contrastive:
        if excluded == "labels" or opened.config.train.batches is not None:
            continue
        for name in opened.config.inputs_of(term):
            share = equal_share([one for one in cells[name] if one is not None])
            if share < EQUAL or share == 1:
                continue
            of = f"{share:.1%} of the negatives of {term.name} are equal to the partner in {name}"
            column = column_of(name, opened.run.modalities[name])
            distinct = f"-s 'train.batches={{distinct: {column}}}'"
            fix = by_label if opened.config.data.label_column and by_label else distinct
            if excluded == "repeats" and opened.trainer.rows.repeats is not None:
                continue
            level = "problem" if share >= MANY_EQUAL else "note"
            yield row("equal negatives", of, level, f"{fix} leaves them out")  # type: ignore[arg-type]


def equal_share(keys: list[int]) -> float:
    """The chance that two different rows are equal."""
    counts = np.unique(np.array(keys, dtype=np.int64), return_counts=True)[1].astype(float)
    pairs = len(keys) * (len(keys) - 1)
    return float((counts * (counts - 1)).sum() / pairs) if pairs else 0.0


def positives(opened: Opened) -> Iterator[Row]:
    """The share of rows that meet no other of their class, where a loss compares rows of one class."""
    config = opened.config
    compared = []
    for term, loss in zip(config.objective, opened.run.objective.losses, strict=True):
        assert isinstance(loss, Loss)
        views = sum(opened.run.modalities[name].views for name in config.inputs_of(term))
        if "labels" in loss.requires() and loss.family != "supervised heads" and views == 1:
            compared.append(term.name)
    if not compared or config.data.label_column is None or config.train.batches is not None:
        return
    counts = class_counts(opened)
    shares = counts / counts.sum()
    alone = float((shares * (1 - shares) ** (config.train.batch_size - 1)).sum())
    said = (
        f"{len(counts)} classes and {config.train.batch_size} rows a batch: {alone:.0%} of the rows meet no other of "
        f"their class, and {', '.join(compared)} learns nothing from these"
    )
    if alone > ALONE:
        rows = max(2, config.train.batch_size // 4)
        fix = f"-s 'train.batches={{classes: {rows}, rows: 4}}' or a larger train.batch_size"
        yield row("positives", said, "problem", fix)
    else:
        yield row("positives", said)
