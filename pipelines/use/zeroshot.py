"""Zero-shot classification: items of any modality against words, by the angle in the shared space."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clx.losses.base import Embeddings
from clx.modalities.base import CellError
from clx.modalities.openclip import open_clip_scale, open_clip_width
from clx.modalities.text import Text
from clx.pipelines.batches.cells import collate, read_cell
from clx.pipelines.config.options import options_of
from clx.pipelines.config.schema import Config
from clx.pipelines.model.build import Facts, Run, build
from clx.pipelines.model.towers import fingerprint
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.runs.folder import near_run
from clx.pipelines.system.devices import Turns, pick_device
from clx.pipelines.system.errors import BadInput, in_memory
from clx.pipelines.system.read_ahead import ahead, default_workers
from clx.pipelines.use.inputs import Item
from clx.pipelines.use.labels import cached
from clx.pipelines.use.temperature_fit import Scale, load_fits


def text_modality(run: Run, asked: str | None = None) -> str:
    """The modality that reads the labels: the one asked for, else the first that reads text. Raises `BadInput`."""
    names = [name for name, modality in run.modalities.items() if modality.kind == "text" and not modality.pair]
    if not names:
        raise BadInput(f"zero-shot needs a text modality; this run has {', '.join(run.modalities)}")
    if asked is not None and asked not in names:
        raise BadInput(f"labels cannot be read as {asked!r}; the run's text modalities are {', '.join(names)}")
    return asked or names[0]


@torch.no_grad()
def embed(run: Run, name: str, samples: Sequence[Any], batch_size: int = 256) -> Tensor:
    """Embeddings `[N, D]` of read samples of one modality, float32 on the CPU."""
    modality, device = run.modalities[name], run.device
    found = []
    for start in range(0, len(samples), batch_size):
        value = collate(modality, samples[start : start + batch_size])
        found.append(run.model.towers[name]({k: v.to(device) for k, v in value.items()}).float().cpu())
    return torch.cat(found)


def class_embeddings(
    run: Run,
    phrasings: Mapping[str, Sequence[str]],
    templates: Sequence[str] = (),
    text: str | None = None,
    cache: bool = False,
) -> Tensor:
    """One unit row per class `[C, D]`: the mean of the unit embeddings of all its phrasings in all templates.

    `templates` hold `{}` where the class goes; the run's own are used when none are given. With `cache` the rows
    are kept on disk, for the same weights, phrasings and templates.
    """
    text = text_modality(run, text)
    modality = run.modalities[text]
    assert isinstance(modality, Text)
    samples, owners = [], []
    for number, (name, phrases) in enumerate(phrasings.items()):
        for phrase in phrases:
            try:
                prompts = modality.prompts(phrase, templates)
            except CellError as error:
                raise BadInput(f"label {name!r}: {error}") from None
            samples += prompts
            owners += [number] * len(prompts)

    def make() -> Tensor:
        rows = F.normalize(embed(run, text, samples), dim=-1)
        sums = rows.new_zeros(len(phrasings), rows.shape[1]).index_add(0, torch.tensor(owners), rows)
        return F.normalize(sums, dim=-1)

    if not cache:
        return make()
    key = {
        "weights": fingerprint(run.model.towers[text]),
        "modality": {name: repr(value) for name, value in options_of(modality).items()},
        "texts": [[owner, str(sample)] for owner, sample in zip(owners, samples, strict=True)],
        "device": run.device.type,
        "torch": torch.__version__,
    }
    return cached(key, make)


def alone_and_together(names: list[str]) -> list[list[str]]:
    """Each modality alone, and all together when there are several."""
    return [[name] for name in names] + ([names] if len(names) > 1 else [])


def queries(run: Run, z: Embeddings, present: dict[str, Tensor], candidate: str) -> Tensor:
    """Rows `[B, D]` whose dot product with a unit row of the modality `candidate` is their score.

    `z` and `present` hold the modalities to ask with; the others count as absent. Asked with the candidate's own
    modality alone, a row is its unit embedding.
    """
    if set(z) == {candidate}:
        return F.normalize(z[candidate].float(), dim=-1).cpu()
    first = next(iter(z.values()))
    nowhere = torch.zeros(len(first), dtype=torch.bool, device=first.device)
    others = [name for name in run.modalities if name != candidate]
    full = {name: z.get(name, torch.zeros_like(first)) for name in others}
    return run.objective.leading.fuse(full, {name: present.get(name, nowhere) for name in others}).float().cpu()


def native_scale(run: Run, multi_label: bool = False) -> Scale:
    """The leading loss's own temperature and bias; 0.07 (where CLIP starts) for a loss that has no temperature."""
    leading = run.objective.leading
    tau, bias = getattr(leading, "tau", 0.07), getattr(leading, "logit_bias", getattr(leading, "bias", None))
    temperature = tau.item() if isinstance(tau, Tensor) else float(tau)
    if bias is not None:
        return Scale("sigmoid", temperature, bias.item() if isinstance(bias, Tensor) else float(bias))
    return Scale("lift" if multi_label else "softmax", temperature)


