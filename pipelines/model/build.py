"""The one place where names become objects: a config and the training data in, a run ready for its loop out."""

import fnmatch
import inspect
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from clx.losses.base import LOSSES, Loss
from clx.modalities.base import MODALITIES, Modality, StepEncoder
from clx.modalities.series import Series
from clx.pipelines.batches.cells import cells, column_of, columns_of, view_names
from clx.pipelines.batches.positives import Neighbours
from clx.pipelines.config.options import construct, options_model, options_of
from clx.pipelines.config.schema import Config, Term
from clx.pipelines.data.imbalance import label_of, targets_of, with_bins
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.model.towers import Embedder, Objective, modality_of
from clx.pipelines.system.errors import BadInput, nearest


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

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def class_index(self) -> dict[str, int]:
        return {name: k for k, name in enumerate(self.facts.classes)}

    @property
    def ahead(self) -> tuple[str, int] | None:
        """The series whose next steps the predictor says, and how many; None when it predicts something else."""
        return ahead_of(self.config, self.modalities)


def ahead_of(config: Config, modalities: Mapping[str, Modality]) -> tuple[str, int] | None:
    """The series modality to forecast, and over how many steps; None when no objective is about forecasts.

    It is when the windows have a horizon and a loss compares predictions with numbers that no column holds.
    """
    windows = config.data.windows
    heads = [required(LOSSES[term.name]) for term in config.objective if term.name in LOSSES]
    heads = [needs for needs in heads if "predictions" in needs]
    if windows is None or windows.horizon is None or config.data.target or not heads:
        return None
    name = windowed_series(config, modalities)
    return None if name is None or any("targets" not in needs for needs in heads) else (name, windows.horizon)


def windowed_series(config: Config, modalities: Mapping[str, Modality]) -> str | None:
    """The first modality that reads the windows as series."""
    windows = config.data.windows
    named = [n for n, m in modalities.items() if m.kind == "series" and windows and column_of(n, m) == windows.column]
    return named[0] if named else None


def build(config: Config, facts: Facts, modalities: dict[str, Modality] | None = None, load: bool = True) -> Run:
    """Model and objective of a config. All that is random, new weights first, follows from `train.seed`; pretrained
    weights are read only with `load`. Raises `BadInput`."""
    modalities = modalities or make_modalities(config)
    for name, state in facts.states.items():
        modalities[name].load_state(state)
    losses = make_losses(config)
    names = [view for name, modality in modalities.items() for view in view_names(name, modality)]
    random.seed(config.train.seed)
    np.random.seed(config.train.seed % 2**32)
    torch.manual_seed(config.train.seed)
    try:
        for term, loss in zip(config.objective, losses, strict=True):
            loss.setup([n for n in names if term.inputs is None or modality_of(n) in term.inputs], config.embed_dim)
        objective = Objective(config.objective, losses)
        outputs = 0
        if "predictions" in objective.needs():
            ahead = ahead_of(config, modalities)
            outputs = len(config.data.target) or len(facts.classes)
            if ahead is not None:
                series = modalities[ahead[0]]
                assert isinstance(series, Series)
                outputs = ahead[1] * series.channels
        model = Embedder(modalities, config.embed_dim, outputs, load)
        check_steps(config, losses, modalities, model)
    except ValueError as error:
        raise BadInput(str(error)) from None
    for name, _, part in (kept.partition(".") for kept in facts.kept):
        model.tower(name).keep(part)  # type: ignore[arg-type]
    if config.data.target and outputs:
        model.get_buffer("target_mean").copy_(torch.tensor(facts.target_mean))
        model.get_buffer("target_scale").copy_(torch.tensor(facts.target_scale))
    return Run(resolved(config, modalities, losses), facts, modalities, model, objective)


