"""What losses remember of the training rows, such as doubted labels and temperatures, as a table in the run folder."""

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

from clx.pipelines.data.manifest import Manifest
from clx.pipelines.model.objective import Objective
from clx.pipelines.system.durable_files import write_text

REMEMBERED = "remembered.csv"


def write_remembered(folder: Path, objective: Objective, rows: Manifest, label: str | None) -> bool:
    """Write `remembered.csv`, if a loss has anything to tell of `rows`, those of training; whether it has.

    A line of each row: `row`, its number in the table from 1; `where` it stands, in words; its cell of the column
    `label`; and `loss.name` of everything that a loss tells, empty of a row that it never saw.
    """
    told = {
        f"{term.name}.{name}": values.tolist()
        for term, loss in zip(objective.terms, objective.losses, strict=True)
        if loss in objective.remembering()
        for name, values in loss.told().items()
    }
    if told:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines(told, rows, label))
        write_text(folder / REMEMBERED, text.getvalue())
    return bool(told)


def lines(told: dict[str, list[float]], rows: Manifest, label: str | None) -> Iterator[list[object]]:
    """The header, and a line of each row."""
    yield ["row", "where", *([label] if label else []), *told]
    labels = rows.column(label) if label else []
    for i, number in enumerate(rows.rows.tolist()):
        values = [all_[number] if number < len(all_) else math.nan for all_ in told.values()]
        own = ["" if math.isnan(value) else f"{value:g}" for value in values]
        yield [number + 1, rows.where(i), *labels[i : i + 1], *own]
