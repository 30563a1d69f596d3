"""The log `bad_rows.jsonl` of a run, and how many bad rows it may meet."""

from dataclasses import dataclass, field
from pathlib import Path

from clx.pipelines.batch import BadRow
from clx.pipelines.disk import append, read_log
from clx.pipelines.errors import BadInput


@dataclass
class BadRows:
    """Bad rows met so far: written down once each; those of the training split count against a budget."""

    path: Path
    rows: int
    """Rows of the training split."""
    budget: float
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
                append(self.path, line)
        if self.in_training > max(1, self.budget * self.rows):
            raise BadInput(
                f"{self.in_training} of {self.rows} training rows are bad, more than data.bad_row_budget = "
                f"{self.budget}: see {self.path}"
            )
