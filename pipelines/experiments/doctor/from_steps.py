"""What a few batches say through a run's newest weights: whether partners matter to the loss, which input carries it,
what has a gradient, how far the weights have come, and whether embeddings have collapsed."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from clx.losses.base import Loss
from clx.pipelines.batches.batch import Batch
from clx.pipelines.batches.loader import batches, once
from clx.pipelines.experiments.doctor.chance import Chance, blind, chance_of
from clx.pipelines.experiments.doctor.opened import Opened
from clx.pipelines.model.build import build
from clx.pipelines.model.towers import modality_of
from clx.pipelines.system.doctor import Row, row
from clx.pipelines.training.health import PATIENCE, Health

BATCHES, SHUFFLES = 3, 2
LEARNED = 0.02
"""Share of the loss that must be lost when partners and answers are shuffled, or nothing was learned."""
ENOUGH, WELL = 0.05, 0.1
"""The same share, from which on other rows are asked, and from which on weights that grew did so to some use."""
KEPT = 0.25
"""Share of what was learned of training rows that other rows must show."""
CARRIES = 0.005
"""Share of what the strongest input carries, below which another carries nothing."""
STILL, GREW, SHRANK = 0.01, 5.0, 0.5
"""Distance from the first weights by their size, and growth, beyond which the rate, or the decay, is not right."""


@dataclass
class Shuffled:
    """The loss of some batches, as they are and with the rows of inputs shuffled."""

    plain: float
    shuffled: float

    @property
    def learned(self) -> float:
        """The share of the loss that is owed to rows standing beside their own partners and answers."""
        return (self.shuffled - self.plain) / max(abs(self.shuffled), abs(self.plain), 1e-12)


def step_rows(opened: Opened) -> Iterator[Row]:
    """Findings from a few batches."""
    training = training_batches(opened)
    seen = shuffled(opened, training)
    yield from learns(opened, training, seen)
    yield from apart(opened, seen)
    yield from carried(opened, training)
    yield from still(opened, training)
    yield from gradients(opened, training)
    yield from moved(opened, seen)
    yield from collapsed(opened, training)


def training_batches(opened: Opened) -> list[Batch]:
    """The first batches of the run, as they were trained on."""
    opened.learner.step = 0
    return [batch.to(opened.learner.device) for batch in islice(opened.trainer.batches(), BATCHES)]


def held_out_batches(opened: Opened) -> list[Batch]:
    """Some of the rows that a run validates on."""
    data, train = opened.trainer.val, opened.config.train
    if data is None:
        return []
    keys = once(len(data), train.batch_size, train.seed)[:BATCHES]
    keys = [key for key in keys if len(key.rows) >= min(8, len(data))]
    return [batch.to(opened.learner.device) for batch in batches(data, keys)]


@torch.no_grad()
def shuffled(opened: Opened, rows: list[Batch], names: set[str] | None = None) -> Shuffled:
    """The loss of batches, and with the inputs of these modalities, or all, shuffled each by itself."""
    model, objective = opened.learner.used
    model.eval(), objective.eval()
    draw = torch.Generator().manual_seed(0)
    plain, other = list[float](), list[float]()
    for number, batch in enumerate(rows):
        plain.append(opened.learner.contrast(batch, model, objective, number).loss.item())
        for _ in range(SHUFFLES):
            mixed = shuffle(batch, draw, names)
            other.append(opened.learner.contrast(mixed, model, objective, number).loss.item())
    return Shuffled(sum(plain) / max(1, len(plain)), sum(other) / max(1, len(other)))


def shuffle(batch: Batch, draw: torch.Generator, names: set[str] | None) -> Batch:
    """The batch with the present rows of inputs in another order, each view in its own."""
    inputs = {}
    for name, value in batch.inputs.items():
        if names is not None and modality_of(name) not in names:
            inputs[name] = value
            continue
        size = int(batch.present[name].sum())
        order = torch.randperm(size, generator=draw).to(batch.sample_id.device)
        inputs[name] = {key: each[order] if len(each) == size else each for key, each in value.items()}
    return replace(batch, inputs=inputs)


def learns(opened: Opened, training: list[Batch], seen: Shuffled) -> Iterator[Row]:
    """Whether it matters to the loss who stands beside whom."""
    chance = chance_of(opened, len(training[0]) if training else 0)
    said = f"on training rows {seen.plain:.4g}, and {seen.shuffled:.4g} when partners and answers are shuffled"
    said += f" ({chance.said})" if chance else ""
    if not math.isfinite(seen.plain):
        yield row(
            "learning", f"the loss of training rows is {seen.plain}", "problem", "a checkpoint before; a lower rate"
        )
    elif seen.learned < LEARNED:
        yield row("learning", f"{said}: nothing was learned", "problem", f"clx doctor {opened.out} --lr-range")
    elif chance and (other := guessed(opened, training, seen, chance)):
        advice = (
            f"clx doctor {opened.out} --lr-range; more steps; labels that do not follow from the inputs look so, too"
        )
        yield row("learning", f"{said}, {other}: no more than a guess", "problem", advice)
    else:
        yield row("learning", said)


def guessed(opened: Opened, training: list[Batch], seen: Shuffled, chance: Chance) -> str | None:
    """The loss of val rows, in words, where a run that tells classes does no better than chance on them, and little
    better on training rows; answers that these were known by heart for are another finding."""
    if chance.shares is None or seen.plain < (1 - WELL) * blind(chance.shares, training):
        return None
    if not (rows := held_out_batches(opened)):
        return None
    other, bound = shuffled(opened, rows), blind(chance.shares, rows)
    if other.plain > (1 - LEARNED) * bound and other.learned < ENOUGH:
        return f"on val rows {other.plain:.4g}, where chance is {bound:.3g}"
    return None


def apart(opened: Opened, seen: Shuffled) -> Iterator[Row]:
    """Whether rows that were not trained on show what was learned."""
    rows = held_out_batches(opened)
    if not rows or seen.learned < ENOUGH:
        return
    other = shuffled(opened, rows)
    said = (
        f"shuffling costs {seen.shuffled - seen.plain:.3g} on training rows (of {seen.shuffled:.3g}) and "
        f"{other.shuffled - other.plain:.3g} on val rows (of {other.shuffled:.3g})"
    )
    if other.learned < KEPT * seen.learned:
        advice = (
            "training rows are known by heart, or val rows are of another kind, or their partners are not right: "
            "-s train.patience=5, stronger augmentation, clx data check"
        )
        yield row("train and val", f"apart: {said}", "problem", advice)
    else:
        yield row("train and val", said)


def carried(opened: Opened, training: list[Batch]) -> Iterator[Row]:
    """Which inputs the loss owes something to, where several carry it together."""
    names = {modality_of(name) for batch in training for name in batch.inputs} - opened.config.only_negatives
    heads = {n for each in opened.run.model.heads.values() for n in each}
    if len(names) < 2 or (len(names) < 3 and len(heads) < 2):
        return
    costs = {}
    for name in sorted(names):
        found = shuffled(opened, training, {name})
        costs[name] = found.shuffled - found.plain
    most = max(costs.values())
    said = "shuffling costs " + ", ".join(f"{cost:.3g} of {name}" for name, cost in costs.items())
    idle = [name for name, cost in costs.items() if cost < CARRIES * most]
    if idle and most > 0:
        strongest = max(costs, key=lambda name: costs[name])
        advice = f"-s modalities.{strongest}.drop=0.3 makes the others learn; or leave {', '.join(idle)} out"
        yield row("carried by", f"{said}: {', '.join(idle)} carries nothing", "problem", advice)
    else:
        yield row("carried by", said)


def still(opened: Opened, training: list[Batch]) -> Iterator[Row]:
    """Inputs whose tensors are the same in all rows."""
    for name in {name: 0 for batch in training for name in batch.inputs}:
        parts = [batch.inputs[name] for batch in training if name in batch.inputs]
        if all(constant(each) for value in parts for each in value.values()):
            said = f"modalities.{modality_of(name)}: what the encoder is given is the same for all rows of a batch"
            yield row(
                "inputs", said, "problem", f"clx data check --config {opened.out}/config.yaml; its column, its size"
            )


def constant(each: Tensor) -> bool:
    return len(each) > 1 and bool((each == each[:1]).all() | (each != each).all())


def gradients(opened: Opened, training: list[Batch]) -> Iterator[Row]:
    """Heads and encoders that learn, but that no gradient reaches."""
    learner = opened.learner
    largest = {name: 0.0 for name, part in learner.both.named_parameters() if part.requires_grad}
    for k, batch in enumerate(training):
        learner.model.train(), learner.objective.train()
        learner.step = learner.length.reach((k + 0.5) / len(training))
        learner.buffers.keep()
        for remembering in learner.objective.remembering():
            remembering.begin_step()
        learner.gradients(batch)
        for name, part in learner.both.named_parameters():
            if part.grad is not None:
                largest[name] = max(largest[name], float(part.grad.abs().max()))
        learner.buffers.restore()
    learner.optimizer.zero_grad(set_to_none=True)
    for tower in opened.run.model.towers:
        for which in ("encoder", "head"):
            own = [value for name, value in largest.items() if name.startswith(f"model.towers.{tower}.{which}.")]
            if own and max(own) == 0:
                said = f"{which} of {tower}: its weights learn, and none has a gradient"
                advice = f"add {tower} to the inputs of a term of the objective, or leave modalities.{tower} out"
                yield row("gradient", said, "problem", advice)
    if not any(name.startswith("model.") for name in largest):
        advice = "-s modalities.NAME.freeze=false, or a head: -s modalities.NAME.head=linear"
        yield row("gradient", "nothing in the model learns: all of it is frozen", "problem", advice)
    elif largest:
        name = max(largest, key=lambda each: largest[each])
        yield row("gradient", f"the largest is {largest[name]:.3g}, by {name.removeprefix('model.towers.')}")


def moved(opened: Opened, seen: Shuffled) -> Iterator[Row]:
    """How far the weights have come from those that the run began with, which its seed makes again."""
    config, run = opened.config, opened.run
    if config.stages or any(":" in str(m.encoder) for m in run.modalities.values()) or opened.step == 0:
        return
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        first = dict(build(config, run.facts, load=False).model.named_parameters())
    used = opened.learner.model
    now = {n: p.detach().cpu() for n, p in used.named_parameters() if p.requires_grad and p.dim() > 1}
    if not now:
        return
    size = math.sqrt(sum(float(first[n].detach().double().square().sum()) for n in now))
    way = math.sqrt(sum(float((p - first[n].detach()).double().square().sum()) for n, p in now.items()))
    end = math.sqrt(sum(float(p.double().square().sum()) for p in now.values()))
    said = (
        f"after {opened.step} steps weights differ from the first ones by {100 * way / size:.3g} % of their size, "
        f"which is {end / size:.3g} times what it was"
    )
    rate = config.train.lr
    ranged, at = f"clx doctor {opened.out} --lr-range", f"; the rate is {rate:g}"
    if way / size < STILL:
        yield row("rate", f"hardly moved: {said}{at}", "problem", f"-s train.lr={rate * 100:.3g} or so; {ranged}")
    elif end / size > GREW and seen.learned < WELL:
        yield row("rate", f"grown to no use: {said}{at}", "problem", f"-s train.lr={rate / 10:g}; {ranged}")
    elif end / size < SHRANK and config.train.weight_decay > 0.3:
        said += f"; train.weight_decay is {config.train.weight_decay:g}"
        yield row("weight decay", said, "problem", "-s train.weight_decay=0.05")
    else:
        yield row("rate", said)


@torch.no_grad()
def collapsed(opened: Opened, training: list[Batch]) -> Iterator[Row]:
    """Whether embeddings of different rows are all but equal, or lie on a line."""
    model, objective = opened.learner.used
    model.eval(), objective.eval()
    found = [opened.learner.contrast(batch, model, objective, k).embeddings for k, batch in enumerate(training)]
    z = {name: torch.cat([each[name] for each in found]) for name in (found[0] if found else {})}
    health, said = Health(0), list[str]()
    for _ in range(PATIENCE):
        figures, said = health.look(1, z, opened.trainer.places)
    leading = objective.leading
    assert isinstance(leading, Loss)
    if leading.family in ("supervised heads", "regression"):  # numbers to predict may lie on a line
        said = [text for text in said if "all but constant" in text]
    for text in said:
        advice = "a lower train.lr, a loss with negatives or with variance (clx losses), a higher train.batch_size"
        yield row("collapse", text, "problem", advice)
    if not said and figures:
        yield row("collapse", ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))
