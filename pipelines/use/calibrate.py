"""The temperature of zero-shot probabilities, fitted on labelled rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from clx.losses.base import Embeddings
from clx.modalities.numbers import class_name
from clx.pipelines.data.label_sets import absent_column, labels_in
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.model.build import Run
from clx.pipelines.model.scoring import (
    alone_and_together,
    class_embeddings,
    embed_items,
    native_scale,
    of_classes,
    queries,
)
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.read_ahead import default_workers, read_ahead
from clx.pipelines.use.calibration_rows import calibration_rows
from clx.pipelines.use.inputs import Inputs, Item, read_items
from clx.pipelines.use.question import Question
from clx.pipelines.use.temperature_fit import Fit, fit, unfitted


def calibrate_on(
    inputs: Inputs,
    source: str,
    phrasings: Mapping[str, Sequence[str]],
    templates: Sequence[str],
    *,
    label: str | None = None,
    multi_label: bool = False,
    workers: int | None = None,
    say: Callable[[str], None],
) -> dict[str, Fit]:
    """Fit the scale on the rows of a manifest or built-in data: see `calibration_rows`.

    The labels are those of `phrasings`, else all that stand in the column `label`. Rows with another label are left
    out, and those of which some of these labels are not known. A cell may hold several, as a list or divided by the
    run's `data.several`; with `multi_label` also by `|` where the run does not say, and none of them may be known.
    Without it rows with several of the labels are left out. Where a fit makes rows less likely, the scale stays.
    """
    run, text = inputs.run, inputs.text
    data = run.config.data.model_copy(update={"allow_outside": inputs.allow_outside})
    manifest = calibration_rows(run, data, source, inputs.split, say)
    column = label or run.config.data.label_column or "label"
    stated = _labels(manifest, column, run.config.data.several, multi_label, say)
    if not phrasings:
        phrasings = {name: [name] for name in sorted({name for names in stated for name in names or []})}
    if len(phrasings) < 2 and not multi_label:
        raise BadInput(f"{manifest.name}: column {column!r} has fewer than two labels to tell apart")
    known = {class_name(name) or name: name for name in phrasings}
    absent = absent_column(run.config.data, manifest) if column == run.config.data.label_column else None
    others = [None] * len(stated) if absent is None else [labels_in(cell, None) for cell in manifest.column(absent)]
    truth: list[set[str] | None] = []
    for names, absent_names in zip(stated, others, strict=True):
        applying = {known[name] for name in names or [] if name in known}
        usable_row = names is not None and (len(applying) == 1 or multi_label)
        told = absent is None or {*known} <= {*(names or []), *(absent_names or [])}
        truth.append(applying if usable_row and told else None)
    usable = inputs.usable(manifest)
    if not usable:
        raise BadInput(
            f"{manifest.name} has no column that this run reads; its columns are {', '.join(manifest.columns)}"
        )
    left = sum(one is None for one in truth)
    if left:
        or_several = "" if multi_label else ", or several"
        or_several += "" if absent is None else ", or not all of them are known"
        say(f"{left} of {len(truth)} rows left out: they have none of these labels{or_several}")
    rows = class_embeddings(run, phrasings, templates, text, cache=True)
    scale = native_scale(run, multi_label)
    if scale.kind == "lift" and len(phrasings) < 2:  # there are no others to weigh it against
        scale = replace(scale, kind="sigmoid")
    question = Question(list(phrasings), rows, str(text), scale)
    fits, bad = calibrate(run, replace(inputs, split=None).of_rows(manifest, usable), truth, question, workers)
    for name, reason in bad:
        say(f"left out {name}: {reason}")
    if worse := {name: one for name, one in fits.items() if not one.betters}:
        say(staying(worse))
    return fits | {name: unfitted(one, question.scale) for name, one in worse.items()}


def _labels(
    manifest: Manifest, column: str, several: str | Literal[False] | None, multi_label: bool, say: Callable[[str], None]
) -> list[list[str] | None]:
    """The labels of each row, None where nothing is known; says so where they are divided by what nobody named."""
    cells = manifest.column(column)
    divider = several
    if several is None and multi_label:
        divider = "|"
        divided = sum(isinstance(cell, str) and "|" in cell for cell in cells)
        if divided:
            say(f"column {column!r}: {divided} cells are divided at '|' into several labels")
    return [labels_in(cell, divider) for cell in cells]


def staying(worse: Mapping[str, Fit]) -> str:
    """What to say of inputs of which a fit makes the rows less likely than they were."""
    told = "; ".join(f"{name} {one.nll[0]:.3g} before, {one.nll[1]:.3g} after" for name, one in worse.items())
    rows = max(one.rows for one in worse.values())
    return (
        f"the temperature stays the model's for {', '.join(worse)}: a fit on {rows} rows would make them less likely "
        f"(nll of {told}), since they cannot bear out how sure the model is; take more rows"
    )


def calibrate(
    run: Run,
    items: Iterable[Item],
    truth: Sequence[set[str] | None],
    question: Question,
    workers: int | None = None,
) -> tuple[dict[str, Fit], list[tuple[str, str]]]:
    """Fit the scale of each input alone, and of all together, on labelled items.

    `truth[i]` are the labels that apply to item i: exactly one for softmax; None leaves the item out. Gives the
    fits by input, and the items that could not be used with their reasons.
    """
    number = {name: k for k, name in enumerate(question.names)}
    parts: list[tuple[Embeddings, dict[str, Tensor]]] = []
    targets: list[Tensor] = []
    bad: list[tuple[str, str]] = []
    labels = iter(truth)
    with closing(read_ahead(items, partial(read_items, run), 64, workers or default_workers())) as groups:
        for group in groups:
            kept = []
            for (name, read), applies in zip(group, labels, strict=False):
                if isinstance(read, str):
                    bad.append((name, read))
                elif applies is not None:
                    kept.append(read)
                    targets.append(torch.zeros(len(number), dtype=torch.bool))
                    targets[-1][[number[label] for label in applies]] = True
            if kept:
                parts.append(embed_items(run, kept))
    if not parts:
        raise BadInput("no row has both a label among those given and an input to classify")
    names = [name for name in run.modalities if any(name in z for z, _ in parts)]
    z = {name: torch.cat([_column(part, name) for part, _ in parts]) for name in names}
    present = {name: torch.cat([_presence(part, here, name) for part, here in parts]) for name in names}
    right = torch.stack(targets)
    fits = {}
    for by in alone_and_together(names):
        here = torch.stack([present[name] for name in by]).all(0)
        if here.any():
            some = {name: z[name][here] for name in by}
            asked = queries(run, some, {name: present[name][here] for name in by}, question.text)
            scores = of_classes(run, asked, question.text) @ question.rows.T
            fits["+".join(by)] = fit(scores, right[here.cpu()], question.scale)
    return fits, bad


def _column(z: Embeddings, name: str) -> Tensor:
    return z[name] if name in z else torch.zeros_like(next(iter(z.values())))


def _presence(z: Embeddings, present: dict[str, Tensor], name: str) -> Tensor:
    first = next(iter(present.values()))
    return present[name] if name in z else torch.zeros_like(first)
