"""From manifest rows to batches: decoded, varied, collated, with what is missing masked."""

import copy
import itertools
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from clx.modalities.base import CellError, Input, Modality
from clx.modalities.draws import Draws
from clx.modalities.errors import at_fault
from clx.modalities.numbers import class_name
from clx.pipelines.batches.batch import BadRow, Batch, Key
from clx.pipelines.batches.cells import (
    are_elsewhere,
    ask_for,
    cell_at,
    cell_of,
    collate,
    content_of,
    future_of,
    known_input,
    read_cell,
    vary,
)
from clx.pipelines.batches.columns import column_of, columns_of, spread, view_names
from clx.pipelines.batches.decoded import (
    NEIGHBOUR,
    ONE_OF_SEVERAL,
    REPLACED,
    VIEW,
    Asked,
    Bad,
    Decoded,
    sets_of,
    target_of,
    without,
)
from clx.pipelines.batches.positives import Neighbours
from clx.pipelines.batches.sample_cache import SampleCache, Where
from clx.pipelines.config.data_schema import Near
from clx.pipelines.data.imbalance import bin_name
from clx.pipelines.data.label_sets import labels_in
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.values import LIKE_IT, Values
from clx.pipelines.data.windows import FUTURE
from clx.pipelines.system.errors import BadInput


