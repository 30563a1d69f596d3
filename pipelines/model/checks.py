"""Whether the losses of a config can work with its data and towers, asked before anything is trained."""

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from typing import Any
from warnings import warn

import torch

from clx.losses.base import LOSSES, Loss
from clx.modalities.base import Modality
from clx.modalities.image_encoders import Cnn
from clx.modalities.series import Series
from clx.pipelines.batches.columns import column_of, columns_of, mixed_views, require_column, view_names
from clx.pipelines.batches.positives import Neighbours
from clx.pipelines.config.schema import Config
from clx.pipelines.config.stage_configs import looks_at, trained_before
from clx.pipelines.data.label_columns import wholly_known
from clx.pipelines.data.label_sets import holds_sets, labels_in
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.missing_cells import missing_in
from clx.pipelines.model.chunks import batch_norms
from clx.pipelines.model.decoders import with_decoders
from clx.pipelines.model.forecasting import forecast_of
from clx.pipelines.model.fusion import head
from clx.pipelines.model.objective import looked_at
from clx.pipelines.model.towers import Embedder, modality_of
from clx.pipelines.model.widths import at_widths
from clx.pipelines.system.errors import BadInput, ClxWarning

SPOKEN = {"label_sets": "sets of labels", "groups": "groups of rows"}
SPOKEN |= dict.fromkeys(("predictions", "head"), "an answer to predict")
"""What a loss needs of the data, in words, where its name is not one."""
UNASKED = {
    "levels": ("levels of labels", "relation does with kernel: tree or kernel: paths"),
    "group": ("groups of rows", "moco does with by: group"),
}
"""Of keys of `data`, what they say and what looks at it."""
MUCH = 1 << 28
"""Bytes of queues, beyond which a run is warned of them."""


