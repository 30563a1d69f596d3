"""A question to a model: which of these labels an item is, by the angle in the shared space; and its answers."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from clx.pipelines.model.build import Run
from clx.pipelines.model.fingerprint import fingerprint
from clx.pipelines.model.scoring import (
    Scale,
    class_embeddings,
    embed_items,
    native_scale,
    of_classes,
    queries,
    text_modality,
)
from clx.pipelines.system.devices import Turns
from clx.pipelines.system.errors import BadInput, explain_out_of_memory
from clx.pipelines.system.read_ahead import default_workers, read_ahead
from clx.pipelines.use.inputs import Item, Skipped, read_items
from clx.pipelines.use.temperature_fit import load_fits


@dataclass
class Question:
    """What items are asked: which of these labels."""

    names: list[str]
    rows: Tensor
    """`[C, D]`, as `class_embeddings` gives them."""
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
    elif folder is not None and not run.model.is_narrow and (folder / "calibration.json").exists():
        kinds = ("softmax",) if scale.kind == "softmax" else ("sigmoid",)
        kept = load_fits(folder, fingerprint(run.model))
        fits = {name: one.scale for name, each in kept.items() for one in each if one.kind in kinds}
        temperatures = ", ".join(f"{name} {one.temperature:.4g}" for name, one in fits.items())
        say(f"calibrated temperatures: {temperatures}" if fits else f"{folder}/calibration.json does not fit: not used")
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

    def as_json(self) -> dict[str, Any]:
        """The best label with its probability, `by` which modalities, and `top`: all that are shown."""
        best = [{"label": label, "probability": round(p, 6)} for label, p in self.scores]
        applies = {} if self.applies is None else {"labels": self.applies}
        return {"item": self.item, "by": "+".join(self.modalities), **best[0], **applies, "top": best}


def classify(
    run: Run,
    items: Iterable[Item],
    question: Question,
    top: int = 5,
    batch_size: int = 64,
    workers: int | None = None,
) -> Generator[Result | Skipped, None, None]:
    """Classify items, in order, as they come; the first answer does not wait for a whole batch.

    Yields a `Result`, or a `Skipped` for an item that cannot be read.
    """
    workers = workers or default_workers()
    short = f"with {batch_size} items at a time for each of {workers} workers: --batch-size and --workers take fewer"

    def work(group: list[Item]) -> list[Result | Skipped]:
        read = read_items(run, group)
        with turn(alone=len(group) == 1), explain_out_of_memory(lambda: short):
            return list(_classify(run, read, question, top))

    with Turns(run.device, workers) as turn, closing(read_ahead(items, work, batch_size, workers)) as groups:
        for group in groups:
            yield from group


def _classify(run: Run, group: Sequence[Item], question: Question, top: int) -> Iterator[Result | Skipped]:
    alike: dict[tuple[str, ...], list[int]] = {}  # items given by the same modalities
    for k, (_, read) in enumerate(group):
        if isinstance(read, dict):
            alike.setdefault(tuple(name for name in run.modalities if name in read), []).append(k)
    results: dict[int, Result] = {}
    names = question.names
    for by, members in alike.items():
        z, present = embed_items(run, [group[k][1] for k in members])  # type: ignore[misc]
        scores = of_classes(run, queries(run, z, present, question.text), question.text) @ question.rows.T
        chances = question.fits.get("+".join(by), question.scale).probabilities(scores)
        count = min(top, len(names)) if question.threshold is None else len(names)
        best = chances.topk(count)
        for k, places, values in zip(members, best.indices.tolist(), best.values.tolist(), strict=True):
            ranked = [(names[place], p) for place, p in zip(places, values, strict=True)]
            applies = None
            if question.threshold is not None:
                applies = [label for label, p in ranked if p >= question.threshold]
            results[k] = Result(group[k][0], list(by), ranked[:top], applies)
    for k, (name, read) in enumerate(group):
        yield Skipped(name, read) if isinstance(read, str) else results[k]
