"""The one place where names become objects: a config and the training data in, a run ready for its loop out."""

import math
import random
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
import torch

from clx.losses.base import Loss
from clx.losses.set_heads import SetHead
from clx.modalities.base import Modality
from clx.modalities.series import Series
from clx.pipelines.batches.cells import cells
from clx.pipelines.batches.columns import asked_of, check_columns, refuse_answers, spread, view_names
from clx.pipelines.batches.telling_columns import supervised_inputs
from clx.pipelines.config.data_schema import ABSENT_LABELS
from clx.pipelines.config.heads import head_of, heads_of
from clx.pipelines.config.objects import make_losses, make_modalities, resolved
from clx.pipelines.config.schema import Config
from clx.pipelines.config.shared_towers import written_out
from clx.pipelines.data.classes import index_of
from clx.pipelines.data.distinct import distinct
from clx.pipelines.data.draw import with_groups
from clx.pipelines.data.imbalance import label_of, training_targets, with_bins
from clx.pipelines.data.label_columns import names_of, require_label_columns
from clx.pipelines.data.label_sets import check_label_sets, holds_sets, labels_in, levels_of
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.values import values_of
from clx.pipelines.data.written_columns import with_marks
from clx.pipelines.data.wrong_answers import refuse_wrong_answers
from clx.pipelines.model.checks import (
    check_chunk,
    check_looked_at,
    check_needs,
    check_neighbours,
    check_windows,
    refuse_empty_negatives,
    try_objective,
)
from clx.pipelines.model.decoders import with_decoders
from clx.pipelines.model.forecasting import forecast_of
from clx.pipelines.model.inner_states import steps_asked
from clx.pipelines.model.label_sample import check_sample
from clx.pipelines.model.lora import merge
from clx.pipelines.model.objective import Objective
from clx.pipelines.model.towers import Embedder, modality_of
from clx.pipelines.system.errors import BadInput, ClxWarning


@dataclass
class Facts:
    """What the training data taught, saved with the run so that it rebuilds without them."""

    states: dict[str, dict[str, Any]]
    """Fitted statistics of each modality."""
    classes: list[str]
    """Values of the label column in the training split, sorted."""
    target_mean: list[float]
    target_scale: list[float]
    kept: list[str] = field(default_factory=list)
    """Parts of towers that pre-training trained and that stay as they are, such as `image.encoder`."""
    rows: int = 0
    """What the numbers of training rows are below; 0 in runs of clx that did not save it."""
    groups: list[str] = field(default_factory=list)
    """Values of the column `data.group` in the training split, sorted."""


