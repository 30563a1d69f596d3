"""Embeddings of what a program names, in memory."""

from collections.abc import Iterable, Mapping
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import torch

from clx.pipelines.model.build import Run
from clx.pipelines.model.scoring import embed_items
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.read_ahead import default_workers, read_ahead
from clx.pipelines.use.inputs import Item, read_items
from clx.pipelines.use.search import items_of


def vectors_of(
    run: Run, items: Iterable[str | Mapping[str, Any] | Item], modality: str | None = None
) -> dict[str, "np.ndarray[Any, Any]"]:
    """Embeddings of items, not normalised, by modality: `[N, D]` in float32, NaN in rows that lack the modality.

    `items` and `modality` are as of `Searcher.search`. Raises `BadInput` for an item that cannot be read.
    """
    blocks = list[dict[str, torch.Tensor]]()
    sizes = list[int]()
    with closing(read_ahead(items_of(run, items, modality), partial(read_items, run), 64, default_workers())) as groups:
        for group in groups:
            for name, cells in group:
                if isinstance(cells, str):
                    raise BadInput(f"{name}: {cells}")
            z, present = embed_items(run, [cells for _, cells in group if not isinstance(cells, str)])
            blocks.append({m: rows.float().masked_fill(~present[m][:, None], torch.nan).cpu() for m, rows in z.items()})
            sizes.append(len(group))
    names = [name for name in run.modalities if any(name in block for block in blocks)]
    width = run.config.embed_dim
    lacking = [torch.full((size, width), torch.nan) for size in sizes]
    found = {name: [block.get(name, nan) for block, nan in zip(blocks, lacking, strict=True)] for name in names}
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}
