"""Some rows of a manifest in a run's space, with the previews that were asked for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clx.pipelines.batches.batch import BadRow
from clx.pipelines.batches.cells import cell_at, read_cell
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.evaluation.embeddings import Embedded, contents, embed_manifest, queries_of
from clx.pipelines.model.build import Run
from clx.pipelines.report.previews import Preview, preview


@dataclass
class Snapshot:
    """Some rows of a manifest in a run's space, and the previews that were asked for."""

    run: Run
    manifest: Manifest
    embedded: Embedded
    targets: Tensor
    """`[N]`: the first target of each row, NaN where there is none."""
    unit: dict[str, Tensor]
    """`[N, D]` unit rows by modality."""
    things: dict[str, Tensor]
    """`[N]`: rows of equal content have equal numbers."""
    items: list[Preview] = field(default_factory=list)
    rows: dict[int, list[Any]] = field(default_factory=dict)
    """By row: where it stands, its class number or -1, its target or None."""
    shelf: dict[tuple[int, str], int] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return list(self.unit)

    def __len__(self) -> int:
        return len(self.targets)

    def here(self, *names: str) -> Tensor:
        """`[N]`: rows that have all these modalities."""
        return torch.stack([self.embedded.present[name] for name in names]).all(0)

    def read(self, i: int, name: str) -> tuple[Any, Any]:
        """Cell and sample of row `i`; of a pair both cells and both samples."""
        modality, at = self.run.modalities[name], int(self.embedded.rows[i])
        cell = cell_at(self.manifest, at, name, modality)
        return cell, read_cell(modality, cell)

    def item(self, i: int, name: str) -> int:
        """The number of the preview of row `i`."""
        self.note(i)
        if (i, name) not in self.shelf:
            cell, sample = self.read(i, name)
            self.shelf[i, name] = len(self.items)
            snapshot = preview(self.run.modalities[name], sample, cell)
            self.items.append({"row": i, "modality": self.names.index(name), **snapshot})
        return self.shelf[i, name]

    def note(self, i: int) -> None:
        """Remember what there is to say of row `i`."""
        if i not in self.rows:
            target = self.targets[i].item()
            where = self.manifest.where(int(self.embedded.rows[i]))
            where = where.removeprefix(f"{Path(self.manifest.name).parent}/")  # row and file are enough on a page
            self.rows[i] = [where, int(self.embedded.labels[i]), None if np.isnan(target) else target]

    def ask(self, names: list[str], candidate: str, rows: Tensor) -> Tensor:
        """Unit queries `[n, D]` of several modalities together, for candidates of another."""
        return F.normalize(queries_of(self.run, self.embedded, names, rows, candidate), dim=-1)

    def called(self, asked: list[str]) -> str:
        """What to call several modalities together."""
        return "+".join(asked) if len(asked) < 3 else "all others"

    def directions(self) -> Iterator[tuple[list[str], str]]:
        """What is asked with, and what answers: every ordered pair, each with itself, all others together."""
        for candidate in self.names:
            yield from (([name], candidate) for name in self.names)
            others = [name for name in self.names if name != candidate]
            if len(others) > 1:
                yield others, candidate


@torch.no_grad()
def look(run: Run, manifest: Manifest, rows: int, say: Callable[[str], None]) -> Snapshot:
    """Embed `rows` rows of a manifest, drawn at random when it has more. Bad rows are left out and told to `say`."""
    some = manifest
    if len(manifest) > rows:
        some = manifest.take(np.sort(np.random.default_rng(0).choice(len(manifest), rows, replace=False)))

    def report(bad: list[BadRow]) -> None:
        for each in bad:
            say(f"{each.where}: {each.reason}")

    embedded = embed_manifest(run, some, on_bad="skip", report=report)
    targets = torch.full((len(embedded),), float("nan"), dtype=torch.float64)
    if embedded.target:
        targets = embedded.targets[:, 0].double()
    unit = {name: F.normalize(z, dim=-1) for name, z in embedded.z.items() if embedded.present[name].any()}
    things = {name: contents(run, embedded, name) for name in unit}
    return Snapshot(run, some, embedded, targets, unit, things)
