"""From manifest rows to batches: decoded, varied, collated, with what is missing masked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from clx.modalities.base import CellError, Input, Modality
from clx.modalities.errors import at_fault
from clx.modalities.numbers import class_name, number
from clx.pipelines.batches.batch import BadRow, Batch, Key
from clx.pipelines.batches.cells import cell_of, collate, content_of, future_of, read_cell, vary
from clx.pipelines.batches.columns import column_of, columns_of, spread, view_names
from clx.pipelines.batches.positives import Neighbours
from clx.pipelines.config.data_schema import Near
from clx.pipelines.data.imbalance import bin_name
from clx.pipelines.data.label_sets import labels_in
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.windows import FUTURE
from clx.pipelines.data.wrong_answers import infinite
from clx.pipelines.system.errors import BadInput


@dataclass
class BatchDataset(Dataset[Batch]):
    """Batches of a manifest, by `Key`. A batch depends on its key and the seed alone, not on who makes it."""

    manifest: Manifest
    modalities: dict[str, Modality]
    label: str | None = None
    classes: dict[str, int] = field(default_factory=dict)
    sets: bool = False
    """Whether labels are sets; see `data/label_sets.py`."""
    several: str | Literal[False] | None = None
    """What divides a set in one text."""
    bin_width: float | None = None
    """Where given, the classes are bins of this width."""
    target: list[str] = field(default_factory=list)
    forecasts: tuple[str, int] | None = None
    """A series modality and a number of steps: the targets are what it measures in the steps behind each window."""
    near: Near | None = None
    """With `augment`, which rows' neighbours the second view and those after it are made of."""
    augment: bool = False
    """Random views, `views` of each modality; without it one plain view named like the modality."""
    on_bad: Literal["fail", "skip", "replace"] = "fail"
    """A bad row ends the batch, is left out, or gives its place to a row drawn at random."""
    missing: float = 0.0
    drop: Mapping[str, float] = field(default_factory=dict)
    """By modality, the share of rows that a batch has without it, drawn anew for each batch."""
    seed: int = 0
    cache: bool = False
    repeats: NDArray[np.int64] | None = None
    """Of each row, a number that is equal for rows that share an image, a recording or a text."""
    weights: NDArray[np.float64] | None = None
    """Of each row."""
    first: bool = False
    """Without `augment`, of several captions in a row the first, as validation wants it, and not all of them."""
    contents: bool = False
    """Whether batches say which cells are of equal content."""
    features: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    """What frozen encoders make of a modality's cells, by `sample_id`: it then takes the place of its inputs."""

    def __post_init__(self) -> None:
        self.kept: dict[int, _Decoded] = {}
        self.modalities = spread(self.modalities)
        self.columns = columns_of(self.modalities, self.label, *self.target, FUTURE if self.forecasts else None)
        self.neighbours = Neighbours(self.manifest, self.near) if self.near and self.augment else None
        self.dropped: dict[str, np.ndarray] = {}
        if self.missing:
            draw = np.random.default_rng([self.seed, 1]).random((len(self.modalities), len(self.manifest)))
            draw[0, (draw < self.missing).all(0)] = 1  # a row keeps at least one of its cells
            self.dropped = {name: draw[k] < self.missing for k, name in enumerate(self.modalities)}

    def __len__(self) -> int:
        return len(self.manifest)

    def sample(self, i: int) -> "_Decoded":
        """Decoded present inputs by modality, class index (-1 for none) and targets of row `i`."""
        if i in self.kept:
            return self.kept[i]
        row = self.manifest.row(i, self.columns)
        inputs: dict[str, Any] = {}
        contents: dict[str, int | list[int]] = {}
        for name, modality in self.modalities.items():
            if name in self.dropped and self.dropped[name][i]:
                continue
            known = self.features.get(name, {}).get(int(self.manifest.rows[i]))
            if known is not None and not self.contents:
                inputs[name] = known
                continue
            try:
                cell = cell_of(row, name, modality, self.manifest)
                if cell is not None and self.contents:
                    drawn = isinstance(cell, list) and modality.draws_one
                    contents[name] = [content_of(one) for one in cell] if drawn else content_of(cell)
                if known is not None:
                    inputs[name] = known
                    continue
                if cell is not None:
                    inputs[name] = read_cell(modality, cell)
                    if name in self.features:
                        raise CellError("could not be read when the run began")
            except (CellError, BadInput) as error:
                raise _Bad(i, *at_fault(error, column_of(name, modality))) from None
        label, applying = self._labels(row)
        targets = [self._number(i, name, row[name]) for name in self.target]
        if self.forecasts is not None:
            targets = self._future(i, row, *self.forecasts)
        decoded = _Decoded(inputs, label, applying, targets, int(self.manifest.rows[i]), contents)
        if self.cache:
            self.kept[i] = decoded
        return decoded

    def _labels(self, row: dict[str, Any]) -> tuple[int, list[int] | None]:
        """The class of a row, -1 for none, or the classes of a set."""
        named = None if self.label is None else row[self.label]
        if self.sets:
            names = labels_in(named, self.several)
            return -1, None if names is None else [self.classes[name] for name in names if name in self.classes]
        if named is not None and self.bin_width is not None:
            named = bin_name(named, self.bin_width)
        return self.classes.get(class_name(named) or "", -1), None

    def _number(self, i: int, column: str, value: Any) -> float:
        try:
            found = number(value)
        except ValueError as error:
            raise _Bad(i, column, str(error)) from None
        if math.isinf(found):
            raise _Bad(i, column, infinite(value))
        return found

    def _future(self, i: int, row: dict[str, Any], name: str, steps: int) -> list[float]:
        """What is measured in the steps behind a window, one after the other; NaN behind the end of the series."""
        try:
            values = future_of(row, self.modalities[name], self.manifest, steps)
        except (CellError, BadInput) as error:
            raise _Bad(i, FUTURE, str(error)) from None
        found: list[float] = values.flatten().tolist()
        return found

    def __getitem__(self, key: Key) -> Batch:
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, key.epoch, key.number))
        rows: list[int] = []
        samples: list[_Decoded] = []
        bad: list[BadRow] = []
        for i in key.rows.tolist():
            while True:
                try:
                    samples.append(self.sample(i))
                    rows.append(i)
                    break
                except _Bad as error:
                    bad.append(BadRow(i, self.manifest.where(i), error.column, error.reason))
                    if self.on_bad == "skip":
                        break
                    if self.on_bad == "fail" or len(bad) > 10 * len(key.rows):
                        return Batch.empty(self.modalities, bad)
                    i = int(torch.randint(len(self), (), generator=generator))
        of_view = [samples] * max((m.views for m in self.modalities.values()), default=1)
        if self.neighbours is not None:
            of_view[1:] = [self._neighbours(rows, samples, generator, bad) for _ in of_view[1:]]
            if bad and self.on_bad == "fail":
                return Batch.empty(self.modalities, bad)
        if self.drop:
            seed = mixed_seed(self.seed, 7, key.epoch, key.number)
            of_view = [self._without(made_of, torch.Generator().manual_seed(seed)) for made_of in of_view]
        return self._collate(rows, of_view, generator if self.augment else None, key.epoch, bad)

    def _neighbours(
        self, rows: list[int], samples: list["_Decoded"], generator: torch.Generator, bad: list[BadRow]
    ) -> list["_Decoded"]:
        """A neighbour's sample for each row; its own where that is bad."""
        assert self.neighbours is not None
        found = []
        for i, own in zip(rows, samples, strict=True):
            other = self.neighbours.draw(i, generator)
            try:
                found.append(self.sample(other))
            except _Bad as error:
                bad.append(BadRow(other, self.manifest.where(other), error.column, error.reason))
                found.append(own)
        return found

    def _without(self, samples: list["_Decoded"], generator: torch.Generator) -> list["_Decoded"]:
        """The samples of a batch without the inputs that are left out this time: never all that a row has."""
        draws = torch.rand(len(samples), len(self.drop), generator=generator).tolist()
        left: list[_Decoded] = []
        for sample, draw in zip(samples, draws, strict=True):
            # above 1, an input stays; below, the largest is as likely any of them
            height = {name: u / share for (name, share), u in zip(self.drop.items(), draw, strict=True)}
            highest = max(sample.inputs, key=lambda name: height.get(name, torch.inf), default=None)
            kept = {n: x for n, x in sample.inputs.items() if n == highest or height.get(n, torch.inf) >= 1}
            left.append(sample._replace(inputs=kept))
        return left

    def _sets_of(self, samples: list["_Decoded"]) -> Tensor:
        """`[B, C]`: 1 for each class that applies; NaN in rows of which none is known."""
        sets = torch.zeros(len(samples), len(self.classes))
        for line, sample in zip(sets, samples, strict=True):
            if sample.applying is None:
                line.fill_(torch.nan)
            else:
                line[sample.applying] = 1
        return sets

    def _chosen(self, row: "_Decoded", name: str, held: Any, draw: tuple[int, int] | None) -> Any:
        """What is held of a cell, or of several cells of a row; where one of them is wanted, the one that is drawn by
        seed, row and `draw`, epoch and view: the views of a row have different ones as long as there are any."""
        if not isinstance(held, list) or not self.modalities[name].draws_one:
            return held
        if draw is None:
            return held[0] if self.first else held
        epoch, view = draw
        return held[(mixed_seed(self.seed, 6, epoch, row.number) + view) % len(held)]

    def _collate(
        self,
        rows: list[int],
        of_view: list[list["_Decoded"]],
        generator: torch.Generator | None,
        epoch: int,
        bad: list[BadRow],
    ) -> Batch:
        """`of_view`: the samples that each view is made of."""
        samples = of_view[0]
        inputs: dict[str, Input] = {}
        present: dict[str, Tensor] = {}
        contents: dict[str, Tensor] = {}
        for name, modality in self.modalities.items():
            names = view_names(name, modality) if generator else [name]
            views: list[list[Any]] = []
            for place, (view, made_of) in enumerate(zip(names, of_view, strict=False)):
                present[view] = torch.tensor([name in sample.inputs for sample in made_of], dtype=torch.bool)
                draw = None if generator is None else (epoch, place)
                if self.contents:
                    told = [self._chosen(sample, name, sample.contents.get(name, 0), draw) for sample in made_of]
                    contents[view] = torch.tensor([one[0] if isinstance(one, list) else one for one in told])
                there = [sample for sample in made_of if name in sample.inputs]
                views.append([self._chosen(sample, name, sample.inputs[name], draw) for sample in there])
            if name in self.features:
                inputs |= {
                    view: {"features": torch.stack(each)} for view, each in zip(names, views, strict=True) if each
                }
                continue
            views = vary(modality, views, generator) if generator else views
            inputs |= {view: collate(modality, each) for view, each in zip(names, views, strict=True) if each}
        return Batch(
            inputs,
            present,
            labels=torch.tensor([sample.label for sample in samples], dtype=torch.long),
            targets=torch.tensor([sample.targets for sample in samples], dtype=torch.float32),
            sample_id=torch.tensor([int(self.manifest.rows[i]) for i in rows], dtype=torch.long),
            label_sets=self._sets_of(samples) if self.sets else None,
            repeats=None if self.repeats is None else torch.from_numpy(self.repeats[rows]),
            weights=None if self.weights is None else torch.from_numpy(self.weights[rows]).float(),
            contents=contents if self.contents else None,
            bad=bad,
        )


class _Decoded(NamedTuple):
    """A row that was read."""

    inputs: dict[str, Any]
    """Samples of the modalities that are present."""
    label: int
    applying: list[int] | None
    """The classes of a set; None where none are known, or labels are no sets."""
    targets: list[float]
    number: int
    """Of the row in the table."""
    contents: dict[str, int | list[int]]
    """Of what cells there are, by modality, where they are asked for; of each of those of which one is drawn."""


class _Bad(Exception):
    def __init__(self, row: int, column: str, reason: str) -> None:
        super().__init__(reason)
        self.row, self.column, self.reason = row, column, reason


def mixed_seed(*numbers: int) -> int:
    """One seed from several, well spread."""
    return int(np.random.SeedSequence([n % 2**32 for n in numbers]).generate_state(1, np.uint64)[0] >> 1)