@dataclass
class Question:
    """What items are asked: which of these labels."""

    names: list[str]
    rows: Tensor
    """`[C, D]`, unit."""
    text: str
    """The text modality that read the labels."""
    scale: Scale
    """How scores become probabilities."""
    fits: Mapping[str, Scale] = field(default_factory=dict)
    """The same by input (`image`, `image+audio`) where it was calibrated."""
    threshold: float | None = None
    """With it several labels may apply: those whose probability is at least this."""


def ask(
    run: Run,
    phrasings: Mapping[str, Sequence[str]],
    templates: Sequence[str],
    text: str | None,
    *,
    multi_label: bool = False,
    threshold: float | None = None,
    temperature: float | None = None,
    folder: Path | None = None,
    say: Callable[[str], None],
) -> Question:
    """The question which of these labels an item is, or with `multi_label` which of them apply to it.

    `temperature` overrides the one that was calibrated and kept in the run's `folder`, which overrides the model's.
    """
    text = text_modality(run, text)
    scale, fits = native_scale(run, multi_label), {}
    if temperature is not None:
        scale = replace(scale, temperature=temperature)
    elif folder is not None and (folder / "calibration.json").exists():
        kinds = ("softmax",) if scale.kind == "softmax" else ("sigmoid",)
        kept = load_fits(folder, fingerprint(run.model))
        fits = {name: one.scale for name, each in kept.items() for one in each if one.kind in kinds}
        shown = ", ".join(f"{name} {one.temperature:.4g}" for name, one in fits.items())
        say(f"calibrated temperatures: {shown}" if fits else f"{folder}/calibration.json does not fit: not used")
    if multi_label and threshold is None:
        threshold = 0.5
    if scale.kind == "lift" and len(phrasings) < 2 and not fits:
        raise BadInput("this model weighs labels against each other: give several, or --calibrate it first")
    rows = class_embeddings(run, phrasings, templates, text, cache=True)
    return Question(list(phrasings), rows, text, scale, fits, threshold)


@dataclass
class Result:
    """One classified item."""

    item: str
    modalities: list[str]
    """What it was classified by."""
    scores: list[tuple[str, float]]
    """Labels with their probabilities, best first."""
    applies: list[str] | None = None
    """Where several labels may apply: those that do, best first."""


def read_items(run: Run, items: Iterable[Item]) -> list[Item]:
    """The items with their cells read, or with the reason why one of them cannot be."""

    def read(name: str, given: dict[str, Any] | str) -> Item:
        if isinstance(given, str):
            return name, given
        try:
            return name, {m: read_cell(run.modalities[m], cell) for m, cell in given.items()}
        except CellError as error:
            return name, str(error)

    return [read(*item) for item in items]


