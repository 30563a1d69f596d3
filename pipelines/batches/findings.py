"""What a look at data finds: the first of each sort, and how many."""

from collections import Counter
from dataclasses import dataclass, field

LISTED = 1000  # findings of one sort that are listed; all are counted


@dataclass
class Findings:
    """What is wrong (`error`) or odd (`warning`): the first of each sort, and how many."""

    listed: list[dict[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, what: str, where: str, column: str, reason: str, *, error: bool) -> None:
        self.counts[what] += 1
        self.errors[what] += error
        if self.counts[what] <= LISTED:
            level = "error" if error else "warning"
            self.listed.append({"level": level, "what": what, "where": where, "column": column, "reason": reason})