@dataclass
class Run:
    """Finished objects: everything that trains, evaluates or classifies."""

    config: Config
    facts: Facts
    modalities: dict[str, Modality]
    model: Embedder
    objective: Objective
    step: int | None = None
    """Training step of the weights, where they come from a checkpoint."""
    opened: tuple[str, str | None] | None = None
    """What it was opened by: a folder, or an OpenCLIP model's name with its tag or file."""
    before: Path | None = None
    """Run folder of the stage before, where training begins with its towers."""
    folder: Path | None = None
    """Its own, where its weights are from one."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def scored(self) -> dict[str, Modality]:
        """The modalities but those that are only negatives, in training."""
        return {name: m for name, m in self.modalities.items() if name not in self.config.only_negatives}

    def readers(self, kind: str | None) -> list[str]:
        """Modalities that read a single cell of a kind, of those that share a tower the one that it is called by."""
        names = {n: m for n, m in self.scored().items() if m.kind == kind and not m.pair}
        return [name for name, modality in names.items() if modality.like not in names]

    def narrowed(self, width: int | None) -> "Run":
        """The same run, of whose embeddings only the first `width` columns are taken, as `dims` trains them; all when
        None. What predicts is left out: it looks at all of them. Raises `BadInput`."""
        if width is None or width == self.config.embed_dim:
            return self
        if not 1 <= width < self.config.embed_dim:
            raise BadInput(f"--dim {width}: the embeddings have {self.config.embed_dim} columns, so 1 to that")
        if any(self.model.prompts_of(name).router is not None for name in self.model.prompts):
            raise BadInput(f"--dim {width}: the router of this run's prompts looks at all columns of the embeddings")
        model = copy(self.model)  # the same towers
        parts = self.model._modules.items()
        model._modules = {name: part for name, part in parts if name not in ("predictor", "further_heads")}
        model.predictor, model.further_heads, model.heads = None, {}, {}
        model.embed_dim, model.is_narrow = width, True
        return replace(self, config=self.config.model_copy(update={"embed_dim": width}), model=model)

    def merged(self) -> "Run":
        """The same run without `lora`: changes are added to the weights, in place, and the outputs are as before, to
        rounding."""
        for name in (name for name in self.model.towers if self.modalities[name].lora is not None):
            merge(self.model.tower(name).encoder)
            self.modalities[name].lora = None
        options = {name: written_out(modality) for name, modality in self.modalities.items()}
        return replace(self, config=self.config.model_copy(update={"modalities": options}))

    @property
    def set_head(self) -> SetHead | None:
        """The loss of a predictor that says which labels of a set apply; None where it says something else."""
        heads = (loss for loss in self.objective.losses if isinstance(loss, SetHead))
        return next(heads, None) if self.model.predictor is not None else None

    @property
    def tells_sets(self) -> bool:
        """Whether the predictor says of each class whether it applies, and not which one is right."""
        return self.set_head is not None

    @property
    def class_index(self) -> dict[str, int]:
        return index_of(self.facts.classes)

    @property
    def forecasts(self) -> tuple[str, int] | None:
        """The series whose next steps the predictor says, and how many; None when it predicts something else."""
        return None if self.model.predictor is None else forecast_of(self.config, self.modalities)


def build(
    config: Config,
    facts: Facts,
    modalities: dict[str, Modality] | None = None,
    losses: list[Loss] | None = None,
    load: bool = True,
) -> Run:
    """Model and objective of a config. All that is random, new weights first, follows from `train.seed`; pretrained
    weights are read only with `load`. Raises `BadInput`."""
    modalities = modalities or make_modalities(config)
    for name, state in facts.states.items():
        modalities[name].load_state(state)
    losses = losses or make_losses(config)
    names = [view for name, modality in modalities.items() for view in view_names(name, modality)]
    random.seed(config.train.seed)
    np.random.seed(config.train.seed % 2**32)
    torch.manual_seed(config.train.seed)
    try:
        for term, loss in zip(config.objective, losses, strict=True):
            seen = [n for n in names if modality_of(n) in config.inputs_of(term)]
            loss.setup(seen, config.embed_dim, facts.classes, facts.rows)
            if "groups" in loss.requires():
                loss.setup_groups(len(facts.groups))
            with_decoders(loss, config.inputs_of(term), modalities)
        levels = levels_of(facts.classes, config.data.levels)
        known = None if levels is None else torch.tensor(levels)
        objective = Objective(config.objective, losses, [head_of(config, term) for term in config.objective], known)
        outputs = 0
        if objective.needs() & {"predictions", "head"}:
            forecasts = forecast_of(config, modalities)
            outputs = len(config.data.target) or len(facts.classes)
            if forecasts is not None:
                series = modalities[forecasts[0]]
                assert isinstance(series, Series)
                outputs = forecasts[1] * series.channels
        model = Embedder(modalities, config.embed_dim, outputs, heads_of(config), load, facts.classes)
        steps_asked(config, losses, modalities, model)
        if not (config.stages and config.stages[-1].freeze):
            check_chunk(config, model)  # else when it is known which encoders are kept as they are
    except ValueError as error:
        raise BadInput(str(error)) from None
    for name, _, part in (kept.partition(".") for kept in facts.kept):
        model.tower(name).keep(part)  # type: ignore[arg-type]
    if config.data.target and outputs:
        model.get_buffer("target_mean").copy_(torch.tensor(facts.target_mean))
        model.get_buffer("target_scale").copy_(torch.tensor(facts.target_scale))
    return Run(resolved(config, modalities, losses), facts, modalities, model, objective)


def prepare(config: Config, splits: dict[str, Manifest], known: Mapping[str, dict[str, Any]] | None = None) -> Run:
    """Check the data against the config, learn the statistics of the training split, and build.

    The statistics of the modalities in `known` are taken from there.
    """
    train = splits["train"]
    config, modalities, losses = checked(config, splits)
    for name, modality in modalities.items():
        if known and name in known:
            modality.load_state(known[name])
            continue
        if modality.like is not None:
            continue
        sharing = {n: m for n, m in modalities.items() if name in (n, m.like)}
        try:
            modality.fit(chain.from_iterable(cells(train, n, m) for n, m in spread(sharing).items()))
        except ValueError as error:
            raise BadInput(f"{train.name}, modalities.{name}: {error}") from None
    for name, modality in modalities.items():
        if modality.like is not None:
            try:
                modality.load_state(modalities[modality.like].state())
            except ValueError as error:
                raise BadInput(f"modalities.{name}: {error}") from None
    means, scales = target_statistics(config, train)
    config = fill_target_defaults(config, losses, math.hypot(*scales))
    classes = class_names(config, train)
    check_sample(config, len(classes))
    groups = [] if config.data.group is None else sorted(values_of(train, config.data.group, "data.group").names)
    try_objective(config, modalities, losses, classes, groups=len(groups))
    states = {n: m.state() for n, m in modalities.items()}
    facts = Facts(states, classes, means, scales, rows=int(train.rows.max()) + 1, groups=groups)
    return build(config, facts, modalities, losses)


def checked(config: Config, splits: dict[str, Manifest]) -> tuple[Config, dict[str, Modality], list[Loss]]:
    """The modalities and losses of a config whose columns, windows and needs the data have; the config with its bins.

    Raises `BadInput`. Nothing is learned from the data, and no model is made.
    """
    modalities, losses = make_modalities(config), make_losses(config)
    require_label_columns(config.data, splits["train"])
    for split, manifest in splits.items():
        check_columns(config, asked_of(config, modalities, split), manifest)
    data = config.data
    refuse_wrong_answers(splits, data.label_column, data.target, skip=data.on_bad_row == "skip")
    refuse_answers(config, modalities, supervised_inputs(config))
    check_neighbours(config, modalities, splits["train"])
    check_windows(config, modalities)
    refuse_empty_negatives(config, modalities, splits["train"])
    if doubt := check_label_sets(config.data, splits):
        warn(doubt, ClxWarning, stacklevel=2)
    data = with_groups(with_marks(data, splits["train"]), splits)
    data = with_bins(data, splits["train"])
    config = config.model_copy(update={"data": data})
    check_needs(config, losses, splits["train"], modalities)
    check_looked_at(config)
    return config, modalities, losses


def fill_target_defaults(config: Config, losses: list[Loss], deviation: float) -> Config:
    """Give losses the options, and terms the weights, that follow from the training targets' deviation."""
    terms = []
    for term, loss in zip(config.objective, losses, strict=True):
        defaults = loss.target_defaults(deviation)
        weight = defaults.pop("weight", 1.0) if term.weight is None else term.weight
        for key, value in defaults.items():
            if term.options.get(key) is None:
                setattr(loss, key, value)
        terms.append(term.model_copy(update={"weight": weight}))
    return config.model_copy(update={"objective": terms})


def class_names(config: Config, manifest: Manifest) -> list[str]:
    """The distinct labels of a manifest, sorted."""
    if not config.data.label_column:
        return []
    if isinstance(config.data.label, list) and ABSENT_LABELS in manifest.columns:
        return names_of(config.data, manifest.columns)
    if holds_sets(config.data, manifest):
        sets = (labels_in(value, config.data.several) or [] for value in manifest.column(config.data.label_column))
        return sorted({name for names in sets for name in names})
    names = {label_of(config.data, value) for value in distinct(manifest, config.data.label_column)[0]} - {None}
    return sorted((str(name) for name in names), key=float if config.data.label_column in config.data.target else str)


def target_statistics(config: Config, manifest: Manifest) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each target column over the training rows that have it."""
    means, scales = [], []
    for column in config.data.target:
        values = torch.from_numpy(training_targets(config.data, manifest, column))
        values = values[values.isfinite()]
        if len(values) < 2 or values.std() == 0:
            raise BadInput(f"{manifest.name}: target {column!r} has no two different values to learn from")
        means.append(values.mean().item())
        scales.append(values.std().item())
    return means, scales
