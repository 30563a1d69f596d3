"""Evaluation of a run on a manifest: embeddings once, then every task on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clx.losses.base import Embeddings
from clx.pipelines.batch import BadRow, Rows, batches, cell_of, columns_of, in_order
from clx.pipelines.build import Run, check_columns, class_names
from clx.pipelines.checkpoint import load
from clx.pipelines.config import TASKS, BadInput
from clx.pipelines.device import pick_device
from clx.pipelines.manifest import Manifest, load_splits
from clx.pipelines.metrics import accuracies, ranks, recall_at
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


@torch.no_grad()
def embed_manifest(
    run: Run, manifest: Manifest, *, on_bad: str = "fail", workers: int = 0, report: Any = lambda bad: None
) -> Embedded:
    """Embed every row without augmentation. `report` hears of bad rows, left out when `on_bad` is `skip`."""
    check_columns(run.config, run.modalities, manifest)
    known, here = run.facts.classes, class_names(run.config, manifest)
    classes = known if set(here) <= set(known) else here
    data = Rows(
        manifest,
        run.modalities,
        label=run.config.data.label,
        classes={name: k for k, name in enumerate(classes)},
        on_bad="skip" if on_bad == "skip" else "fail",
    )
    device = device_of(run)
    parts: list[tuple[Embeddings, dict[str, Tensor], Tensor]] = []
    bad: set[int] = set()

    def hear(found: list[BadRow]) -> None:
        bad.update(one.row for one in found)
        report(found)

    for batch in batches(data, in_order(len(data), 256), workers, report=hear):
        moved = batch.to(device)
        z = {k: v.float().cpu() for k, v in run.model(moved.inputs, moved.present).items()}
        parts.append((z, batch.present, batch.labels))
    if not parts:
        raise BadInput(f"{manifest.name}: no usable rows")
    names = list(run.modalities)
    return Embedded(
        {n: torch.cat([p[0][n] for p in parts]) for n in names},
        {n: torch.cat([p[1][n] for p in parts]) for n in names},
        torch.cat([p[2] for p in parts]),
        classes,
        torch.tensor([i for i in range(len(manifest)) if i not in bad]),
    )


def evaluate(
    run: Run, manifest: Manifest, tasks: Sequence[str], *, strict: bool = True, **reading: Any
) -> dict[str, Any]:
    """Every task of `tasks` that the data allow, as one JSON object; `skipped` says why others were left out.

    Raises `BadInput` when `strict` and none is possible.
    """
    run.model.eval()
    embedded = embed_manifest(run, manifest, **reading)
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

    Equal texts count as one thing. `label@1`, where rows have labels, is the share of queries whose first
    answer has their label.
    """
    names = list(embedded.z)
    if len(names) < 2:
        raise Unfit(f"needs two modalities, this run has {names[0]}")
    found = {}
    for candidate in names:
        others = [name for name in names if name != candidate]
        for group in [[name] for name in others] + ([others] if len(others) > 1 else []):
            both = torch.stack([embedded.present[name] for name in (*group, candidate)]).all(0)
            if not both.any():
                continue
            z = {name: embedded.z[name][both] for name in group}
            present = {name: embedded.present[name][both] for name in group}
            q = queries(run, *_on_device(run, z, present), candidate)
            c = F.normalize(embedded.z[candidate][both], dim=-1)
            things = _things(run, manifest, embedded.rows[both], group, candidate)
            line: dict[str, Any] = recall_at(ranks(q, c, things), (1, 5, 10))
            labels = embedded.labels[both]
            if (labels >= 0).any():
                line["label@1"] = recall_at(ranks(q, c, _groups(labels)), (1,))["R@1"]
            found[f"{'+'.join(group)}->{candidate}"] = line | {"rows": int(both.sum())}
    if not found:
        raise Unfit("no row has two modalities")
    return found


def _groups(labels: Tensor) -> Tensor:
    """Groups for `ranks` in which rows without a label are alone."""
    alone = labels.max() + 1 + torch.arange(len(labels))
    return torch.where(labels >= 0, labels, alone)


def _things(run: Run, manifest: Manifest, rows: Tensor, group: list[str], candidate: str) -> Tensor:
    """A number per row; rows with an equal text, as the query or as the candidate, share it."""
    name = group[0] if len(group) == 1 and run.modalities[candidate].kind != "text" else candidate
    modality = run.modalities[name]
    if modality.kind != "text":
        return rows
    numbers: dict[Any, int] = {}
    columns = columns_of({name: modality})
    cells = (cell_of(manifest.row(i, columns), name, modality, manifest) for i in rows.tolist())
    return torch.tensor([numbers.setdefault(cell, len(numbers)) for cell in cells])


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
    source = run.config.data
    if data is not None:
        source = source.model_copy(update={"train": data, "val": None, "test": None})
    splits = load_splits(source, run.config.train.seed)
    name = split or next((n for n in ("test", "val") if n in splits), "train")
    if name not in splits:
        raise BadInput(f"{source.train} has no {name} rows; it has {', '.join(splits)}")

    def report(bad: list[BadRow]) -> None:
        for one in bad:
            say(f"left out {one.where}, column {one.column}: {one.reason}")

    on_bad = "skip" if skip_bad else "fail"
    report_to = report if skip_bad else (lambda bad: None)
    return evaluate(run, splits[name], tasks or TASKS, on_bad=on_bad, report=report_to) | {"split": name}