def try_objective(
    config: Config,
    modalities: Mapping[str, Modality],
    losses: list[Loss],
    classes: Sequence[str] = (),
    keys: int | None = None,
    groups: int = 0,
) -> None:
    """Run every loss once on made-up rows, so that one that cannot work with these inputs says so now; `classes` are
    the labels, where these are known, `keys` is the width of the second model's embeddings where it is not the run's,
    and `groups` how many values `data.group` has."""
    size, width = 4, config.embed_dim
    draw = torch.Generator().manual_seed(0)
    outputs = len(config.data.target) or len(classes) or 2
    names = [view for name, modality in modalities.items() for view in view_names(name, modality)]
    labels = torch.arange(size) % min(2, len(classes) or 2)
    given: dict[str, Any] = {
        "present": dict.fromkeys(names, torch.ones(size, dtype=torch.bool)),
        "labels": labels,
        "label_sets": torch.zeros(size, len(classes) or outputs),
        "levels": torch.tensor([[0, 1 + k] for k in range(outputs)]) if config.data.levels else None,
        "features": {name: torch.randn(size, 3, generator=draw) for name in modalities},
        "targets": torch.arange(1.0, size + 1)[:, None].expand(size, outputs),
        "predictions": torch.randn(size, outputs, generator=draw),
        "sample_id": torch.arange(size),
        "repeats": torch.arange(size),
        "groups": labels,
        "generator": draw,
        "progress": 0.0,
        "mixed": {view: (torch.arange(size).roll(1), 0.7) for view in mixed_views(modalities)} or None,
        "states": {name: torch.randn(size, 4, 3, generator=draw) for name in names},
        **{n: {name: torch.randn(size, 3, width, generator=draw) for name in names} for n in ("layers", "key_layers")},
        "attention": {name: (torch.rand(size, 4, 32, 2, generator=draw), torch.ones(size, 4).bool()) for name in names},
        "steps": {name: (torch.randn(size, 4, width, generator=draw), torch.ones(size, 4).bool()) for name in names},
    }
    for term, loss in zip(config.objective, losses, strict=True):
        z = {name: torch.randn(size, width, generator=draw) for name in looked_at(term, names, config.only_negatives)}
        further = [name for name in names if modality_of(name) in (term.negatives or [])]
        given["negatives"] = {name: torch.randn(size, width, generator=draw) for name in further}
        given["stands_for"] = None if term.labels_per_step is None else torch.ones(outputs)
        given["head"] = head("mean", [], width, outputs, term.prototypes_per_label)
        given["keys"] = {name: torch.randn(size, keys or width, generator=draw) for name in [*z, *further]}
        try:
            tried = deepcopy(loss)  # which may remember rows
            with torch.random.fork_rng(devices=[]):
                tried.setup(list(z), width, classes or [str(k) for k in range(outputs)], size)
                if "groups" in tried.requires():
                    tried.setup_groups(2)
                    warn_of_many_groups(term.name, groups, groups * sum(b.nbytes for b in tried.buffers()) // 2)
                widths = with_decoders(tried, config.inputs_of(term), modalities)
            if "masked" in loss.needs():
                given["masked"] = {
                    n: (torch.randn(size, 2, widths[modality_of(n)], generator=draw), torch.tensor([[0, 1]] * size))
                    for n in z
                }
            given["originals"] = {n: torch.zeros(size, widths.get(modality_of(n), 0)) for n in z}
            at_widths(tried, term.dims or [width], z, {key: given[key] for key in given if key in loss.needs()})
        except ValueError as error:
            raise BadInput(f"loss {term.name!r}: {error}") from None


def warn_of_many_groups(name: str, groups: int, held: int) -> None:
    """Warn where what a loss keeps of each of so many groups is more than `MUCH` bytes in all."""
    if held > MUCH:
        warn(
            f"loss {name!r}: data.group has {groups:,} values, of each of which it keeps rows: {held >> 20:,} MB in "
            "memory and in every checkpoint; set its queue lower, or name a column of fewer values",
            ClxWarning,
            stacklevel=2,
        )


def check_neighbours(config: Config, modalities: Mapping[str, Modality], manifest: Manifest) -> None:
    """Neighbours take the place of further views, so there must be such, and of views that may be of two rows."""
    near = config.data.neighbours
    if near is None:
        return
    for column in (near.group, near.time):
        if column is not None:
            require_column(column, "data.neighbours", manifest)
    several = {name: modality for name, modality in modalities.items() if modality.views > 1}
    if not several:
        raise BadInput("data.neighbours makes further views of neighbouring rows: set views: 2 on a modality")
    for name, modality in several.items():
        if modality.joint:
            what = "crops share a stretch of one series" if modality.kind == "series" else "spans are of one text"
            raise BadInput(f"modalities.{name}: {what}, so they exclude data.neighbours")
    if Neighbours(manifest, near).alone() == len(manifest):
        raise BadInput(f"data.neighbours: no row of {manifest.name} has a neighbour within reach")


def check_windows(config: Config, modalities: Mapping[str, Modality]) -> None:
    """A series must read all of a window, and of what follows it."""
    windows = config.data.windows
    for name, modality in modalities.items():
        if windows is None or not isinstance(modality, Series) or column_of(name, modality) != windows.column:
            continue
        if modality.layout == "channels-first":
            raise BadInput(f"modalities.{name}.layout: data.windows cuts the first axis, which must be the time")
        for key, steps in (("length", windows.length), ("horizon", windows.horizon or 0)):
            if steps > modality.max_steps:
                raise BadInput(
                    f"data.windows.{key} = {steps}, but modalities.{name} reads {modality.max_steps} steps at most: "
                    f"raise its max_steps or shorten the {key}"
                )


def check_chunk(config: Config, model: Embedder) -> None:
    """Encoders that look across rows give other features to a chunk than to the batch."""
    size = config.train.chunk
    if not isinstance(size, int) or size >= config.train.batch_size or config.train.chunk_statistics == "chunk":
        return
    for name in model.towers:
        if batch_norms(model.tower(name).encoder):
            cnn = isinstance(model.tower(name).encoder, Cnn)
            without = f"-s modalities.{name}.norm=group" if cnn else "an encoder without batch norms"
            raise BadInput(
                f"train.chunk = {size}, but the encoder of modalities.{name} has batch norms, whose statistics would "
                f"be those of {size} rows and not of the {config.train.batch_size} of a batch: -s "
                f"train.chunk_statistics=chunk accepts that; {without} keeps the gradient exact"
            )


def check_second(config: Config, losses: list[Loss]) -> None:
    """Losses that compare with a second model need one, and a second model is for such losses."""
    asking = [term.name for term, loss in zip(config.objective, losses, strict=True) if loss.asks_second()]
    if asking and config.train.second is None:
        raise BadInput(
            f"loss {asking[0]!r} needs keys, the embeddings of a second model: -s train.second.momentum=0.99 is a copy "
            "that follows the model; train.second.run or train.second.model names a finished one"
        )
    if config.train.second is not None and not any(loss.asks_second() for loss in losses):
        takers = ", ".join(sorted(name for name, cls in LOSSES.items() if cls().asks_second()))
        named = ", ".join(term.name for term in config.objective)
        raise BadInput(
            f"train.second: no loss of the objective looks at a second model ({named}); those that do are {takers}, "
            "and any with exclude: {above: 0.999, by: second}"
        )


def check_needs(config: Config, losses: list[Loss], manifest: Manifest, modalities: Mapping[str, Modality]) -> None:
    """What the losses need must be in the manifest, before the first step."""
    check_second(config, losses)
    forecasts = forecast_of(config, modalities)
    for key, column in (("data.weight", config.data.weight), ("data.group", config.data.group)):
        if column is not None:
            require_column(column, key, manifest)
    for term, loss in zip(config.objective, losses, strict=True):
        needs = loss.requires()
        for need in sorted(needs - ({"predictions", "targets"} if forecasts and "predictions" in needs else set())):
            lacking = (
                (need in ("labels", "label_sets") and not config.data.label_column)
                or (need == "levels" and config.data.levels is None)
                or (need == "groups" and config.data.group is None)
                or (need == "targets" and not config.data.target)
                or (need in ("predictions", "head") and not (config.data.label_column or config.data.target))
            )
            if lacking:
                of_labels = need in ("labels", "label_sets") or (need == "head" and "labels" in needs)
                key = "data.label" if of_labels else "data.target"
                if config.data.windows is not None and needs >= {"predictions", "targets"}:
                    key = "data.windows.horizon to the steps to forecast, or data.target"
                if need == "levels":
                    raise BadInput(
                        f"loss {term.name!r} needs levels of the labels: set data.levels to what divides them, such as "
                        "/ in animal/dog/poodle"
                    )
                key = "data.group" if need == "groups" else key
                what = SPOKEN.get(need, need)
                columns = ", ".join(manifest.columns)
                raise BadInput(f"loss {term.name!r} needs {what}: set {key} to a column of {manifest.name} ({columns})")
        either = needs - {"labels"} if "label_sets" in loss.needs() else needs
        check_label_shape(config, term.name, either, manifest)
        if getattr(loss, "whole_sets", False) and not wholly_known(config.data, manifest):
            raise BadInput(
                f"loss {term.name!r} leaves out rows of which some labels are not known, and those are all of "
                f"{manifest.name}: binary-cross-entropy and asymmetric learn from what is known of a row"
            )
        if "head" in needs and len(inputs := config.inputs_of(term)) > 1:
            raise BadInput(
                f"loss {term.name!r} gives its head rows that it makes of one input, and has {', '.join(inputs)}: name "
                "one in inputs"
            )
        blended = [name for name in config.inputs_of(term) if modalities[name].mix is not None]
        if blended and "mixed" not in loss.needs():
            takers = ", ".join(sorted(name for name, cls in LOSSES.items() if "mixed" in cls.needs()))
            raise BadInput(
                f"modalities.{blended[0]}.mix: loss {term.name!r} would take mixtures for rows of one label or "
                f"partner; {takers} know of them"
            )
        if "weights" not in loss.needs():
            refuse_weights(config, term.name)


def refuse_weights(config: Config, name: str) -> None:
    """Raise `BadInput` where rows have weights: the loss of this name has no use for them."""
    takers = ", ".join(sorted(each for each, cls in LOSSES.items() if "weights" in cls.needs()))
    if config.data.weight is not None:
        raise BadInput(f"data.weight: loss {name!r} has no term a row that it could multiply; {takers} do")
    if config.data.balance and config.data.balance.by == "weights":
        raise BadInput(
            f"loss {name!r} has no term for each row that a weight could multiply: data.balance.by=sampling "
            f"draws rare rows more often, with any loss; {takers} have such terms"
        )


def refuse_empty_negatives(config: Config, modalities: Mapping[str, Modality], manifest: Manifest) -> None:
    """Raise `BadInput` where a modality that is only negatives has no cell in any training row."""
    for name in sorted(config.only_negatives):
        columns = list(columns_of({name: modalities[name]}))
        if all(missing_in(manifest, column).all() for column in columns):
            said = f"column {columns[0]} is" if len(columns) == 1 else f"columns {', '.join(columns)} are"
            raise BadInput(
                f"modalities.{name}: {said} empty in every training row of {manifest.name}, so there are no negatives: "
                "leave it out of `negatives`, or fill it (`clx mine --negatives` finds some)"
            )


def check_looked_at(config: Config) -> None:
    """Raise `BadInput` where levels of labels or groups of rows are given and nothing looks at them, in no stage."""
    for key, (what, takers) in UNASKED.items():
        value = getattr(config.data, key)
        if value is not None and not any(looks_at(one, key) for one in (config, *trained_before(config).values())):
            raise BadInput(f"data.{key} = {value!r}, but no term looks at {what}: {takers}")


def check_label_shape(config: Config, name: str, needs: Collection[str], manifest: Manifest) -> None:
    """A loss on single labels cannot learn from sets, nor one on sets from single labels."""
    column, sets = config.data.label_column, holds_sets(config.data, manifest)
    gates = [each for each, of in config.modalities.items() if isinstance(p := of.get("prompt"), dict) and "gate" in p]
    if sets and gates:
        raise BadInput(
            f"modalities.{gates[0]}.prompt.gate: it is by the one label of a row, and in {config.data.label_named} "
            "are sets of them: leave it out"
        )
    if "labels" in needs and sets:
        cells = enumerate(manifest.column(str(column)))
        row = next((i for i, cell in cells if len(labels_in(cell, config.data.several) or []) != 1), 0)
        shown = labels_in(manifest.cell(row, str(column)), config.data.several)
        where = f"{manifest.where(row)}: {config.data.label_named}"
        raise BadInput(
            f"{where} is the set {shown}, but loss {name!r} needs one label a row: binary-cross-entropy, mlcd, "
            "sparsemax and relation learn from sets; else name a column of single labels in data.label"
        )
    if "label_sets" in needs and not sets:
        raise BadInput(
            f"loss {name!r} needs sets of labels, but column {column!r} of {manifest.name} holds one a row: "
            "-s 'data.several=\"|\"' divides cells such as a|b; cross-entropy learns from single labels"
        )
