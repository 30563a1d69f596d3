"""The section `data` of a config: where rows come from and what their columns mean."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from clx.modalities.numbers import class_name
from clx.pipelines.config.replay_schema import Replay
from clx.pipelines.config.section import Section
from clx.pipelines.config.series_schema import Long, Windows
from clx.pipelines.system.remote import shown


class Fraction(Section):
    """A share of the training rows, drawn with `train.seed` and kept out of training."""

    fraction: Annotated[float, Field(gt=0, lt=1)]
    by: Annotated[str | list[str] | None, Field(min_length=1)] = None
    """Column, or several, whose equal cells keep rows in one split; `row` for none. Not given: rows that share an
    image, a recording or a text of the inputs stay together."""
    stratify: bool = True
    """Draw from every class, or every tenth of the first target, alike."""


class Last(Section):
    """The last share of the steps of every series, kept out of training: what comes later is never learned from."""

    last: Annotated[float, Field(gt=0, lt=1)]


def _held_out(value: Any) -> str:
    """Which of the ways to name held-out rows a value means, so that an error is about that one."""
    if isinstance(value, str):
        return "<source>"
    return "<last>" if isinstance(value, Last) or (isinstance(value, Mapping) and "last" in value) else "<fraction>"


HeldOut = Annotated[
    Annotated[str, Tag("<source>")] | Annotated[Fraction, Tag("<fraction>")] | Annotated[Last, Tag("<last>")],
    Discriminator(_held_out),
]


class Part(Section):
    """One of several sources to train on."""

    source: str
    share: Annotated[float, Field(gt=0)] | None = None
    """Of the rows of each step, by the sum of all shares; all sources have one, or none. Without, a source's rows come
    as often as all others."""


def _part(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


def _alike(parts: list[Part]) -> list[Part]:
    names, lacking = [part.source for part in parts], [part.source for part in parts if part.share is None]
    if twice := [name for k, name in enumerate(names) if name in names[:k]]:
        raise ValueError(f"{twice[0]} is named twice: a larger share makes its rows come more often")
    if 0 < len(lacking) < len(parts):
        raise ValueError(f"{lacking[0]} has no share: give each source one, or none")
    return parts


Label = Annotated[
    Annotated[str, Tag("<column>")] | Annotated[list[str], Field(min_length=1), Tag("<columns>")],
    Discriminator(lambda value: "<columns>" if isinstance(value, list) else "<column>"),
]
LABELS, ABSENT_LABELS = "labels", "absent_labels"
"""Columns that are made of those with a label each: the labels that apply to a row, and those known not to."""
Reading = Literal["present", "absent", "unknown"]


def cell_name(cell: Any) -> str:
    """What a cell of a label's own column is called in `data.label_cells`, empty for a missing one."""
    return (class_name(cell) or "").lower()


Several = Annotated[list[Annotated[Part, BeforeValidator(_part)]], Field(min_length=1), AfterValidator(_alike)]
Sources = Annotated[
    Annotated[str, Tag("<source>")] | Annotated[Several, Tag("<sources>")],
    Discriminator(lambda value: "<sources>" if isinstance(value, list) else "<source>"),
]


class Balance(Section):
    """More weight for training rows whose target (the first one), or else whose class, is rare."""

    rule: Literal["inverse", "sqrt-inverse"] = "sqrt-inverse"
    """Weights of 1 / density, or 1 / sqrt(density); their mean is 1."""
    by: Literal["weights", "sampling"] = "weights"
    """Multiply each row's term of the losses, or draw rows more often, which suits every loss."""
    kernel: Literal["gaussian", "triangular", "laplace", "none"] = "gaussian"
    """Label-distribution smoothing of a target's density over its bins (LDS, Yang et al. 2021)."""
    size: Annotated[int, Field(ge=1)] = 5
    """Bins under the kernel, an odd number."""
    sigma: Annotated[float, Field(gt=0)] = 2.0
    """Width of the gaussian or laplace kernel, in bins."""

    @model_validator(mode="after")
    def _symmetric(self) -> "Balance":
        if self.size % 2 == 0:
            raise ValueError(f"size = {self.size}: a kernel about a bin has an odd number of bins")
        return self


