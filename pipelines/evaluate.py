"""Evaluation of a run on a manifest: embeddings once, then every task on them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clx.losses.base import Embeddings
from clx.pipelines.batch import BadRow, Rows, batches, cell_of, columns_of, has_columns, once
from clx.pipelines.build import Run, check_columns, class_names
from clx.pipelines.checkpoint import load
from clx.pipelines.config import TASKS, BadInput
from clx.pipelines.device import pick_device
from clx.pipelines.manifest import Manifest, load_evaluation
from clx.pipelines.metrics import accuracies, first_answers, ranks, recall_at
from clx.pipelines.zeroshot import class_embeddings, device_of, queries, text_modality

SCHEMA = 1


@dataclass
class Embedded:
    """A manifest in the shared space, on the CPU."""

    z: Embeddings
    """`[N, D]` by modality, float32."""
    present: dict[str, Tensor]
    labels: Tensor
    """`[N]`, -1 for none, into `classes`."""
    classes: list[str]
    rows: Tensor
    """`[N]`: the manifest's rows, counted from 0, that could be read."""


Report = Callable[[list[BadRow]], None]


def nobody(bad: list[BadRow]) -> None:
    """Who does not care for bad rows."""


@torch.no_grad()
def embed_manifest(
    run: Run, manifest: Manifest, *, on_bad: Literal["fail", "skip"] = "fail", report: Report = nobody
) -> Embedded:
    """Embed every row without augmentation. `report` hears of bad rows, left out when `on_bad` is `skip`.

    Modalities whose columns the manifest lacks are missing in every row. Raises `BadInput` when none is there.
    """
    modalities = {name: m for name, m in run.modalities.items() if has_columns(manifest, name, m)}
    if not modalities:
        check_columns(run.config, run.modalities, manifest)
    label = run.config.data.label if run.config.data.label in manifest.columns else None
    known = run.facts.classes
    new = [name for name in (class_names(run.config, manifest) if label else []) if name not in known]
    classes = known + new
    data = Rows(manifest, modalities, label, {name: k for k, name in enumerate(classes)}, on_bad=on_bad)
    device = device_of(run)
    parts: list[tuple[Embeddings, dict[str, Tensor], Tensor]] = []
    bad: set[int] = set()

    def hear(found: list[BadRow]) -> None:
        bad.update(one.row for one in found)
        report(found)

    for batch in batches(data, once(len(data), 256), run.config.train.workers, report=hear):
        moved = batch.to(device)
        z = {k: v.float().cpu() for k, v in run.model(moved.inputs, moved.present).items()}
        parts.append((z, batch.present, batch.labels))
    if not parts:
        raise BadInput(f"{manifest.name}: no usable rows")
    names = list(modalities)
    return Embedded(
        {n: torch.cat([p[0][n] for p in parts]) for n in names},
        {n: torch.cat([p[1][n] for p in parts]) for n in names},
        torch.cat([p[2] for p in parts]),
        classes,
        torch.tensor([i for i in range(len(manifest)) if i not in bad]),
    )


def evaluate(
    run: Run,
    manifest: Manifest,
    tasks: Sequence[str],
    *,
    strict: bool = True,
    on_bad: Literal["fail", "skip"] = "fail",
    report: Report = nobody,
) -> dict[str, Any]:
    """Every task of `tasks` that the data allow, as one JSON object; `skipped` says why others were left out.

    Raises `BadInput` when `strict` and none is possible.
    """
    run.model.eval()
    embedded = embed_manifest(run, manifest, on_bad=on_bad, report=report)
    result: dict[str, Any] = {"schema": SCHEMA, "data": manifest.name, "rows": len(embedded.rows)}
    skipped = {}
    for task in tasks:
        try:
            result[task] = {"zeroshot": zeroshot, "retrieval": retrieval}[task](run, manifest, embedded)
        except Unfit as reason:
            skipped[task] = str(reason)
    if strict and len(skipped) == len(tasks):
        raise BadInput(f"{manifest.name}: {'; '.join(f'{t}: {r}' for t, r in skipped.items())}")
    return result | ({"skipped": skipped} if skipped else {})


class Unfit(Exception):
    """A task that these data or this model do not allow."""


def zeroshot(run: Run, manifest: Manifest, embedded: Embedded) -> dict[str, Any]:
    """Accuracy of each modality, and of all together, against the label's words."""
    if not run.config.data.label:
        raise Unfit("needs data.label, the column with the class")
    if run.config.data.label not in manifest.columns:
        raise Unfit(f"{manifest.name} has no column {run.config.data.label!r} with the class")
    try:
        text = text_modality(run)
    except BadInput as error:
        raise Unfit(str(error)) from None
    classes = class_embeddings(run, {name: [name] for name in embedded.classes})
    others = [name for name in embedded.z if name != text]
    groups = [[name] for name in others] + ([others] if len(others) > 1 else [])
    found = {}
    for group in groups:
        here = torch.stack([embedded.present[name] for name in group]).any(0) & (embedded.labels >= 0)
        if here.any():
            z = {name: embedded.z[name][here] for name in group}
            present = {name: embedded.present[name][here] for name in group}
            scores = queries(run, *_on_device(run, z, present), text) @ classes.T
            found["+".join(group)] = accuracies(scores, embedded.labels[here]) | {"rows": int(here.sum())}
    if not found:
        raise Unfit("no row has both a label and an input to classify")
    return {"classes": len(embedded.classes), **found}


