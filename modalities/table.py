"""Tables: the numbers, categories and gaps of one row."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Gt, Interval, MultipleOf
from torch import Tensor

from clx.modalities.base import CellError, Encoder, Input, Modality, register, unknown_encoder
from clx.modalities.draws import Draws
from clx.modalities.numbers import PLAIN, Writing, class_name, is_dash, missing, number
from clx.modalities.table_columns import Dates, Reading, reading_of
from clx.modalities.table_encoders import Cells, FTTransformer, Numeric, TableMLP
from clx.modalities.table_novelty import far, normal_rank, novel, suspects

QUANTILES = 256
CELL_WIDTH = 16  # of the embeddings that `mlp` puts side by side


class Numbers(NamedTuple):
    """Statistics of a numeric column over the training cells, in its own units."""

    mean: float
    deviation: float
    quantiles: list[float]
    """`QUANTILES + 1` of them, from the smallest to the largest."""


@register
@dataclass(kw_only=True)
class Table(Modality):
    """Columns of one row. A sample is `[2 K + C]`: K scaled numbers (0 where missing), K flags (1 where
    missing), C category numbers: 0 missing, 1 not seen in training, then the known ones, most frequent first.

    A column is categorical when it is listed so, or when most of its training cells are neither numbers, in whatever
    writing (see `numbers.py`), nor dates. Dates count as several numbers (see `table_columns.features_of`).
    """

    kind: ClassVar[str] = "table"
    default_encoder: ClassVar[str] = "mlp"
    borrows: ClassVar[int] = 4096

    columns: list[str] = field(default_factory=list)
    """The manifest's columns that belong to it, or patterns of them; when empty, all in the training cells."""
    categorical: list[str] | None = None
    """Which of them hold categories; found from the training cells when not given."""
    scale: Literal["standard", "quantile", "none"] = "standard"
    """Numbers to mean 0 and deviation 1, to a normal distribution by rank, or as they are."""
    max_categories: Annotated[int, Ge(1)] = 1000
    """Categories kept per column; rarer ones count as unknown."""
    numeric: Numeric = "piecewise"
    """How encoders embed a number."""
    bins: Annotated[int, Interval(ge=2, le=QUANTILES)] = 32
    """Pieces of `piecewise`."""
    frequency: Annotated[float, Gt(0)] = 0.1
    """Deviation of the frequencies that `periodic` starts from."""
    width: Annotated[int, Ge(32), MultipleOf(32)] = 128
    """Features of the encoder."""
    layers: Annotated[int, Ge(1)] = 2
    """Layers of the encoder."""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """Dropout of the encoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pair is not None:
            raise ValueError("pair is for modalities of one column; a table reads several as they are")
        self.readings: dict[str, Reading] = {}
        """How columns are to be read, where that is known before `fit`, which finds it for the others."""
        self._numbers: dict[str, Numbers] = {}
        self._written: dict[str, Writing] = {}
        self._dates: dict[str, Dates] = {}
        self._categories: dict[str, dict[str, int]] = {}
        self._lent: Tensor | None = None

    @property
    def numeric_columns(self) -> int:
        """How many columns are numbers, as `fit` found them."""
        return len(self._numbers)

    @property
    def deviations(self) -> Tensor:
        """`[K]`: how far the numbers of samples spread over the training rows."""
        return torch.tensor([known.deviation if self.scale == "none" else 1.0 for known in self._numbers.values()])

    @property
    def category_counts(self) -> list[int]:
        """How many categories each of the other columns has."""
        return [len(names) for names in self._categories.values()]

    def fit(self, cells: Iterable[dict[str, Any]]) -> None:
        """Types, categories and quantiles of the columns."""
        seen: dict[str, list[Any]] = {column: [] for column in self.columns}
        for cell in cells:
            for column in self.columns or cell:
                if not missing(value := cell.get(column)) or is_dash(value):
                    seen.setdefault(column, []).append(value)
        if stray := set(self.categorical or []) - set(seen):
            raise ValueError(f"categorical column {min(stray)!r} is not among the columns")
        self._numbers, self._categories, self._written, self._dates = {}, {}, {}, {}
        for column, values in seen.items():
            self._fit_column(column, values)
        for column, dated in self._dates.items():
            for name, found in dated.read_all([value for value in seen[column] if not missing(value)]).items():
                self._numbers[f"{column} ({name})"] = _statistics(found.tolist())

    def _fit_column(self, column: str, values: list[Any]) -> None:
        """One column by its present training cells, `-` too, which is a category where the others are; the numbers that
        dates become follow behind all others."""
        told = self.categorical is not None
        reading = self.readings.get(column)
        if column not in self.readings and column not in (self.categorical or []):
            reading = reading_of([value for value in values if not missing(value)], f"column {column!r}")
        if column in (self.categorical or []) or (reading is None and values and not told):
            common = Counter(map(_category, values)).most_common(self.max_categories)
            self._categories[column] = {name: code for code, (name, _) in enumerate(common, 2)}
        elif isinstance(reading, Dates):
            self._dates[column] = reading
        else:
            self._written[column] = reading or PLAIN
            numbers = [x for value in values if math.isfinite(x := _number(value, self._written[column]))]
            self._numbers[column] = _statistics(numbers)

    def state(self) -> dict[str, Any]:
        """Mean, deviation and quantiles of each numeric column, and how it is written; the categories of others."""
        return {
            "numbers": {column: list(numbers) for column, numbers in self._numbers.items()},
            "categories": {column: list(names) for column, names in self._categories.items()},
            "written": {column: list(writing) for column, writing in self._written.items() if writing != PLAIN},
            "dates": {column: [dated.day_first, list(dated.features)] for column, dated in self._dates.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` gave."""
        self._numbers = {column: Numbers(*numbers) for column, numbers in state["numbers"].items()}
        self._categories = {
            column: {name: code for code, name in enumerate(names, 2)} for column, names in state["categories"].items()
        }
        self._written = {column: Writing(*writing) for column, writing in state.get("written", {}).items()}
        self._dates = {column: Dates(first, tuple(names)) for column, (first, names) in state.get("dates", {}).items()}

    def read(self, cell: dict[str, Any]) -> Tensor:
        """The row `{column: text, number or None}` as `[2 K + C]`, by what `fit` learned."""
        numbers, flags, codes = [], [], []
        found = self._of_dates(cell)
        for column, known in self._numbers.items():
            try:
                figure = number(found.get(column, cell.get(column)), self._written.get(column, PLAIN))
            except ValueError as error:
                raise CellError(str(error), column) from None
            absent = math.isnan(figure)
            if math.isinf(figure):
                raise CellError(f"{figure} is infinite", column)
            numbers.append(0.0 if absent else self._scaled(known, figure))
            flags.append(float(absent))
        for column, names in self._categories.items():
            codes.append(float(_code(names, cell.get(column))))
        return torch.tensor(numbers + flags + codes)

    def _of_dates(self, cell: dict[str, Any]) -> dict[str, float]:
        """The numbers that the dates of a row become; nothing of those that are missing."""
        found: dict[str, float] = {}
        for column, dated in self._dates.items():
            if missing(value := cell.get(column)):
                continue
            try:
                found |= {f"{column} ({name})": each for name, each in dated.read(value).items()}
            except CellError as error:
                raise CellError(str(error), column) from None
        return found

    def suspects(self, x: Tensor) -> Tensor:
        """`[N]`: samples `[N, 2 K + C]` of which `novel` may say something."""
        ranges = [(known, far(known.quantiles[0], known.quantiles[-1])) for known in self._numbers.values()]
        return suspects(x, [(self._scaled(known, low), self._scaled(known, high)) for known, (low, high) in ranges])

    def novel(self, cell: dict[str, Any]) -> dict[str, str]:
        """What a row that can be read holds and the training rows did not, by column, in words."""
        cells = cell | self._of_dates(cell)
        numbers = {
            column: (
                _number(cells.get(column), self._written.get(column, PLAIN)),
                known.quantiles[0],
                known.quantiles[-1],
            )
            for column, known in self._numbers.items()
        }
        most = self.max_categories
        return novel(numbers, {c: (_code(of, cell.get(c)), len(of) < most) for c, of in self._categories.items()})

    def _scaled(self, known: Numbers, number: float) -> float:
        if self.scale == "standard":
            return (number - known.mean) / known.deviation
        return normal_rank(known.quantiles, number) if self.scale == "quantile" else number

    def lend(self, samples: Sequence[Tensor]) -> None:
        """Training rows of which views take cells."""
        self._lent = torch.stack(list(samples)) if samples else None

    def augment(self, samples: list[Tensor], draws: Draws) -> list[Tensor]:
        """Cells taken from other training rows, each from any (SCARF, Bahri et al. 2022), and noise on the numbers.
        Where none were lent, from these samples.

        Mild: one cell in twenty, noise of 0.05 deviations. Strong: three in ten, noise of 0.1 deviations.
        """
        if self.augmentation == "none":
            return samples
        rate, noise = (0.05, 0.05) if self.augmentation == "mild" else (0.3, 0.1)
        x = torch.stack(samples)
        k = len(self._numbers)
        cells = x.shape[1] - k
        others = x if self._lent is None else self._lent
        taken = draws.rand(cells) < rate
        lender = draws.integers(len(others), cells)
        taken, lender = (torch.cat([each[:, :k], each], 1) for each in (taken, lender))  # a number with its flag
        x = torch.where(taken, others.gather(0, lender), x)
        jitter = draws.randn(k) * noise * self.deviations
        x[:, :k] += jitter * (x[:, k : 2 * k] == 0)
        return list(x)

    def collate(self, samples: Sequence[Tensor]) -> Input:
        """`x` `[N, 2 K + C]`."""
        return {"x": torch.stack(list(samples))}

    def build_encoder(self, load: bool = True) -> Encoder:
        """The encoder by its name, for the columns that were fitted."""
        if self.encoder not in self.encoders():
            raise unknown_encoder(type(self), self.encoder)
        if self.weights and load:
            raise ValueError(f"encoder `{self.encoder}` has no pretrained weights")
        edges = [self._edges(known) for known in self._numbers.values()]
        sizes = [len(names) + 2 for names in self._categories.values()]
        d = CELL_WIDTH if self.encoder == "mlp" else self.width
        cells = Cells(edges, sizes, d, self.numeric, self.frequency)
        if self.encoder == "mlp":
            return TableMLP(cells, d * (len(edges) + len(sizes)), self.width, self.layers, self.dropout)
        return FTTransformer(cells, self.width, self.layers, self.dropout)

    def _edges(self, known: Numbers) -> list[float]:
        """Edges of at least two pieces, scaled, with about equally many training cells in each."""
        chosen = np.linspace(0, QUANTILES, self.bins + 1).round().astype(int)
        scaled = np.array([self._scaled(known, known.quantiles[i]) for i in chosen], dtype=np.float32)
        edges: list[float] = np.unique(scaled).tolist()
        if len(edges) == 1:
            edges = [edges[0] - 1, edges[0] + 1]
        return edges if len(edges) > 2 else [edges[0], (edges[0] + edges[1]) / 2, edges[1]]

    @classmethod
    def encoders(cls) -> dict[str, str]:
        """Names with a description."""
        return {
            "mlp": "perceptron over embedded cells; `numeric`, `bins`, `width`, `layers`, `dropout`",
            "ft-transformer": "attention between cells; `numeric`, `bins`, `width`, `layers`, `dropout`",
        }


def _number(value: Any, writing: Writing) -> float:
    """A cell as a number; NaN if it is none."""
    try:
        return number(value, writing)
    except ValueError:
        return math.nan


def _code(names: dict[str, int], cell: Any) -> int:
    """The number of a cell's category: by its text, as runs kept them that took `TRUE` as it was written, else by what
    it says; 1 for one that is not known, 0 for none."""
    if cell is None:
        return 0
    if (known := names.get(str(cell).strip())) is not None:
        return known
    return 0 if missing(cell) else names.get(_category(cell), 1)


def _category(value: Any) -> str:
    """A category by what it says, so that 3 in one file and 3.0 in another are the same."""
    return class_name(value) or ""


def _statistics(numbers: Sequence[float]) -> Numbers:
    values = np.array(numbers or [0.0])
    deviation = float(values.std())
    quantiles = np.quantile(values, np.linspace(0, 1, QUANTILES + 1))
    return Numbers(float(values.mean()), deviation if deviation > 0 else 1.0, quantiles.tolist())