def make_modalities(config: Config) -> dict[str, Modality]:
    """The modalities by name, each option checked against its dataclass."""
    made = {}
    for name, options in config.modalities.items():
        if not name.isidentifier():
            raise BadInput(f"modalities.{name}: a name must be letters, digits and underscores")
        kind = options.get("kind", name)
        if kind not in MODALITIES:
            raise BadInput(f"modalities.{name}: unknown kind {kind!r}{nearest(str(kind), MODALITIES)}")
        rest = {key: value for key, value in options.items() if key != "kind"}
        made[name] = construct(MODALITIES[kind], rest, f"modalities.{name}")
    return made


def make_losses(config: Config) -> list[Loss]:
    """The losses of all terms, each option checked against its dataclass."""
    losses = []
    for k, term in enumerate(config.objective):
        where = "objective" if len(config.objective) == 1 else f"objective.{k}"
        if term.name not in LOSSES:
            raise BadInput(f"{where}.name: unknown loss {term.name!r}{nearest(term.name, LOSSES)}")
        for name in term.inputs or []:
            if name not in config.modalities:
                raise BadInput(f"{where}.inputs: unknown modality {name!r}{nearest(name, config.modalities)}")
        losses.append(construct(LOSSES[term.name], term.options, f"{where} ({term.name})"))
    return losses


def resolved(config: Config, modalities: Mapping[str, Modality], losses: list[Loss]) -> Config:
    """The config with every default of its modalities and losses written out."""
    return config.model_copy(
        update={
            "modalities": {n: {"kind": m.kind, **options_of(m)} for n, m in modalities.items()},
            "objective": [
                Term(name=term.name, weight=term.weight, inputs=term.inputs, **options_of(loss))
                for term, loss in zip(config.objective, losses, strict=True)
            ],
        }
    )


def prepare(config: Config, splits: dict[str, Manifest], known: Mapping[str, dict[str, Any]] | None = None) -> Run:
    """Check the data against the config, learn the statistics of the training split, and build.

    The statistics of the modalities in `known` are taken from there.
    """
    modalities = make_modalities(config)
    for manifest in splits.values():
        check_columns(config, modalities, manifest)
    check_neighbours(config, modalities, splits["train"])
    check_windows(config, modalities)
    train = splits["train"]
    config = config.model_copy(update={"data": with_bins(config.data, train)})
    check_needs(config, make_losses(config), train, modalities)
    for name, modality in modalities.items():
        if known and name in known:
            modality.load_state(known[name])
            continue
        try:
            modality.fit(cells(train, name, modality))
        except ValueError as error:
            raise BadInput(f"{train.name}, modalities.{name}: {error}") from None
    means, scales = target_statistics(config, train)
    config = with_shares(config, scales)
    losses = make_losses(config)
    try_objective(config, modalities, losses)
    facts = Facts({n: m.state() for n, m in modalities.items()}, class_names(config, train), means, scales)
    return build(config, facts, modalities)


def with_shares(config: Config, scales: list[float]) -> Config:
    """The same with the weights and options written out that losses take as shares of the training targets' deviation.

    A loss says so by `weight_share`, `window_share` and, per unit of target distance, `pushing_share`.
    """
    deviation, terms = math.hypot(*scales), []
    for term in config.objective:
        loss = LOSSES[term.name]
        written: dict[str, float] = {}
        for key, unit in (("weight", deviation), ("window", deviation), ("pushing", 1 / deviation if deviation else 0)):
            given = term.weight if key == "weight" else term.options.get(key)
            share = getattr(loss, f"{key}_share", None)
            if share is not None and given is None:
                written[key] = float(f"{share * unit:.3g}")
        terms.append(Term.model_validate({"weight": 1.0} | term.model_dump(exclude_none=True) | written))
    return config.model_copy(update={"objective": terms})


