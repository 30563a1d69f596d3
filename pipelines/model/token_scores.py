"""Scores of rows by their steps (tokens, places), for runs whose objective compares these: `late`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from clx.losses.late import Late, late_scores
from clx.pipelines.batches.cells import collate
from clx.pipelines.model.build import Run
from clx.pipelines.model.towers import Tower

ROWS = 256
"""Rows whose steps are padded to one length at a time."""


@dataclass(frozen=True)
class Ragged:
    """Steps of rows, one row's after the other's."""

    values: Tensor
    """`[M, D]`."""
    counts: Tensor
    """`[N]`, int64: how many each row has, 0 for a row without this input."""

    def __len__(self) -> int:
        return len(self.counts)

    @classmethod
    def of(cls, steps: Tensor, mask: Tensor) -> "Ragged":
        """From padded steps `[N, T, D]`, on the CPU in float32."""
        steps, mask = steps.float().cpu(), mask.cpu()
        return cls(steps[mask], mask.sum(1))

    @classmethod
    def joined(cls, parts: "Sequence[Ragged]") -> "Ragged":
        return cls(torch.cat([part.values for part in parts]), torch.cat([part.counts for part in parts]))

    def take(self, rows: Tensor) -> "Ragged":
        """The rows at `rows`."""
        counts = self.counts[rows]
        starts = (self.counts.cumsum(0) - self.counts)[rows]
        inside = torch.arange(int(counts.sum())) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        return Ragged(self.values[starts.repeat_interleave(counts) + inside], counts)

    def narrowed(self, width: int) -> "Ragged":
        """The first `width` columns."""
        return Ragged(self.values[:, :width], self.counts)

    def padded(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """`[N, T, D]` and the mask `[N, T]`."""
        mask = torch.arange(max(1, int(self.counts.max())) if len(self) else 1) < self.counts[:, None]
        rows = self.values.new_zeros(*mask.shape, self.values.shape[1])
        rows[mask] = self.values
        return rows.to(device), mask.to(device)


@dataclass(frozen=True)
class TokenScores:
    """How rows are compared by their steps: the settings of `late`, as they are noted beside embeddings."""

    names: tuple[str, ...]
    asks: Literal["first", "each"]
    pool: Literal["mean", "sum"]
    softness: float

    @classmethod
    def of_run(cls, run: Run) -> "TokenScores | None":
        """Those of the leading objective; None where that compares whole embeddings."""
        loss = run.objective.leading
        return cls(loss.names, loss.asks, loss.pool, loss.softness) if isinstance(loss, Late) else None

    @classmethod
    def noted(cls, meta: dict[str, Any]) -> "TokenScores":
        """From what `as_json` gave."""
        return cls(tuple(meta["names"]), meta["asks"], meta["pool"], meta["softness"])

    def as_json(self) -> dict[str, Any]:
        return {"names": list(self.names), "asks": self.asks, "pool": self.pool, "softness": self.softness}

    @torch.no_grad()
    def scores(self, name: str, queries: Ragged, candidate: str, rows: Ragged, device: torch.device) -> Tensor:
        """Scores `[Q, C]` of candidates for queries of the modality `name`; 0 where a query has no such steps.

        Exact; `ROWS` candidates are there in full at a time.
        """
        loss = Late(asks=self.asks)
        loss.names = self.names
        asks, (x, here) = loss.asks_first(name, candidate), queries.padded(device)
        found = []
        for part in torch.arange(len(rows)).split(ROWS):
            y, there = rows.take(part).padded(device)
            pair = (x, here, y, there) if asks else (y, there, x, here)
            scores = late_scores(*pair, self.softness, self.pool)
            found.append(scores if asks else scores.T)
        every = torch.cat(found, 1) if found else x.new_zeros(len(queries), 0)
        return every.masked_fill(~here.any(1)[:, None], 0)


@torch.no_grad()
def tokens_of(run: Run, name: str, samples: Sequence[Any]) -> Ragged:
    """Steps of read samples of one modality."""
    tower: Tower = run.model.tower(name)
    parts = []
    for start in range(0, len(samples), ROWS):
        value = collate(run.modalities[name], samples[start : start + ROWS])
        moved = {key: part.to(run.device) for key, part in value.items()}
        each, mask = tower.with_inner(moved, ["steps"], 0, run.model.contexts(name))[1]["steps"]
        parts.append(Ragged.of(each, mask))
    return Ragged.joined(parts).narrowed(run.model.embed_dim)
