"""What the user said that columns are, and what they seem to be."""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from clx.pipelines.config.modality_names import TAKEN
from clx.pipelines.data.answers import Likely
from clx.pipelines.data.column_kinds import MEDIA, Column
from clx.pipelines.data.label_columns import matching
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.system.errors import BadInput

KINDS = (*MEDIA, "text", "table")
"""Of modalities, which are called so where they are the only one of their kind."""
IGNORED = "by --ignore"
NONE = "none"
"""Given as --label: there is no answer to learn."""


@dataclass(frozen=True)
class Asked:
    """What the user said that columns are, by the flags of `clx init` and `clx data check`."""

    label: str | None = None
    """The column with the class; several between commas, or a pattern, are columns that are a label each."""
    target: Sequence[str] = ()
    pair: Sequence[str] = ()
    group: str | None = None
    ignore: Sequence[str] = ()
    labels: Sequence[str] = ()
    """Columns, or patterns, that are a label each."""

    def of(self, columns: Sequence[str]) -> "Asked":
        """The same with `label` as `labels` where it is no column and names several. Raises `BadInput`."""
        if self.label is None or self.label in columns or not set(self.label) & set(",*?["):
            return self
        return replace(self, label=None, labels=[part.strip() for part in self.label.split(",") if part.strip()])

    @property
    def no_answer(self) -> bool:
        return self.label == NONE

    def check(self, manifest: Manifest) -> None:
        """Raise `BadInput` for a column that is not there, or is two things at once."""
        said: dict[str, str] = {}
        without = self.no_answer and NONE not in manifest.columns
        labels = [] if self.label is None or without else [self.label]
        for each in self.labels:
            labels += matching([each], manifest.columns) or [each]
        flags = {
            "--label": labels,
            "--target": self.target,
            "--pair": self.pair,
            "--ignore": self.ignore,
        }
        for flag, columns in [*flags.items(), ("--group", [self.group] if self.group else [])]:
            for column in columns:
                try:
                    manifest.require(column)
                except BadInput as error:
                    raise BadInput(f"{flag} {column}: {error}") from None
                if column in said and (flag != "--group" or said[column] == "--ignore"):
                    raise BadInput(f"{flag} {column}: {said[column]} names it too; a column is one of them")
                said[column] = flag
        if self.pair and len(self.pair) != 2:
            raise BadInput(f"--pair {','.join(self.pair)}: name two columns, as --pair first,second")
        if self.target and without:
            raise BadInput(f"--label {NONE} and --target: one learns without an answer, the other names it; give one")
        if (self.label or self.labels) and self.target:
            raise BadInput("--label and --target: one of them is the answer (the other column can be left to --ignore)")


UNASKED = Asked()


@dataclass
class Inferred:
    """What the columns of a manifest seem to be."""

    modalities: dict[str, dict[str, Any]] = field(default_factory=dict)
    """As in a config: options by name."""
    label: str | None = None
    labels: list[str] = field(default_factory=list)
    """Columns that are a label each."""
    target: list[str] = field(default_factory=list)
    split: str | None = None
    group: str | None = None
    unused: dict[str, str] = field(default_factory=dict)
    """Columns left out, with the reason."""
    columns: dict[str, Column] = field(default_factory=dict)
    likely: list[Likely] = field(default_factory=list)
    """Columns that are probably the answer, which nobody has said."""
    doubt: tuple[str, str, str] | None = None
    """Two texts and the number beside them, which may be a score of the pair or what both tell."""
    shape: str = ""
    """`negatives`, `scored pair`, `pair`, `classified pair`; nothing for inputs of no such relation."""
    long: dict[str, Any] | None = None
    """`data.long`, for a table with a row per time step."""
    several: str | None = None
    """What separates the labels of a set in one text."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why the label, the target and the shape are what they are."""

    @property
    def answers(self) -> list[str]:
        return [*self.target, *([self.label] if self.label else []), *self.labels]

    @property
    def learns_from_all(self) -> bool:
        """Whether no column is the answer, though there is one of numbers or classes that could be."""
        could = [name for name, c in self.columns.items() if c.kind in ("number", "category")]
        return not self.answers and any(self.unused.get(name) != IGNORED for name in could)


def identifier(column: str, taken: Collection[str], kind: str) -> str:
    """A name for the modality of a column, which no other has; that of another kind would be read as this kind."""
    name = "".join(c if f"_{c}".isidentifier() else "_" for c in column)
    name = name if name.isidentifier() and name not in TAKEN else f"input_{name}"
    taken = {*taken, *KINDS} - ({kind} - {*taken})
    names = itertools.chain([name], (f"{name}_{k}" for k in itertools.count(2)))
    return next(each for each in names if each not in taken)
