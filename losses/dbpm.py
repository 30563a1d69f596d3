"""DBPM: positive pairs whose loss stays far below or far above that of the others count less."""

import itertools
import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from clx.losses.base import Embeddings, Tempered, register, require_two_inputs, zero_loss
from clx.losses.primitives.functional import softplus, unit
from clx.losses.primitives.streaming import gram_margins


def nt_xent_per_item(x: Tensor, y: Tensor, temperature: Tensor | float) -> Tensor:
    """NT-Xent of each item, `[B]`: the mean of its two rows' terms. `x`, `y`: `[B, D]`, unit rows."""
    return softplus(gram_margins(x, y, temperature)).view(2, -1).mean(0)


@register("dbpm")
@dataclass(eq=False, kw_only=True)
class DBPM(Tempered):
    """NT-Xent with a memory of every item's loss, over all pairs of names.

    The memory holds each item's mean loss over its visits so far, the e-th visit with weight e. A mean that is `noisy`
    standard deviations below that of all items is taken for two views of nothing but noise, one that is `faulty` above
    it for a pair that does not belong together. The terms of both are multiplied by the normal density at their current
    loss, at most 1. The memory is saved with the run; in evaluation mode it is neither read nor written.

    Example:
        >>> loss = DBPM(faulty=1.0)
        >>> z = {"left": torch.eye(4), "right": torch.eye(4)[[0, 1, 3, 2]]}  # items 2 and 3 have each other's partner
        >>> epochs = [loss(z, sample_id=torch.arange(4)).item() for _ in range(2)]
        >>> [round(mean, 3) for mean in loss.memory[:, 0].tolist()]
        [0.04, 0.04, 5.04, 5.04]
    """

    family = "time series"
    paper = "Lan et al. 2024, arXiv 2302.03357"
    formula = "mean_i w_i NT-Xent_i; w_i = min(1, N(NT-Xent_i; mu, sd)) where |mean loss of i - mu| > c sd, else 1"
    cost = "time O(B^2 D) per pair of names, memory O(B D) and two numbers per training row"
    use = "views or pairs of which some are wrong, as in clinical series; over several epochs"

    temperature: Annotated[float, Gt(0)] = 0.2
    noisy: Annotated[float, Gt(0)] = 3.0
    faulty: Annotated[float, Gt(0)] = 3.0
    warmup: Annotated[int, Ge(1)] = 1  # visits of an item before it may be weighted

    def __post_init__(self) -> None:
        super().__post_init__()
        self.memory = torch.zeros(0, 2)  # by sample_id: mean loss so far, visits

    def get_extra_state(self) -> Tensor:
        """The memory. It is no buffer: its length is that of the data, and averages of weights must not average it."""
        return self.memory

    def set_extra_state(self, state: Tensor) -> None:
        """Load the memory that `get_extra_state` gave."""
        self.memory = state.clone()

    def forward(self, z: Embeddings, *, sample_id: Tensor, present: dict[str, Tensor] | None = None) -> Tensor:
        require_two_inputs(z)
        total = torch.zeros_like(next(iter(z.values()))[:, 0])
        pairs = torch.zeros_like(total)
        for a, b in itertools.combinations(z, 2):
            both = torch.ones_like(total, dtype=torch.bool) if present is None else present[a] & present[b]
            if int(both.sum()) > 1:
                terms = nt_xent_per_item(unit(z[a][both]), unit(z[b][both]), self.tau)
                total = total.masked_scatter(both, total[both] + terms)
                pairs[both] += 1
        some = pairs > 0
        if not bool(some.any()):
            return zero_loss(z)
        terms = total[some] / pairs[some]
        if self.training:
            weight = self.weigh(sample_id[some], terms.detach())
            if self.remembers:
                self.remember(sample_id[some], terms.detach())
            terms = terms * weight
        return terms.mean()

    def weigh(self, ids: Tensor, losses: Tensor) -> Tensor:
        """Weights `[N]` of items with these current losses, by the memory of earlier visits."""
        self.memory = self.memory.to(ids.device)
        grown = int(ids.max()) + 1 - len(self.memory)
        if grown > 0:
            self.memory = torch.cat([self.memory, self.memory.new_zeros(grown, 2)])
        history = self.memory[self.memory[:, 1] > 0, 0]
        if len(history) < 2:
            return torch.ones_like(losses)
        mu, sd = history.mean(), history.std(correction=0).clamp(min=1e-12)
        past, visits = self.memory[ids].unbind(1)
        known = visits >= self.warmup
        noisy, faulty = known & (past < mu - self.noisy * sd), known & (past > mu + self.faulty * sd)
        self.log["noisy_pairs"], self.log["faulty_pairs"] = int(noisy.sum()), int(faulty.sum())
        density = torch.exp(-0.5 * ((losses - mu) / sd) ** 2) / (sd * math.sqrt(2 * math.pi))
        return torch.where(noisy | faulty, density.clamp(max=1), 1).to(losses.dtype)

    def remember(self, ids: Tensor, losses: Tensor) -> None:
        """Add these losses to the means: the e-th visit of an item has weight e of 1 + 2 + ... + e."""
        past, visits = self.memory[ids].unbind(1)
        visits = visits + 1
        keep = losses.isfinite()
        past = past + torch.where(keep, losses.to(past.dtype) - past, 0) * 2 / (visits + 1)
        self.memory[ids[keep]] = torch.stack([past, visits], 1)[keep]
