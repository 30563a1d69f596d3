"""What a stage takes over from the one before: the towers of another run, and what they know of their columns."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from clx.pipelines.batches.columns import column_of
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import batches, once
from clx.pipelines.config.schema import Config
from clx.pipelines.data.imbalance import Floats
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.measures.probes import STRENGTHS
from clx.pipelines.model.build import Run, prepare
from clx.pipelines.model.checks import check_chunk
from clx.pipelines.model.frozen_features import use_frozen_features
from clx.pipelines.model.words import Words
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.system.devices import pick_device
from clx.pipelines.system.errors import BadInput

RIDGE_ROWS = 100_000
"""Rows, evenly spread, that a linear predictor's beginning is fitted on."""
NOISY_ROWS = 8192
"""Rows that it takes at least, all of them equally often, where dropout makes their embeddings differ."""
PARTS = ("encoder", "head")


def take_over(config: Config, splits: dict[str, Manifest], folder: Path, say: Callable[[str], None]) -> Run:
    """A new run of `config` with the towers of a checkpoint in `folder`; `say` is told which parts were taken.

    Which checkpoint, the stage before says; see `follow`.
    """
    run = follow(config, splits, load(folder, config.stages[-2].checkpoint, alone=True), str(folder), say)
    run.before = folder
    if (config.data.target or run.forecasts) and run.model.predictor is not None:
        start_predictor(run, splits["train"])
    return run


def follow(
    config: Config, splits: dict[str, Manifest], source: Run, name: str, say: Callable[[str], None] = lambda text: None
) -> Run:
    """A new run of `config` with the towers of another one, which is called `name`.

    Encoders must fit. A head is taken over where it is of the same form, else it is new; of one that tells classes what
    it knows of those that come again. Where the last of
    `config.stages` says `freeze` what was taken stays as it is. Raises `BadInput` when nothing fits.
    """
    shared = [name for name in config.modalities if name in source.modalities]
    if not shared:
        raise BadInput(
            f"stages: {name} has no modality of this run: it has {', '.join(source.modalities)}, "
            f"not {', '.join(config.modalities)}"
        )
    run = prepare(config, splits, {each: source.facts.states[each] for each in shared})
    taken = []
    for each in (each for each in shared if run.modalities[each].like is None):
        taken += take_tower(run, source, each, name)
    take_prompts(run, source)
    for words in run.model.words():
        words.begin(*source.objective.leading.scale())
    heads = take_class_heads(run, source)
    if config.stages[-1].freeze:
        run.facts.kept = taken
        for tower, _, part in (kept.partition(".") for kept in taken):
            run.model.tower(tower).keep(part)  # type: ignore[arg-type]
        views = set(run.model.augmenters())  # they learn nothing that is used later
        learning = {p for each in (run.model, run.objective) for p in each.parameters() if p.requires_grad}
        if not learning - views:
            raise BadInput("stages: freeze leaves nothing to learn: set it to false, or add a loss with a predictor")
    check_chunk(config, run.model)
    say(f"from {name}: {', '.join(taken)}, {'kept as it is' if run.facts.kept else 'to be fine-tuned'}{heads}")
    return run


def take_prompts(run: Run, source: Run) -> None:
    """Take over the learned prompts that are of the same form; others begin at the words and temperature of the other
    run."""
    for name in run.model.prompts:
        ours = run.model.prompts_of(name)
        theirs = source.model.prompts_of(name) if name in source.model.prompt_of else None
        if theirs is not None and theirs.labels == ours.labels and _fits(theirs, ours):
            ours.load_state_dict(theirs.state_dict())
            continue
        temperature, _ = source.objective.leading.scale()
        ours.begin(run.model.tower(name).encoder.embedding, temperature)


@torch.no_grad()
def take_class_heads(run: Run, source: Run) -> str:
    """Begin heads that tell classes at those of the other run, for the classes that both know; what to say of it."""
    ours, theirs = run.facts.classes, source.facts.classes
    both = {label: k for k, label in enumerate(theirs)}
    pairs = [(k, both[label]) for k, label in enumerate(ours) if label in both]
    if not pairs or run.config.data.target or source.config.data.target or run.forecasts or source.forecasts:
        return ""
    here, there = (list(column) for column in zip(*pairs, strict=True))
    taken = False
    for name in run.model.heads.keys() & source.model.heads.keys():
        head = run.model.head(name)
        old, new = source.model.head(name).state_dict(), head.state_dict()
        if old.keys() != new.keys() or any(old[key].shape[1:] != new[key].shape[1:] for key in new):
            continue
        given = head.given if isinstance(head, Words) else {}
        for key, value in new.items():
            if given.get(key) is not None:
                continue
            if (len(old[key]), len(value)) == (len(theirs), len(ours)):
                value[here] = old[key][there]
            elif old[key].shape == value.shape:
                value.copy_(old[key])
        taken = True
    return f"; {len(pairs)} of {len(ours)} classes of the head" if taken else ""