class Near(Section):
    """Positives from the data: all views of a row but the first are made of other rows of its group."""

    group: str
    """Column with the recording or subject that a row is of."""
    time: str | None = None
    """Column with the time of a row, a number or a date."""
    within: Annotated[float, Field(gt=0)] | None = None
    """Largest difference in `time`; in seconds for dates."""
    day_first: bool | None = None
    """Whether `01/02/2024` in `time` is 1 February; the column tells, by a `13/02/2024` say, when not given."""

    @model_validator(mode="after")
    def _both(self) -> "Near":
        if (self.time is None) != (self.within is None):
            raise ValueError("time and within go together")
        return self


def _divider(value: Any) -> Any:
    if value == "":  # what YAML makes of a bare `|`
        raise ValueError('several is empty: quote what divides the labels, several: "|"')
    return value


def _by_name(value: Any) -> Any:
    return {cell_name(key): reading for key, reading in value.items()} if isinstance(value, Mapping) else value


def _cache(value: Any) -> Any:
    if value is True:
        raise ValueError("it is called `memory` now; `disk` keeps samples for later runs, too")
    return None if value is False else value


class Written(Section):
    """How numbers and dates are written where they are text; each column tells by its cells when not given."""

    decimal: Literal[".", ","] | None = None
    thousands: Literal[",", ".", " ", "'"] | None = None
    """Between groups of three digits; with `decimal` alone, any of them but the decimal mark."""
    day_first: bool | None = None
    """Whether `01/02/2024` is 1 February."""

    @model_validator(mode="after")
    def _two(self) -> "Written":
        if self.decimal is not None and self.decimal == self.thousands:
            raise ValueError(f"decimal and thousands are both {self.decimal!r}")
        return self