@dataclass
class BatchDataset(Dataset[Batch]):
    """Batches of a manifest, by `Key`. What becomes of a row depends on the seed, the epoch and the row alone, not on
    its batch nor on who makes it."""

    manifest: Manifest
    modalities: dict[str, Modality]
    label: str | None = None
    classes: dict[str, int] = field(default_factory=dict)
    absent: str | None = None
    """Column with the labels known not to apply, where sets may be known in part."""
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
    parts: tuple[tuple[int, int], ...] = ()
    """First row of each source with a share, and the one behind its last: a bad row gives its place to one of its own
    source."""
    alike: Values | None = None
    """A bad row gives its place to one that has its own value, where one can be found."""
    missing: float = 0.0
    drop: Mapping[str, float] = field(default_factory=dict)
    """By modality, the share of rows that a batch has without it, drawn anew for each batch."""
    idle: Collection[str] = ()
    """Modalities that are not read: batches are as they are with them, but for these."""
    seed: int = 0
    cache: Where | None = None
    """What was read is kept there for the next epoch."""
    repeats: NDArray[np.int64] | None = None
    """Of each row, a number that is equal for rows that share an image, a recording or a text."""
    groups: NDArray[np.int64] | None = None
    """Of each row, the number of its group, -1 for none."""
    weights: NDArray[np.float64] | None = None
    """Of each row."""
    first: bool = False
    """Without `augment`, of several captions in a row the first, as validation wants it, and not all of them."""
    contents: bool = False
    """Whether batches say which cells are of equal content."""
    features: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    """What frozen encoders make of a modality's cells, by `sample_id`: it then takes the place of its inputs."""

    def __post_init__(self) -> None:
        self.lent = False
        every = list(spread(self.modalities))
        self.modalities = spread({name: m for name, m in self.modalities.items() if name not in self.idle})
        self.known = SampleCache(self.cache, dict(self.modalities), self.manifest)
        self.far = are_elsewhere(self.manifest, self.modalities)
        more = (self.label, self.absent, *self.target, FUTURE if self.forecasts else None)
        self.columns = columns_of(self.modalities, *more)
        self.neighbours = Neighbours(self.manifest, self.near) if self.near and self.augment else None
        self.dropped: dict[str, np.ndarray] = {}
        if self.missing:
            draw = np.random.default_rng([self.seed, 1]).random((len(every), len(self.manifest)))
            draw[0, (draw < self.missing).all(0)] = 1  # a row keeps at least one of its cells
            self.dropped = {name: draw[k] < self.missing for k, name in enumerate(every)}

    def __len__(self) -> int:
        return len(self.manifest)

    def sample(self, i: int) -> Decoded:
        """Decoded present inputs by modality, class index (-1 for none) and targets of row `i`."""
        if (known := self.known.rows.get(i)) is not None:
            return known
        row, source = self.manifest.row(i, self.columns), self.manifest.of_row(i)
        inputs: dict[str, Any] = {}
        contents: dict[str, int | list[int]] = {}
        for name, modality in self.modalities.items():
            if name in self.dropped and self.dropped[name][i]:
                continue
            features = self.features.get(name, {}).get(int(self.manifest.rows[i]))
            if features is not None and not self.contents:
                inputs[name] = features
                continue
            try:
                cell = cell_of(row, name, modality, source)
                if cell is not None and self.contents:
                    drawn = isinstance(cell, list) and modality.draws_one
                    contents[name] = [content_of(one) for one in cell] if drawn else content_of(cell)
                if features is not None:
                    inputs[name] = features
                    continue
                if cell is not None:
                    inputs[name] = self.known.read(name, int(self.manifest.rows[i]), cell)
                    if name in self.features:
                        raise CellError("could not be read when the run began")
            except (CellError, BadInput) as error:
                raise Bad(i, *at_fault(error, column_of(name, modality))) from None
        label, applying, absent = self._labels(row)
        targets = [target_of(i, name, row[name]) for name in self.target]
        if self.forecasts is not None:
            targets = self._future(i, row, *self.forecasts)
        decoded = Decoded(inputs, label, applying, absent, targets, contents)
        self.known.keep(i, decoded)
        return decoded

    def _labels(self, row: dict[str, Any]) -> tuple[int, list[int] | None, list[int] | None]:
        """The class of a row, -1 for none, or the classes of a set, and those known not to be of it."""
        named = None if self.label is None else row[self.label]
        if self.sets:
            cells = (None if column is None else row[column] for column in (self.label, self.absent))
            sets = (labels_in(cell, self.several) for cell in cells)
            found = [None if names is None else [self.classes[n] for n in names if n in self.classes] for names in sets]
            return -1, found[0], found[1]
        if named is not None and self.bin_width is not None:
            named = bin_name(named, self.bin_width)
        return self.classes.get(class_name(named) or "", -1), None, None

    def _future(self, i: int, row: dict[str, Any], name: str, steps: int) -> list[float]:
        """What is measured in the steps behind a window, one after the other; NaN behind the end of the series."""
        try:
            values = future_of(row, self.modalities[name], self.manifest, steps)
        except (CellError, BadInput) as error:
            raise Bad(i, FUTURE, str(error)) from None
        found: list[float] = values.flatten().tolist()
        return found

    def __getitem__(self, key: Key) -> Batch:
        asked = Asked(self.seed, key.epoch, self.manifest.rows[key.rows], key.turns_of_rows())
        rows: list[int] = []
        places: list[int] = []
        samples: list[Decoded] = []
        bad: list[BadRow] = []
        if self.far:
            read = {name: modality for name, modality in self.modalities.items() if name not in self.features}
            fresh = [i for i in key.rows.tolist() if i not in self.known.rows]
            ask_for(self.manifest, fresh, read, self.known.has)
        for place, i in enumerate(key.rows.tolist()):
            for attempt in itertools.count():
                try:
                    samples.append(self.sample(i))
                    rows.append(i)
                    places.append(place)
                    break
                except Bad as error:
                    bad.append(BadRow(i, self.manifest.where(i), error.column, error.reason))
                    if self.on_bad == "skip":
                        break
                    if self.on_bad == "fail" or len(bad) > 10 * len(key.rows):
                        return Batch.empty(self.modalities, bad)
                    first, stop = next(((a, b) for a, b in self.parts if a <= i < b), (0, len(self)))
                    bits = int(asked.draws(REPLACED, attempt).bits()[place])
                    alike = None if self.alike is None or attempt >= LIKE_IT else self.alike.like(i)
                    i = first + bits % (stop - first) if alike is None else int(alike[bits % len(alike)])
        asked = asked.take(places)
        of_view = [samples] * max((m.views for m in self.modalities.values()), default=1)
        if self.neighbours is not None:
            of_view[1:] = [self._neighbours(rows, samples, asked, v, bad) for v in range(1, len(of_view))]
            if bad and self.on_bad == "fail":
                return Batch.empty(self.modalities, bad)
        if self.drop:
            of_view = [without(made_of, self.drop, asked) for made_of in of_view]
        if self.augment and not self.lent:
            self._lend()
        return self._collate(rows, of_view, asked, bad)

    def _neighbours(
        self, rows: list[int], samples: list[Decoded], asked: Asked, view: int, bad: list[BadRow]
    ) -> list[Decoded]:
        """A neighbour's sample for each row; its own where that is bad."""
        assert self.neighbours is not None
        found = []
        for i, own, bits in zip(rows, samples, asked.draws(NEIGHBOUR, view).bits().tolist(), strict=True):
            other = self.neighbours.draw(i, bits)
            try:
                found.append(self.sample(other))
            except Bad as error:
                bad.append(BadRow(other, self.manifest.where(other), error.column, error.reason))
                found.append(own)
        return found

    def _lend(self) -> None:
        """Give modalities whose views take something of other rows samples from all over the manifest: of the rows of
        the batch, views would follow from which rows are in it."""
        self.lent = True
        for name, modality in self.modalities.items():
            if not modality.borrows or modality.augmentation == "none" or name in self.features:
                continue
            self.modalities[name] = modality = copy.copy(modality)  # that of the run serves other rows as well
            lent = []
            for i in np.unique(np.linspace(0, len(self) - 1, modality.borrows).astype(np.int64)).tolist():
                with suppress(CellError, BadInput):
                    cell = cell_at(self.manifest, i, name, modality)
                    if cell is not None and not (name in self.dropped and self.dropped[name][i]):
                        lent.append(read_cell(modality, cell))
            modality.lend(lent)

    def _pick(self, name: str, view: int, asked: Asked) -> Callable[[int, Any], Any]:
        """Chooses from what is held of a cell, or of several cells, of the batch's row `k`. Where one of several is
        wanted, it is the row's own draw: the views of a row have different ones as long as there are any."""
        if not self.modalities[name].draws_one:
            return lambda k, held: held
        if not self.augment:
            return lambda k, held: held[0] if self.first and isinstance(held, list) else held
        first = asked.draws(ONE_OF_SEVERAL, name).bits().tolist()
        return lambda k, held: held[(first[k] + view) % len(held)] if isinstance(held, list) else held

    def _collate(self, rows: list[int], of_view: list[list[Decoded]], asked: Asked, bad: list[BadRow]) -> Batch:
        """`of_view`: the samples that each view is made of."""
        samples = of_view[0]
        inputs: dict[str, Input] = {}
        present: dict[str, Tensor] = {}
        contents: dict[str, Tensor] = {}
        for name, modality in self.modalities.items():
            names = view_names(name, modality) if self.augment else [name]
            views: list[list[Any]] = []
            draws: list[Draws] = []
            for place, (view, made_of) in enumerate(zip(names, of_view, strict=False)):
                present[view] = torch.tensor([name in sample.inputs for sample in made_of], dtype=torch.bool)
                pick = self._pick(name, place, asked)
                if self.contents:
                    told = [pick(k, sample.contents.get(name, 0)) for k, sample in enumerate(made_of)]
                    contents[view] = torch.tensor([content_of(one) if isinstance(one, list) else one for one in told])
                there = [k for k, sample in enumerate(made_of) if name in sample.inputs]
                views.append([pick(k, made_of[k].inputs[name]) for k in there])
                draws.append(asked.take(there).draws(VIEW, name, place))
            if name in self.features:
                inputs |= {view: known_input(each) for view, each in zip(names, views, strict=True) if each}
                continue
            views = vary(modality, views, draws) if self.augment else views
            inputs |= {view: collate(modality, each) for view, each in zip(names, views, strict=True) if each}
        return Batch(
            inputs,
            present,
            labels=torch.tensor([sample.label for sample in samples], dtype=torch.long),
            targets=torch.tensor([sample.targets for sample in samples], dtype=torch.float32),
            sample_id=torch.tensor([int(self.manifest.rows[i]) for i in rows], dtype=torch.long),
            label_sets=sets_of(samples, len(self.classes)) if self.sets else None,
            repeats=None if self.repeats is None else torch.from_numpy(self.repeats[rows]),
            groups=None if self.groups is None else torch.from_numpy(self.groups[rows]),
            weights=None if self.weights is None else torch.from_numpy(self.weights[rows]).float(),
            contents=contents if self.contents else None,
            bad=bad,
        )