def take_tower(run: Run, source: Run, tower: str, name: str) -> list[str]:
    """Load into a tower of a run those parts of the other run's that are of its form; their names."""
    mine, theirs = run.modalities[tower], source.modalities[tower]
    if mine.kind == "table" and column_of(tower, mine) != column_of(tower, theirs):
        columns = ", ".join(column_of(tower, theirs))
        raise BadInput(f"stages: modalities.{tower} of {name} reads other columns, in this order: {columns}")
    taken = []
    for part in PARTS:
        old, new = (each.model.tower(tower).get_submodule(part) for each in (source, run))
        if part == "encoder" and not _fits(old, new):
            raise BadInput(
                f"stages: the encoder of modalities.{tower} ({mine.encoder}) is not of the form that {name} has "
                f"({theirs.encoder}): give it the same options"
            )
        if _fits(old, new) and (part == "encoder" or new.state_dict()):
            new.load_state_dict(old.state_dict())
            taken.append(f"{tower}.{part}")
    return taken


@torch.no_grad()
def start_predictor(run: Run, train: Manifest) -> None:
    """Begin the predictor at the ridge regression on the embeddings that were taken over.

    Contrastive embeddings are so ill-conditioned that descent alone needs many epochs to find what the linear
    algebra finds at once; and fine-tuning from a fitted head distorts the encoder less (Kumar et al. 2022, arXiv
    2202.10054). The strength is chosen by leave-one-out error on the training rows. Embeddings are taken with the
    dropout of training, several times where rows are few: a head fitted without it may answer it with errors at once.
    """
    data = run.config.data
    some = train.take(np.arange(0, len(train), max(1, len(train) // RIDGE_ROWS)))
    device = pick_device(run.config.train.device)
    model = run.model.train().to(device)
    noisy = False
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
        noisy = noisy or (isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0)
    passes = max(1, -(-NOISY_ROWS // len(some))) if noisy else 1
    rows = BatchDataset(
        some,
        run.modalities,
        target=data.target,
        forecasts=run.forecasts,
        on_bad="skip",
        cache="memory" if passes > 1 else None,
    )
    if data.cache == "memory":
        use_frozen_features(run, rows)
    heads = model.linear_heads()
    targets, pooled, there = [], [[] for _ in heads], [[] for _ in heads]  # type: ignore[var-annotated]
    for _ in range(passes):
        for batch in batches(rows, once(len(rows), 256), run.config.train.workers):
            moved = batch.to(device)
            z = model(moved.inputs, moved.present)
            targets.append(batch.targets)
            for place, (names, _) in enumerate(heads):
                pooled[place].append(model.pooled(z, moved.present, names).cpu())
                there[place].append(torch.stack([batch.present[name] for name in names]).any(0))
    y = torch.cat(targets).double()
    scaled = (y - model.get_buffer("target_mean").cpu()) / model.get_buffer("target_scale").cpu()
    for (_, linear), parts, here in zip(heads, pooled, there, strict=True):
        known = y.isfinite().all(1) & torch.cat(here)
        if known.any():
            weight, bias = ridge(torch.cat(parts).double()[known].numpy(), scaled[known].numpy(), passes)
            linear.weight.copy_(torch.from_numpy(weight))
            linear.bias.copy_(torch.from_numpy(bias))


def ridge(x: Floats, y: Floats, passes: int) -> tuple[Floats, Floats]:
    """Weights `[K, D]` and bias `[K]` of ridge regression from `x` `[passes N, D]` on `y` `[passes N, K]`.

    The rows come in as many passes, each in the same order; the first one alone chooses the strength, for whoever
    leaves one copy of a row out has seen the others.
    """
    from sklearn.linear_model import Ridge, RidgeCV
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x)
    scaled, count = scaler.transform(x), len(x) // passes
    fitted = RidgeCV(STRENGTHS).fit(scaled[:count], y[:count])
    if passes > 1:
        fitted = Ridge(fitted.alpha_ * passes).fit(scaled, y)
    weight = np.atleast_2d(fitted.coef_) / scaler.scale_
    return weight, np.atleast_1d(fitted.intercept_) - weight @ scaler.mean_


def _fits(old: nn.Module, new: nn.Module) -> bool:
    """Whether two modules hold tensors of the same names and shapes."""
    shapes = [{name: value.shape for name, value in module.state_dict().items()} for module in (old, new)]
    return shapes[0] == shapes[1]
