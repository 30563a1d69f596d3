"""DBPM: positive pairs whose loss stays far below or far above that of the others count less."""

import itertools
import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from clx.losses.base import Embeddings, Tempered, register, require_two_inputs, zero_loss
from clx.losses.memory import Remembering
from clx.losses.primitives.functional import softplus, unit, units
from clx.losses.primitives.masks import chosen, mean_where
from clx.losses.primitives.streaming import gram_margins


def nt_xent_per_item(x: Tensor, y: Tensor, temperature: Tensor | float) -> Tensor:
    """NT-Xent of each item, `[B]`: the mean of its two rows' terms. `x`, `y`: `[B, D]`, unit rows."""
    return softplus(gram_margins(x, y, temperature)).view(2, -1).mean(0)


@register("dbpm")
@dataclass(eq=False, kw_only=True)
class DBPM(Remembering, Tempered):
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
    fits = ("one modality", "pairs")

    fresh = (0.0, 0.0)  # mean loss so far, visits

    temperature: Annotated[float, Gt(0)] = 0.2
    noisy: Annotated[float, Gt(0)] = 3.0
    faulty: Annotated[float, Gt(0)] = 3.0
    warmup: Annotated[int, Ge(1)] = 1  # visits of an item before it may be weighted

    def told(self) -> dict[str, Tensor]:
        """Each item's mean loss: that of a faulty pair is large."""
        return {"mean_loss": torch.where(self.memory[:, 1] > 0, self.memory[:, 0], torch.nan)}

    def forward(self, z: Embeddings, *, sample_id: Tensor, present: dict[str, Tensor] | None = None) -> Tensor:
        require_two_inputs(z)
        found = self.per_item(z, present)
        if found is None:
            return zero_loss(z)
        terms, some = found
        if self.training:
            past = self.recall(sample_id)
            weight = self.weigh(past, terms.detach(), some)
            self.remember(sample_id, later(past, terms.detach(), some))
            terms = terms * weight
        return terms.mean() if some is None else mean_where(some, terms)

    def per_item(self, z: Embeddings, present: dict[str, Tensor] | None) -> tuple[Tensor, Tensor | None] | None:
        """The mean of an item's terms over the pairs of names that it has `[B]`, and which items have any, None where
        all do; None where no two rows can be compared."""
        names, size = list(itertools.combinations(z, 2)), len(next(iter(z.values())))
        if present is None:
            if size < 2:
                return None
            u = units(z)
            every = [nt_xent_per_item(u[a], u[b], self.tau) for a, b in names]
            return every[0] if len(every) == 1 else torch.stack(every).mean(0), None
        rows = chosen([present[a] & present[b] for a, b in names])
        if not any(len(both) > 1 for both in rows):
            return None
        total = torch.zeros_like(next(iter(z.values()))[:, 0])
        pairs = torch.zeros_like(total)
        for (a, b), both in zip(names, rows, strict=True):
            if len(both) > 1:
                terms = nt_xent_per_item(unit(z[a][both]), unit(z[b][both]), self.tau)
                total = total.index_add(0, both, terms)
                pairs.index_add_(0, both, torch.ones_like(terms))
        return total / pairs.clamp(min=1), pairs > 0

    def weigh(self, past: Tensor, losses: Tensor, some: Tensor | None = None) -> Tensor:
        """Weights `[N]` of items with these current losses, by what is remembered of all and `past` `[N, 2]` of them; 1
        but of `some` `[N]`."""
        mean, visited = self.memory[:, 0], self.memory[:, 1] > 0
        average, visits = past.unbind(1)
        known = visits >= self.warmup
        known = known if some is None else known & some
        if known.is_cpu and not known.any():  # a look costs less than what follows
            return torch.ones_like(losses)
        mu = mean_where(visited, mean)
        sd = mean_where(visited, (mean - mu).square()).sqrt().clamp(min=1e-12)
        known = known & (visited.sum() > 1)
        noisy, faulty = known & (average < mu - self.noisy * sd), known & (average > mu + self.faulty * sd)
        self.count("noisy_pairs", noisy.sum())
        self.count("faulty_pairs", faulty.sum())
        density = torch.exp(-0.5 * ((losses - mu) / sd) ** 2) / (sd * math.sqrt(2 * math.pi))
        return torch.where(noisy | faulty, density.clamp(max=1), 1).to(losses.dtype)


def later(past: Tensor, losses: Tensor, some: Tensor | None = None) -> Tensor:
    """The means and visits `[N, 2]` with the losses of `some`, all by default.

    The e-th visit has weight e of 1 + 2 + ... + e.
    """
    mean, visits = past.unbind(1)
    keep = losses.isfinite() if some is None else some & losses.isfinite()
    moved = mean + torch.where(keep, losses.to(mean.dtype) - mean, 0) * 2 / (visits + 2)
    return torch.stack([torch.where(keep, moved, mean), torch.where(keep, visits + 1, visits)], 1)
