"""The captions of rows that have several of them, each by itself."""

from dataclasses import dataclass

import torch
from torch import Tensor

from clx.pipelines.batches.cells import cell_at, content_of, holds_lists, read_cell
from clx.pipelines.evaluation.embeddings import ROWS, Embedded
from clx.pipelines.model.build import Run
from clx.pipelines.model.scoring import embed


@dataclass
class Captions:
    """Every caption of some rows, one row's after the other's."""

    z: Tensor
    """`[M, D]`; zeros in the place of a caption for a row that has none."""
    counts: Tensor
    """Captions of each row, `[N]`, 1 for a row that has none."""
    content: Tensor
    """`[M]`: captions of equal words have equal numbers."""


def has_several(run: Run, embedded: Embedded, name: str) -> bool:
    """Whether rows may have several captions, or of another modality several cells, of which training draws one."""
    modality = run.modalities[name]
    return modality.draws_one and holds_lists(embedded.manifest, name, modality)


@torch.no_grad()
def captions_of(run: Run, embedded: Embedded, name: str) -> Captions:
    """Every caption of every row, embedded by itself."""
    modality = run.modalities[name]
    numbers: dict[int, int] = {}
    parts: list[Tensor] = []
    counts: list[int] = []
    content: list[int] = []
    for rows in embedded.rows.split(ROWS):
        cells: list[object] = []
        for i in rows.tolist():
            cell = cell_at(embedded.manifest, i, name, modality)
            one_or_more = cell if isinstance(cell, list) else [cell]
            counts.append(len(one_or_more))
            cells += one_or_more
        content += [numbers.setdefault(content_of(cell), len(numbers)) for cell in cells]
        there = torch.tensor([cell is not None for cell in cells])
        part = torch.zeros(len(cells), run.config.embed_dim)
        if there.any():
            part[there] = embed(run, name, [read_cell(modality, cell) for cell in cells if cell is not None])
        parts.append(part)
    return Captions(torch.cat(parts), torch.tensor(counts), torch.tensor(content))
