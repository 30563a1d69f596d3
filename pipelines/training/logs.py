"""The logs of a run in progress: what its steps measured, and the rows that could not be used."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from warnings import warn

from clx.pipelines.batches.batch import BadRow
from clx.pipelines.runs.folder import METRICS
from clx.pipelines.system.durable_files import append, read_log
from clx.pipelines.system.errors import BadInput, ClxWarning
from clx.pipelines.system.text import finite
from clx.pipelines.training.trackers import Trackers

FEW = 5
"""Bad rows up to which a budget is one of few."""


class Metrics:
    """`metrics.jsonl`, which has no clock in it: a resumed run writes the same lines; and the trackers asked for.

    Of several processes that train together one `writes` them."""

    def __init__(self, out: Path, trackers: Trackers | None = None, writes: bool = True) -> None:
        self.out, self.writes, self.trackers = out, writes, trackers

    def recall(self, step: int, validated: int) -> None:
        """Drop the lines after a step, and validations after another: a run that is resumed there writes them anew."""
        if not self.writes:
            return
        read_log(
            self.out / METRICS,
            lambda line: line["step"] <= (validated if "val_loss" in line else step),
        )

    def add(self, line: dict[str, Any]) -> None:
        """Append a line, which has its `step`."""
        if not self.writes:
            return
        append(self.out / METRICS, finite(line))
        if self.trackers is not None:
            self.trackers.add(line, lambda text: warn(text, ClxWarning, stacklevel=2))

    def close(self) -> None:
        """Let go of files and connections."""
        if self.trackers is not None:
            self.trackers.close()


@dataclass
class BadRows:
    """`bad_rows.jsonl`: each is written down once; those of the training split count against a budget."""

    path: Path
    rows: int
    """Rows of the training split."""
    budget: float
    writes: bool = True
    """Whether this process is the one that writes them down; all count them."""
    seen: set[str] = field(default_factory=set)
    in_training: int = 0

    def recall(self) -> None:
        """Take up what an earlier part of this run wrote."""
        for one in read_log(self.path, lambda one: isinstance(one["row"], str) and bool(one["split"])):
            self.seen.add(one["row"])
            self.in_training += one["split"] == "train"

    def report(self, bad: list[BadRow], split: str = "train") -> None:
        """Write new ones down. Raises `BadInput` when the budget is used up."""
        for one in bad:
            if one.where not in self.seen:
                self.seen.add(one.where)
                self.in_training += split == "train"
                line = {"row": one.where, "split": split, "column": one.column, "reason": one.reason}
                if self.writes:
                    append(self.path, line)
        if self.in_training > max(1, self.budget * self.rows):
            wider = more_budget(self.rows)
            more = f"-s data.bad_row_budget={wider} allows {int(wider * self.rows)}; " if self.budget < wider else ""
            raise BadInput(
                f"{self.in_training} of {self.rows} training rows are bad, more than data.bad_row_budget = "
                f"{self.budget}: {more}see {self.path}"
            )

    def left_out(self) -> str:
        """How many training rows were; nothing where none were."""
        count = self.in_training
        return (
            f"{count} of {self.rows} training rows {'is' if count == 1 else 'are'} left out: {self.path}"
            if count
            else ""
        )


def more_budget(rows: int) -> float:
    """A share of the training rows that are a few, to be advised as `data.bad_row_budget`."""
    return 0.1 if rows >= 10 * FEW else 0.5


def advised(rows: int, budget: float) -> str:
    """How to train without bad rows, where the first ends the run; both keys where the budget alone allows but a few.

    >>> advised(90, 0.01)
    '-s data.on_bad_row=skip trains without such rows, up to 1 of 90; with -s data.bad_row_budget=0.1, up to 9'
    """
    allowed, wider = max(1, int(budget * rows)), more_budget(rows)
    more = f"; with -s data.bad_row_budget={wider}, up to {int(wider * rows)}" if allowed < FEW else ""
    return f"-s data.on_bad_row=skip trains without such rows, up to {allowed} of {rows}{more}"
