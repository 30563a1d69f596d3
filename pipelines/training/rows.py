"""The rows that a run trains and validates on, as batches."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.mixture import Mixture
from clx.pipelines.data.imbalance import column_weights, row_weights
from clx.pipelines.data.label_sets import absent_column, holds_sets
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.shared_content import inputs_of, sharing
from clx.pipelines.data.values import values_of
from clx.pipelines.model.build import Run
from clx.pipelines.model.chunks import batch_norms
from clx.pipelines.model.frozen_features import use_frozen_features
from clx.pipelines.training.step import Learner


def training_rows(run: Run, manifest: Manifest) -> tuple[BatchDataset, NDArray[np.float64] | None]:
    """The training rows with random views, weighted as `data.balance` and `data.weight` say; and how often each is
    drawn, where balance is by sampling."""
    data = run.config.data
    on_bad = "replace" if data.on_bad_row == "skip" else "fail"
    drop = {name: modality.drop for name, modality in run.modalities.items() if modality.drop}
    rows = _rows(run, manifest, augment=True, on_bad=on_bad, missing=data.missing, drop=drop, idle=idle_inputs(run))
    mixture = mixture_of(run, manifest)
    rows.parts = mixture.parts if mixture is not None else ()
    weights, counted = row_weights(data, manifest), column_weights(data, manifest)
    if data.balance is not None and data.balance.by == "sampling":
        rows.weights = counted
        return rows, weights
    rows.weights = counted if weights is None else weights
    if weights is not None and counted is not None:
        both = weights * counted
        rows.weights = both / both.mean()
    return rows, None


def idle_inputs(run: Run) -> frozenset[str]:
    """The modalities that training need not read: no term looks at them, they have no network that learns to make
    views, and no batch norm of their tower, which others may share, takes statistics of them."""
    config, model = run.config, run.model
    asked = {name for term in config.objective for name in [*config.inputs_of(term), *(term.negatives or [])]}
    before = model.training
    model.train()
    towers = {name: model.tower(name) for name in run.modalities if name not in asked}
    idle = frozenset(name for name, tower in towers.items() if tower.view is None and not batch_norms(tower))
    model.train(before)
    return idle


def mixture_of(run: Run, manifest: Manifest) -> Mixture | None:
    """How the rows of several sources with shares come together."""
    data, train = run.config.data, run.config.train
    if not data.shares:
        return None
    parts = tuple((part.start, part.stop) for part in manifest.part_rows())
    return Mixture(parts, tuple(data.shares), train.batch_size, train.seed)


def validation_rows(run: Run, manifest: Manifest) -> BatchDataset:
    """The validation rows. Several views must differ to mean anything; a single one is validated as it is."""
    several = any(modality.views > 1 for modality in run.modalities.values())
    return _rows(run, manifest, augment=several, on_bad=run.config.data.on_bad_row, first=True)


def keep_frozen_features(
    run: Run, learner: Learner, *datasets: BatchDataset, say: Callable[[str], None] = lambda text: None
) -> None:
    """Encode once what a frozen encoder sees without variation: it is the same every epoch. Not where another encoder,
    of a second model, has to see it, too. `say` hears how far that is."""
    if learner.model.inner or (learner.second is not None and not learner.second.follows):
        return
    learner.model.eval()
    with learner.gathered():
        for rows in datasets:
            use_frozen_features(run, rows, learner.autocast, say)
    learner.model.train()


def repeats(run: Run, manifest: Manifest) -> NDArray[np.int64] | None:
    """A number for each row `[N]`, equal for those that share an image, a recording or a text, where a loss asks and
    any two do."""
    if not any(getattr(loss, "exclude", None) == "repeats" for loss in run.objective.losses):
        return None
    columns, groups, _ = sharing(manifest, inputs_of(run.config))
    return groups if columns else None


def groups(run: Run, manifest: Manifest) -> NDArray[np.int64] | None:
    """The number of each row's value of `data.group` `[N]`, where there is such a column: that of the value among those
    of training, -1 for none of them."""
    column = run.config.data.group
    if column is None:
        return None
    numbers = {name: k for k, name in enumerate(run.facts.groups)}
    values = values_of(manifest, column, "data.group")
    return np.array([*(numbers.get(name, -1) for name in values.names), -1], dtype=np.int64)[values.codes]


def _rows(run: Run, manifest: Manifest, **policy: Any) -> BatchDataset:
    data = run.config.data
    return BatchDataset(
        manifest,
        run.modalities,
        label=data.label_column,
        absent=absent_column(data, manifest),
        classes=run.class_index,
        sets=holds_sets(data, manifest),
        several=data.several,
        bin_width=data.bin_width if data.label_column in data.target else None,
        target=data.target,
        forecasts=run.forecasts,
        near=data.neighbours,
        repeats=repeats(run, manifest),
        groups=groups(run, manifest),
        seed=run.config.train.seed,
        cache=data.cache,
        contents=any(term.negatives for term in run.config.objective),
        **policy,
    )
