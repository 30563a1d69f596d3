"""A manifest in the shared space: every row through its towers once, for all that is then asked of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from clx.losses.base import Embeddings, Steps
from clx.pipelines.batches.batch import BadRow, Key
from clx.pipelines.batches.cells import cell_at, content_of
from clx.pipelines.batches.columns import check_columns, has_columns
from clx.pipelines.batches.corrupted import CorruptedDataset, Damage
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import batches, once
from clx.pipelines.data.classes import index_of, warn_of_lost
from clx.pipelines.data.label_sets import absent_column, holds_sets
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.model.build import Run, class_names
from clx.pipelines.model.frozen_features import use_frozen_features
from clx.pipelines.model.scoring import queries
from clx.pipelines.model.token_scores import Ragged, TokenScores
from clx.pipelines.model.widths import first_columns
from clx.pipelines.system.errors import BadInput, Failed
from clx.pipelines.system.process_group import Group

ROWS = 256
"""Rows that go through the towers at a time."""
Report = Callable[[list[BadRow]], None]


def ignore_bad_rows(bad: list[BadRow]) -> None:
    """Tell nobody of bad rows."""


@dataclass
class Embedded:
    """A manifest in the shared space, on the CPU."""

    manifest: Manifest
    z: Embeddings
    """`[N, D]` by modality, float32."""
    present: dict[str, Tensor]
    labels: Tensor
    """`[N]`, -1 for none, into `classes`."""
    classes: list[str]
    targets: Tensor
    """`[N, K]`, one column for each of the run's targets that the manifest has, NaN for none."""
    target: list[str]
    rows: Tensor
    """`[N]`: the manifest's rows, counted from 0, that could be read."""
    label_sets: Tensor | None = None
    """`[N, C]` where labels are sets: 1 for each class that applies, else 0; NaN where that is not known."""
    features: dict[str, Tensor] = field(default_factory=dict)
    """What enters each head, `[N, W]` by modality, where it was asked for."""
    steps: dict[str, Ragged] = field(default_factory=dict)
    """Embeddings of each step by modality, where the run's objective compares these."""

    def __len__(self) -> int:
        return len(self.rows)

    def narrowed(self, width: int) -> "Embedded":
        """The same with the first `width` columns of every embedding."""
        cut = {name: rows.narrowed(width) for name, rows in self.steps.items()}
        return replace(self, z=first_columns(self.z, width), steps=cut)

    def take(self, some: Tensor) -> "Embedded":
        """The rows at `some`."""

        def of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: value[some] for name, value in tensors.items()}

        return replace(
            self,
            z=of(self.z),
            present=of(self.present),
            features=of(self.features),
            steps={name: rows.take(some) for name, rows in self.steps.items()},
            labels=self.labels[some],
            label_sets=None if self.label_sets is None else self.label_sets[some],
            targets=self.targets[some],
            rows=self.rows[some],
        )


def embed_manifest(
    run: Run,
    manifest: Manifest,
    *,
    on_bad: Literal["fail", "skip"] = "fail",
    report: Report = ignore_bad_rows,
    classes: list[str] | None = None,
    features: bool = False,
) -> Embedded:
    """Embed every row without augmentation. `report` hears of bad rows, left out when `on_bad` is `skip`.

    Modalities whose columns the manifest lacks are missing in every row. Labels are numbered by `classes` and then
    by what the manifest has besides; by the run's own classes first where none are given. Raises `BadInput` when
    no modality is there, and for embeddings that are not finite.
    """
    found = embed_on(None, run, manifest, on_bad, report, classes, features)
    assert found is not None
    return found