def try_objective(config: Config, modalities: Mapping[str, Modality], losses: list[Loss]) -> None:
    """Run every loss once on made-up rows, so that one that cannot work with these inputs says so now."""
    size, width = 4, config.embed_dim
    draw = torch.Generator().manual_seed(0)
    outputs = len(config.data.target) or 2
    names = [view for name, modality in modalities.items() for view in view_names(name, modality)]
    labels = torch.arange(size) % 2
    given: dict[str, Any] = {
        "present": dict.fromkeys(names, torch.ones(size, dtype=torch.bool)),
        "labels": labels,
        "targets": torch.arange(1.0, size + 1)[:, None].expand(size, outputs),
        "predictions": torch.randn(size, outputs, generator=draw),
        "sample_id": torch.arange(size),
        "generator": draw,
        "steps": {name: (torch.randn(size, 4, width, generator=draw), torch.ones(size, 4).bool()) for name in names},
    }
    for term, loss in zip(config.objective, losses, strict=True):
        seen = [name for name in names if term.inputs is None or modality_of(name) in term.inputs]
        z = {name: torch.randn(size, width, generator=draw) for name in seen}
        try:
            loss(z, **{key: value for key, value in given.items() if key in type(loss).needs()})
        except ValueError as error:
            raise BadInput(f"loss {term.name!r}: {error}") from None


def check_neighbours(config: Config, modalities: Mapping[str, Modality], manifest: Manifest) -> None:
    """Neighbours take the place of further views, so there must be such, and of views that may be of two rows."""
    near = config.data.neighbours
    if near is None:
        return
    for column in (near.group, near.time):
        if column is not None:
            _require(column, "data.neighbours", manifest)
    several = {name: modality for name, modality in modalities.items() if modality.views > 1}
    if not several:
        raise BadInput("data.neighbours makes further views of neighbouring rows: set views: 2 on a modality")
    for name, modality in several.items():
        if modality.joint:
            raise BadInput(f"modalities.{name}: crops share a stretch of one series, so they exclude data.neighbours")
    if Neighbours(manifest, near).alone() == len(manifest):
        raise BadInput(f"data.neighbours: no row of {manifest.name} has a neighbour within reach")


def check_windows(config: Config, modalities: Mapping[str, Modality]) -> None:
    """A series must read all of a window, and of what follows it."""
    windows = config.data.windows
    for name, modality in modalities.items():
        if windows is None or not isinstance(modality, Series) or column_of(name, modality) != windows.column:
            continue
        for key, steps in (("length", windows.length), ("horizon", windows.horizon or 0)):
            if steps > modality.max_steps:
                raise BadInput(
                    f"data.windows.{key} = {steps}, but modalities.{name} reads {modality.max_steps} steps at most: "
                    f"raise its max_steps or shorten the {key}"
                )


def check_steps(config: Config, losses: list[Loss], modalities: Mapping[str, Modality], model: Embedder) -> None:
    """A loss on time steps needs views that keep their time, of encoders that have time steps."""
    for term, loss in zip(config.objective, losses, strict=True):
        if "steps" not in type(loss).needs():
            continue
        seen = [
            name
            for name, tower in model.towers.items()
            if (term.inputs is None or name in term.inputs) and isinstance(tower.encoder, StepEncoder)
        ]
        if sum(modalities[name].views for name in seen) < 2:
            raise ValueError(
                f"loss {term.name!r} compares time steps of two views: set views: 2 on a series with encoder tcn or "
                "dilated"
            )
        for name in seen:
            if modalities[name].pair is not None:
                raise ValueError(f"loss {term.name!r} compares time steps; modalities.{name} is a pair of columns")
            if not modalities[name].aligned:
                raise ValueError(
                    f"loss {term.name!r} compares time steps, but views of modalities.{name} do not keep their time: "
                    "set its augmentation to {crops: 0, time_mask: 0.5}, say, or name other inputs"
                )


