"""Signs of a run that goes wrong without failing: a loss that leaps, embeddings that shrink to a point or a line."""

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clx.pipelines.measures.geometry import effective_rank

REMEMBERED = 100  # losses
FEWEST = 20  # losses before one can stand out
LEAP = 10  # times the usual distance from the usual loss
ROWS = 1024  # embeddings looked at
POINT = 0.05  # spread below which all embeddings are as good as equal: their mean cosine is above 0.9975
LINE = 2.0  # directions below which a space is used up
PATIENCE = 2  # looks in a row: a new network starts almost collapsed


def spread(z: Tensor) -> float:
    """How far unit embeddings of `[N, D]` are from their mean, root mean square: 0 when all are equal, 1 at most."""
    unit = F.normalize(z.float(), dim=-1)
    return (unit - unit.mean(0)).square().sum(1).mean().sqrt().item()


@dataclass
class Health:
    """What a run's own past says about its present. Everything is saved with the run, so that it resumes exactly."""

    warm: float
    """Steps of warm-up, in which losses fall fast and are no measure."""
    losses: list[float] = field(default_factory=list)
    low: dict[str, int] = field(default_factory=dict)
    """Looks in a row at which a view was collapsed."""
    said: list[str] = field(default_factory=list)
    """Sorts of warnings that the user has been told of."""

    def state(self) -> dict[str, Any]:
        return asdict(self)

    def is_news(self, warning: str) -> bool:
        """Whether no warning of this sort was given before."""
        sort = warning.partition(":")[0]
        if sort in self.said:
            return False
        self.said.append(sort)
        return True

    def hear_loss(self, step: int, loss: float) -> str | None:
        """Remember the finite loss of a step; a warning when it stands far above the losses before it."""
        warning = None
        if len(self.losses) >= FEWEST and step > self.warm:
            usual = statistics.median(self.losses)
            distance = statistics.median(abs(one - usual) for one in self.losses)
            if loss > usual + LEAP * max(distance, 0.01 * abs(usual), 1e-6):
                warning = (
                    f"loss spike: {loss:.4g} at step {step}, where the last {len(self.losses)} were about {usual:.4g}"
                )
        self.losses = [*self.losses[1 - REMEMBERED :], loss]
        return warning

    def look(self, step: int, seen: dict[str, Tensor], places: int | None = None) -> tuple[dict[str, float], list[str]]:
        """Spread and effective rank of each view's embeddings `[N, D]`, and warnings of a collapse.

        Where rows are to lie at a few places, those of their classes say, these span one direction less than they are
        many.
        """
        figures: dict[str, float] = {}
        warnings = []
        for name, rows in seen.items():
            z = rows[torch.isfinite(rows).all(1)][:ROWS]
            if len(z) < 2 or z.shape[1] < 2:
                continue
            figures[f"{name}.spread"] = wide = spread(z)
            figures[f"{name}.rank"] = rank = effective_rank(F.normalize(z.double(), dim=-1))
            room = min(len(z) - 1, z.shape[1], *(() if places is None else (max(1, places - 1),)))
            lines = rank < LINE < room / 4
            self.low[name] = self.low.get(name, 0) + 1 if wide < POINT or lines else 0
            if step <= self.warm:
                self.low[name] = 0
            elif self.low[name] == PATIENCE:
                what = "are all but constant" if wide < POINT else f"vary in {rank:.1f} of {room} directions"
                warnings.append(
                    f"collapse of {name}: its embeddings {what} (spread {wide:.2g}, effective rank {rank:.2g})"
                )
        return figures, warnings