@torch.no_grad()
def embed_on(
    group: Group | None,
    run: Run,
    manifest: Manifest,
    on_bad: Literal["fail", "skip"],
    report: Report,
    classes: list[str] | None,
    features: bool,
    damage: dict[str, Damage] | None = None,
    seed: int = 0,
) -> Embedded | None:
    """As `embed_manifest`, by all ranks of a group, which are called alike: each embeds some batches. With `damage` its
    inputs are corrupted, by draws that `seed` decides.

    Rank 0 has what one process would have, the others have None.
    """
    data, every = _rows_of(run, manifest, classes, on_bad, damage or {}, seed)
    device, by_steps = run.device, TokenScores.of_run(run) is not None
    if run.config.data.cache == "memory" and not by_steps and not damage:
        use_frozen_features(run, data)
    parts: list[_Part] = []
    bad: set[int] = set()

    def hear(found: list[BadRow]) -> None:
        bad.update(one.row for one in found)
        report(found)

    def made(keys: list[Key], hear: Report) -> Iterator[_Part]:
        for batch in batches(data, keys, run.config.train.workers, report=hear):
            moved = batch.to(device)
            entered: Embeddings | None = {} if features else None
            inner: Steps | None = {} if by_steps else None
            z = _on_cpu(run.model(moved.inputs, moved.present, inner, entered))
            for name, rows in z.items():
                if not rows[batch.present[name]].isfinite().all():  # no comparison with NaN holds: ranks would be 1
                    raise BadInput(f"{manifest.name}: the model's {name} embeddings are not finite")
            targets = batch.targets.view(len(batch), len(data.target))
            steps = {name: Ragged.of(*pair) for name, pair in (inner or {}).items() if name in z}
            yield _Part(z, batch.present, batch.labels, targets, batch.label_sets, _on_cpu(entered or {}), steps)

    keys = once(len(data), ROWS)
    if group is None:
        parts += made(keys, hear)
    else:
        parts += shared_out(group, keys, made, hear)
        if group.rank:
            return None
    if not parts:
        raise BadInput(f"{manifest.name}: no usable rows")
    return Embedded(
        manifest,
        _joined([part.z for part in parts]),
        _joined([part.present for part in parts]),
        torch.cat([part.labels for part in parts]),
        every,
        torch.cat([part.targets for part in parts]),
        data.target,
        torch.tensor([i for i in range(len(manifest)) if i not in bad]),
        torch.cat([part.label_sets for part in parts if part.label_sets is not None]) if data.sets else None,
        _joined([part.features for part in parts]),
        {n: Ragged.joined([p.steps[n] for p in parts]) for n in parts[0].steps if all(n in p.steps for p in parts)},
    )


def _rows_of(
    run: Run,
    manifest: Manifest,
    classes: list[str] | None,
    on_bad: Literal["fail", "skip"],
    damage: dict[str, Damage],
    seed: int,
) -> tuple[BatchDataset, list[str]]:
    """The rows without views, and the classes: `classes`, or the run's, and then what the manifest has besides."""
    modalities = {name: m for name, m in run.scored().items() if has_columns(manifest, name, m)}
    if not modalities:
        check_columns(run.config, run.scored(), manifest)
    label = run.config.data.label_column if run.config.data.label_column in manifest.columns else None
    target = [name for name in run.config.data.target if name in manifest.columns]
    known = run.facts.classes if classes is None else classes
    index = index_of(known)
    if label is not None and label not in run.config.data.target:
        warn_of_lost(known)
    every = known + [name for name in (class_names(run.config, manifest) if label else []) if name not in index]
    width = run.config.data.bin_width if label in run.config.data.target else None
    sets = label is not None and holds_sets(run.config.data, manifest)
    absent = absent_column(run.config.data, manifest)
    told = (manifest, modalities, label, index_of(every), absent, sets, run.config.data.several, width, target)
    if damage:
        return CorruptedDataset(*told, on_bad=on_bad, damage=damage, seed=seed), every
    return BatchDataset(*told, on_bad=on_bad), every


class _Part(NamedTuple):
    """Of a batch, what `Embedded` has of all rows."""

    z: Embeddings
    present: dict[str, Tensor]
    labels: Tensor
    targets: Tensor
    label_sets: Tensor | None
    features: dict[str, Tensor]
    steps: dict[str, Ragged]


def shared_out(
    group: Group, keys: list[Key], made: Callable[[list[Key], Report], Iterator[_Part]], hear: Report
) -> list[_Part]:
    """What is made of all keys, each rank having some of them; on rank 0, which hears of all bad rows.

    Raises the first error of any rank there.
    """
    parts, bad, error = list[_Part](), list[list[BadRow]](), None
    try:
        parts += made(keys[group.share(len(keys))], bad.append)
    except (BadInput, Failed) as found:
        error = type(found), str(found)
    by_rank = group.collected((parts, bad, error))
    for _, found_bad, said in by_rank:
        for rows in found_bad:
            hear(rows)
        if said is not None:
            raise said[0](said[1])
    return [part for of_rank, *_ in by_rank for part in of_rank]


def _on_cpu(tensors: Embeddings) -> Embeddings:
    return {name: rows.float().cpu() for name, rows in tensors.items()}


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The rows of all parts, by name."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def queries_of(run: Run, embedded: Embedded, names: list[str], rows: Tensor, candidate: str) -> Tensor:
    """Queries `[n, D]` of the rows at `rows` by several modalities together, to be multiplied with unit rows of the
    modality `candidate`."""
    z = {name: embedded.z[name][rows].to(run.device) for name in names}
    return queries(run, z, {name: embedded.present[name][rows].to(run.device) for name in names}, candidate)


def contents(run: Run, embedded: Embedded, name: str) -> Tensor:
    """A number per row `[N]`, the same for cells of equal content."""
    manifest, modality = embedded.manifest, run.modalities[name]
    numbers: dict[int, int] = {}
    keys = [content_of(cell_at(manifest, i, name, modality)) for i in embedded.rows.tolist()]
    return torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys])