def check_columns(config: Config, modalities: Mapping[str, Modality], manifest: Manifest) -> None:
    """Every column that the config names must be there; patterns such as `x*` become the columns they match."""
    columns = manifest.columns
    single = columns_of({name: modality for name, modality in modalities.items() if modality.kind != "table"})
    taken = {config.data.label, config.data.split, *config.data.target, *single}
    for name, modality in modalities.items():
        wanted = column_of(name, modality)
        if isinstance(wanted, list) and modality.kind == "table":
            matched = [c for w in wanted for c in _matching(w, columns, taken) or [w]]
            modality.columns = wanted = list(dict.fromkeys(matched))  # type: ignore[attr-defined]
        for column in [wanted] if isinstance(wanted, str) else wanted:
            _require(column, f"modalities.{name}", manifest)
    if config.data.label:
        _require(config.data.label, "data.label", manifest)
    for column in config.data.target:
        _require(column, "data.target", manifest)


def _matching(pattern: str, columns: list[str], taken: set[str | None]) -> list[str]:
    if pattern in columns or not set(pattern) & set("*?["):
        return [pattern]
    return [c for c in columns if fnmatch.fnmatchcase(c, pattern) and c not in taken]


def _require(column: str, asker: str, manifest: Manifest) -> None:
    if column not in manifest.columns:
        found = ", ".join(manifest.columns)
        hint = nearest(column, manifest.columns) if len(manifest.columns) > 1 else ""
        near = hint if "did you mean" in hint else ""
        raise BadInput(f"{asker}: no column {column!r} in {manifest.name}{near}; its columns are {found}")


def required(loss: type[Loss]) -> set[str]:
    """The needs of a loss that have no default."""
    parameters = inspect.signature(loss.forward).parameters
    return {name for name in loss.needs() if parameters[name].default is inspect.Parameter.empty}


def check_needs(config: Config, losses: list[Loss], manifest: Manifest, modalities: Mapping[str, Modality]) -> None:
    """What the losses need must be in the manifest, before the first step."""
    ahead = ahead_of(config, modalities)
    for term, loss in zip(config.objective, losses, strict=True):
        asked = {"labels"} if getattr(loss, "exclude", "none") == "labels" else set()
        needs = required(type(loss)) | asked
        for need in sorted(needs - ({"predictions", "targets"} if ahead and "predictions" in needs else set())):
            lacking = (
                (need == "labels" and not config.data.label)
                or (need == "targets" and not config.data.target)
                or (need == "predictions" and not (config.data.label or config.data.target))
            )
            if lacking:
                key = "data.label" if need == "labels" else "data.target"
                if config.data.windows is not None and needs >= {"predictions", "targets"}:
                    key = "data.windows.horizon to the steps to forecast, or data.target"
                columns = ", ".join(manifest.columns)
                raise BadInput(f"loss {term.name!r} needs {need}: set {key} to a column of {manifest.name} ({columns})")
        if config.data.balance and config.data.balance.by == "weights" and "weights" not in loss.needs():
            raise BadInput(
                f"loss {term.name!r} has no term for each row that a weight could multiply: data.balance.by=sampling "
                "draws rare rows more often, with any loss"
            )


def class_names(config: Config, manifest: Manifest) -> list[str]:
    """The distinct labels of a manifest, sorted."""
    if not config.data.label:
        return []
    names = {label_of(config.data, value) for value in manifest.column(config.data.label)} - {None}
    return sorted((str(name) for name in names), key=float if config.data.label in config.data.target else str)


def target_statistics(config: Config, manifest: Manifest) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each target column over the training rows that have it."""
    means, scales = [], []
    for column in config.data.target:
        values = torch.from_numpy(targets_of(manifest, column))
        values = values[values.isfinite()]
        if len(values) < 2 or values.std() == 0:
            raise BadInput(f"{manifest.name}: target {column!r} has no two different values to learn from")
        means.append(values.mean().item())
        scales.append(values.std().item())
    return means, scales


def schema() -> dict[str, Any]:
    """JSON Schema of a config file, with the options of every modality and loss."""
    whole = Config.model_json_schema()
    definitions = whole.setdefault("$defs", {})
    for group, registry in (("modality", MODALITIES), ("loss", LOSSES)):
        for name, cls in registry.items():
            part = options_model(cls).model_json_schema()
            definitions |= part.pop("$defs", {})
            definitions[f"{group}:{name}"] = part
    return whole