def _on_device(run: Run, z: Embeddings, present: dict[str, Tensor]) -> tuple[Embeddings, dict[str, Tensor]]:
    device = device_of(run)
    return {k: v.to(device) for k, v in z.items()}, {k: v.to(device) for k, v in present.items()}


def retrieval(run: Run, manifest: Manifest, embedded: Embedded) -> dict[str, Any]:
    """Recall of the paired item for every ordered pair of modalities, and from all others together to each.

    Cells of equal content are one thing: it stands among the candidates once, and every partner of an equal
    query is right. `label@1`, where rows have labels, is the share of queries whose first answer has their label.
    """
    names = list(embedded.z)
    if len(names) < 2:
        raise Unfit(f"needs two modalities, the data have {names[0]}")
    things = {name: contents(run, manifest, embedded.rows, name) for name in names}
    found = {}
    for candidate in names:
        others = [name for name in names if name != candidate]
        for group in [[name] for name in others] + ([others] if len(others) > 1 else []):
            both = torch.stack([embedded.present[name] for name in (*group, candidate)]).all(0)
            if both.any():
                found[f"{'+'.join(group)}->{candidate}"] = _retrieve(run, embedded, things, both, group, candidate)
    if not found:
        raise Unfit("no row has two modalities")
    return found


def _retrieve(
    run: Run, embedded: Embedded, things: dict[str, Tensor], both: Tensor, group: list[str], candidate: str
) -> dict[str, Any]:
    """The figures of one direction over the rows where `both` `[N]` is True."""
    z = {name: embedded.z[name][both] for name in group}
    present = {name: embedded.present[name][both] for name in group}
    asked = queries(run, *_on_device(run, z, present), candidate)
    numbers = things[candidate][both].tolist()
    first: dict[int, int] = {}  # thing -> the first row that has it
    for row, thing in enumerate(numbers):
        first.setdefault(thing, row)
    place = {thing: k for k, thing in enumerate(first)}
    kept = torch.tensor(list(first.values()))
    answers = F.normalize(embedded.z[candidate][both][kept], dim=-1)
    same = torch.stack([things[name][both] for name in group], 1).tolist()
    right: dict[tuple[int, ...], set[int]] = {}  # query -> what it is paired with, in any row
    for query, thing in zip(same, numbers, strict=True):
        right.setdefault(tuple(query), set()).add(place[thing])
    line: dict[str, Any] = recall_at(ranks(asked, answers, [sorted(right[tuple(q)]) for q in same]), (1, 5, 10))
    labels = embedded.labels[both]
    if (known := labels >= 0).any():
        hits = labels[kept][first_answers(asked, answers)] == labels
        line["label@1"] = hits[known].double().mean().item()
    return line | {"queries": len(asked), "candidates": len(answers)}


def contents(run: Run, manifest: Manifest, rows: Tensor, name: str) -> Tensor:
    """A number per row `[N]`, the same for cells of equal content."""
    modality = run.modalities[name]
    columns = columns_of({name: modality})
    numbers: dict[Any, int] = {}
    found = []
    for i in rows.tolist():
        cell = cell_of(manifest.row(i, columns), name, modality, manifest)
        key = str(sorted(cell.items())) if isinstance(cell, dict) else cell
        if isinstance(cell, bytes):
            key = hashlib.blake2b(cell, digest_size=16).digest()
        elif isinstance(cell, np.ndarray | list):
            key = hashlib.blake2b(np.asarray(cell).tobytes(), digest_size=16).digest()
        found.append(numbers.setdefault(key, len(numbers)))
    return torch.tensor(found)


def tables(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """An evaluation as flat rows by task, one per input."""
    return {
        task: [{"task": task, "input": name, **line} for name, line in result[task].items() if isinstance(line, dict)]
        for task in TASKS
        if task in result
    }


def evaluate_run(
    folder: Path,
    tasks: Sequence[str],
    *,
    data: str | None = None,
    split: str | None = None,
    checkpoint: str = "best",
    device: str = "auto",
    skip_bad: bool = False,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Load a run and evaluate it on a split of its own data, or of another source of rows."""
    run = load(folder, checkpoint, pick_device(device))
    name, manifest = load_evaluation(run.config.data, run.config.train.seed, data, split)

    def report(bad: list[BadRow]) -> None:
        for one in bad:
            say(f"left out {one.where}, column {one.column}: {one.reason}")

    chosen = tasks or TASKS
    if name == "train":
        say("these are the rows that the run was trained on")
    result = evaluate(
        run, manifest, chosen, on_bad="skip" if skip_bad else "fail", report=report if skip_bad else nobody
    )
    return result | {"split": name}