def classify(
    run: Run,
    items: Iterable[Item],
    question: Question,
    top: int = 5,
    batch_size: int = 64,
    workers: int | None = None,
) -> Generator[Result | tuple[str, str], None, None]:
    """Classify items, in order, as they come; the first answer does not wait for a whole batch.

    Yields a `Result`, or `(name, reason)` for an item that cannot be read.
    """
    workers = workers or default_workers()
    short = f"with {batch_size} items at a time for each of {workers} workers: --batch-size and --workers take fewer"

    def work(group: list[Item]) -> list[Result | tuple[str, str]]:
        read = read_items(run, group)
        with turn(alone=len(group) == 1), in_memory(lambda: short):
            return list(_classify(run, read, question, top))

    with Turns(run.device, workers) as turn, closing(ahead(items, work, batch_size, workers)) as groups:
        for group in groups:
            yield from group


def _classify(run: Run, group: Sequence[Item], question: Question, top: int) -> Iterator[Result | tuple[str, str]]:
    alike: dict[tuple[str, ...], list[int]] = {}  # items given by the same modalities
    for k, (_, read) in enumerate(group):
        if isinstance(read, dict):
            alike.setdefault(tuple(name for name in run.modalities if name in read), []).append(k)
    results: dict[int, Result] = {}
    names = question.names
    for by, members in alike.items():
        z, present = embed_items(run, [group[k][1] for k in members])  # type: ignore[misc]
        scores = queries(run, z, present, question.text) @ question.rows.T
        chances = question.fits.get("+".join(by), question.scale).probabilities(scores)
        shown = min(top, len(names)) if question.threshold is None else len(names)
        best = chances.topk(shown)
        for k, places, values in zip(members, best.indices.tolist(), best.values.tolist(), strict=True):
            ranked = [(names[place], p) for place, p in zip(places, values, strict=True)]
            applies = None
            if question.threshold is not None:
                applies = [label for label, p in ranked if p >= question.threshold]
            results[k] = Result(group[k][0], list(by), ranked[:top], applies)
    for k, (name, read) in enumerate(group):
        yield (name, read) if isinstance(read, str) else results[k]


def embed_items(run: Run, items: Sequence[dict[str, Any]]) -> tuple[Embeddings, dict[str, Tensor]]:
    """Embeddings and presence of items that may have different modalities each."""
    z: Embeddings = {}
    present: dict[str, Tensor] = {}
    for name in run.modalities:
        here = torch.tensor([name in item for item in items])
        if here.any():
            rows = embed(run, name, [item[name] for item in items if name in item])
            full = rows.new_zeros(len(items), rows.shape[1])
            full[here] = rows
            z[name], present[name] = full, here
    device = run.device
    return {k: v.to(device) for k, v in z.items()}, {k: v.to(device) for k, v in present.items()}


def open_clip_run(model: str, pretrained: str, device: torch.device) -> Run:
    """An OpenCLIP model as a run: both towers without heads, its own temperature."""
    name = model.removeprefix("open_clip:")
    try:
        tau, bias, width = *open_clip_scale(name, pretrained), open_clip_width(name)
    except ValueError as error:
        raise BadInput(str(error)) from None
    tower = {"encoder": f"open_clip:{name}", "pretrained": pretrained, "head": "none", "freeze": True}
    # fixed: a scale of 100 in float32 stands a hair outside the range in which a temperature is learned
    objective: dict[str, Any] = {"name": "clip", "temperature": tau, "learn_temperature": False}
    if bias is not None:
        objective |= {"name": "siglip", "bias": bias, "learn_bias": False}
    config = Config.model_validate(
        {
            "data": {"train": ""},
            "modalities": {"image": tower, "text": tower},
            "embed_dim": width,
            "objective": objective,
        }
    )
    run = build(config, Facts({}, [], [], []))
    run.model.eval().to(device)
    return run


def open_model(model: str, pretrained: str | None, checkpoint: str, device: str) -> Run:
    """A run folder, or an OpenCLIP model by name. Raises `BadInput`."""
    if Path(model).is_dir():
        if pretrained:
            raise BadInput(f"--pretrained goes with an OpenCLIP model name, and {model} is a run folder")
        return load(Path(model), checkpoint, pick_device(device))
    if not pretrained:
        hint = near_run(Path(model))
        raise BadInput(f"{model} is no run folder{hint}; an OpenCLIP model also needs --pretrained TAG or FILE")
    return open_clip_run(model, pretrained, pick_device(device))