class Data(Section):
    """Where rows come from and what their columns mean."""

    train: Sources
    """A manifest, a folder or the name of built-in data. Its `split` column, if any, is obeyed. Several sources are a
    list, of names or of `{source, share}`; what columns one of them lacks is missing there."""
    val: HeldOut | None = None
    """A source, a random share of the training rows, or the last share of every series, before that of `test`."""
    test: HeldOut | None = None
    """The same, drawn before the val rows; both are shares of all training rows."""
    split: str = "split"
    """Name of the column that says train, val or test."""
    label: Label | None = None
    """Column with the class of a row; its values are the class names of zero-shot evaluation. One of `target` here
    makes its bins the classes. A list names columns, or patterns such as `obs_*`, that are a label each, and a row has
    the set of those whose cell is 1, true or yes; 0, false or no says that one does not apply, an empty cell that it
    is not known."""
    label_cells: Annotated[dict[str, Reading], BeforeValidator(_by_name)] = {}
    """What other cells of such columns say, or these say otherwise: `{-1: unknown}`, `{-1: absent}`, `{"": absent}`."""
    several: Annotated[str | Literal[False] | None, BeforeValidator(_divider)] = None
    """What divides the labels of a set in one cell, such as `|`; false where each cell is the name of one class,
    whatever it holds. Lists are sets without it."""
    levels: Annotated[str, Field(min_length=1)] | None = None
    """What divides the levels of each label, such as `/` in animal/dog/poodle: labels are then more or less alike, for
    `relation` with `kernel: tree` or `paths`."""
    target: Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)] = []
    """Numeric columns to predict."""
    numbers: Written | None = None
    """How numbers and dates are written in text, for targets, tables and channels alike."""
    weight: str | None = None
    """Column with a number of at least 0, by which each training row counts in every term: the score of a pair, say.
    They are divided by their mean."""
    group: str | None = None
    """Column that says which group a row is of, a language or a site say, for `moco` with `by: group`."""
    bin_width: Annotated[float, Field(gt=0)] | None = None
    """Width of a target's bins, in its units, for `balance`, for binned labels and for how many training rows are
    like a row; a fiftieth of the training range when not given."""
    balance: Balance | None = None
    """Weigh training rows against imbalance; not at all when not given."""
    long: Long | None = None
    """For a table with a row per time step: which columns make the series."""
    windows: Windows | None = None
    """Cuts long series into windows, after they were split into train, val and test."""
    neighbours: Near | None = None
    """Which rows are positives of each other besides a row's own views."""
    replay: Replay | None = None
    """Rows of earlier data that come again; none when not given."""
    missing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of training cells to leave out at random, to see how a model bears missing inputs."""
    on_bad_row: Literal["fail", "skip"] = "fail"
    bad_row_budget: Annotated[float, Field(ge=0, le=1)] = 0.01
    """With `skip`, the share of training rows that may be bad before the run stops; one always may."""
    root: str | None = None
    """Folder that paths in the cells of a table are relative to; its own when not given."""
    allow_outside: bool = False
    """Accept paths that lead out of the manifest's folder."""
    cache: Annotated[Literal["memory", "disk"] | None, BeforeValidator(_cache)] = None
    """Keep decoded and resized samples after their first use: in `memory`, with what frozen encoders make of unvaried
    ones; or on `disk`, in the folder of caches, for later runs too. Files that change are read anew."""

    @model_validator(mode="after")
    def _cut_by(self) -> "Data":
        shares = [part.last for part in (self.val, self.test) if isinstance(part, Last)]
        if shares and self.windows is None:
            raise ValueError("val or test by {last: ...} needs windows, which say what series are cut and how")
        if sum(shares) >= 1:
            raise ValueError(f"val and test take {sum(shares):g} of every series and leave none to train on")
        drawn = [part.fraction for part in (self.val, self.test) if isinstance(part, Fraction)]
        if sum(drawn) >= 1:
            raise ValueError(f"val and test take {sum(drawn):g} of the training rows and leave none to train on")
        return self

    @model_validator(mode="after")
    def _each_once(self) -> "Data":
        if self.replay is not None and self.shares:
            raise ValueError("replay is for sources without shares: name the old rows as a source with its share")
        return self

    @property
    def sources(self) -> list[str]:
        """The sources of the training rows."""
        return [self.train] if isinstance(self.train, str) else [part.source for part in self.train]

    @property
    def named(self) -> str:
        """The same in words, without what gives access in a URL."""
        return " + ".join(map(shown, self.sources))

    @property
    def shares(self) -> list[float]:
        """Of each source, where they have one."""
        parts = [] if isinstance(self.train, str) else self.train
        return [part.share for part in parts if part.share is not None]

    @model_validator(mode="after")
    def _one_table(self) -> "Data":
        if isinstance(self.train, str):
            return self
        if self.shares and self.balance is not None:
            raise ValueError(
                "balance counts rows as they stand, and shares change how often they come: set one of them"
            )
        if self.long is not None or self.windows is not None:
            raise ValueError("long and windows are for the series of one source: put them into one file or folder")
        return self

    @property
    def label_column(self) -> str | None:
        """The column with the label of a row, or the set of them, which may be made of several columns."""
        return LABELS if isinstance(self.label, list) else self.label

    @property
    def label_named(self) -> str | None:
        """The column or columns of the labels as they were named, in words."""
        return ", ".join(self.label) if isinstance(self.label, list) else self.label

    @model_validator(mode="after")
    def _by_columns(self) -> "Data":
        if isinstance(self.label, list) and self.several is not None:
            raise ValueError("several divides the labels of one cell: label lists columns, of which each is a label")
        if self.label_cells and not isinstance(self.label, list):
            raise ValueError("label_cells is for columns of which each is a label: label names them in a list")
        return self

    @model_validator(mode="after")
    def _divided(self) -> "Data":
        if self.levels is not None and (self.label is None or self.label_column in self.target):
            raise ValueError("levels needs label, the column whose cells it divides, which is no target")
        if self.levels is not None and self.levels == self.several:
            raise ValueError(f"several and levels are both {self.levels!r}")
        return self

    @model_validator(mode="after")
    def _balanced_by(self) -> "Data":
        if self.balance is not None and not self.target and self.label is None:
            raise ValueError("balance needs target or label, the column whose rare values should count more")
        return self
