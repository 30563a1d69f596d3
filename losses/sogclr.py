"""SogCLR and iSogCLR: contrast against a moving average over all batches that a row was in, not against one batch."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from clx.losses.base import Embeddings, Exclude, Tempered, average, register, require_two_inputs, zero_loss
from clx.losses.infonce import other_rows
from clx.losses.judge import asked_for
from clx.losses.memory import Remembering
from clx.losses.pairwise import item_ids
from clx.losses.primitives.autograd import with_gradients
from clx.losses.primitives.functional import units
from clx.losses.primitives.masks import chosen, group_sizes, mean_where
from clx.losses.primitives.streaming import cross_margins


def moved(average: Tensor, now: Tensor, gamma: float) -> Tensor:
    """log((1 - gamma) u + gamma g), `[B]`, from the logarithms of both; of g alone where u is 0, as at the start."""
    if gamma == 1:
        return now
    both = torch.logaddexp(average + math.log(1 - gamma), now + math.log(gamma))
    return torch.where(average == -math.inf, now, both)


def next_temperatures(
    tau: Tensor, momentum: Tensor, slope: Tensor, rate: float, beta: float, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """A step of each temperature `[B]` down its own slope, held to 5 either way, by a moving average of slopes."""
    momentum = (1 - beta) * momentum + beta * slope.clamp(-5, 5)
    return (tau - rate * momentum).clamp(low, high), momentum


@dataclass(eq=False, kw_only=True)
class MovingContrast(Remembering):
    """What both share: each of a pair's rows against its negatives in the other input, in both directions.

    Rows of equal `repeats`, or, with `exclude`, of equal `sample_id` or `labels`, are no negatives of each other. In
    evaluation mode the memory is neither read nor written, and u is g.
    """

    family = "softmax"
    paper = "Yuan et al. 2022, arXiv 2202.12387"
    cost = "time O(B^2 D) per pair of names, memory O(B D) and, per training row, the numbers that are remembered"

    gamma: Annotated[float, Gt(0), Le(1)] = 0.8
    exclude: Exclude = "repeats"
    sides: list[tuple[str, str]] = field(init=False, repr=False, default_factory=list)

    def requires(self) -> frozenset[str]:
        return super().requires() | (asked_for(self.exclude) & {"labels"})

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        self.sides = list(itertools.permutations(names, 2))
        super().setup(names, dim, classes, rows)

    def unseen(self, rows: int) -> Tensor:
        return torch.tensor([self.fresh * len(self.sides)]).repeat(rows, 1)

    def forward(
        self,
        z: Embeddings,
        *,
        sample_id: Tensor,
        present: dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
        repeats: Tensor | None = None,
    ) -> Tensor:
        require_two_inputs(z)
        if not self.sides:  # nobody said the names before
            self.setup(list(z), next(iter(z.values())).shape[1])
        size, pairs = len(sample_id), list(itertools.combinations(z, 2))
        ids = item_ids(self.exclude, size, labels, sample_id, repeats)
        rows: Sequence[Tensor | slice] = [slice(None)] * len(pairs)
        if present is not None:
            rows = chosen([present[a] & present[b] for a, b in pairs])
        past = self.recall(sample_id).to(z[pairs[0][0]].dtype) if self.training else None
        later, terms = None if past is None else past.clone(), []
        for (a, b), both in zip(pairs, rows, strict=True):
            seen = {name: z[name] if present is None else z[name][both] for name in (a, b)}
            if len(seen[a]) < 2:
                continue
            u, own = units(seen), None if ids is None else ids[both]
            for x, y in ((a, b), (b, a)):
                place = self.sides.index((x, y)) * len(self.fresh)
                columns = slice(place, place + len(self.fresh))
                value, new = self.side(u[x], u[y], own, None if past is None else past[both, columns])
                terms.append(value)
                if later is not None and new is not None:
                    later[both, columns] = new
        skipped = len(pairs) - len(terms) // 2
        if skipped:
            self.log["skipped_pairs"] = skipped
        if later is not None and past is not None:
            of_sides = later.unflatten(1, (len(self.sides), len(self.fresh)))
            kept = of_sides.isfinite().all(2, keepdim=True)  # a spoiled step leaves nothing behind
            self.remember(sample_id, torch.where(kept, of_sides, past.view_as(of_sides)).flatten(1))
        return average(terms) if terms else zero_loss(z)

    def side(self, x: Tensor, y: Tensor, ids: Tensor | None, past: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The loss of unit rows `x` among `y`, and what is remembered from now on instead of `past` `[B, K]`."""
        raise NotImplementedError


def log_mean(x: Tensor, y: Tensor, temperature: Tensor | float, ids: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """log mean over negatives n of exp((x_i.n - x_i.y_i) / t), `[B]`, B at least 2, and whether there are any, None for
    all; 0 without."""
    margins = cross_margins(x, y, temperature, other_rows(ids), both=False)
    if ids is None:
        return margins - math.log(len(x) - 1), None
    count = len(x) - group_sizes(ids)[0]
    has = count > 0
    return torch.where(has, margins - count.clamp(min=1).to(x.dtype).log(), 0), has


def mean_of(terms: Tensor, has: Tensor | None) -> Tensor:
    return terms.mean() if has is None else mean_where(has, terms)


@register("sogclr")
@dataclass(eq=False, kw_only=True)
class SogCLR(MovingContrast, Tempered):
    """Global contrastive loss: the weight of a row's negatives follows from all batches that it was in.

    The loss is the objective over all data as far as it is known; its gradient that of one batch under these weights.

    Example:
        >>> loss = SogCLR(temperature=0.5)
        >>> z = {"image": torch.eye(4), "text": torch.eye(4)}
        >>> round(loss(z, sample_id=torch.arange(4)).item(), 3)  # t log mean e^(-1 / t): it can be negative
        -1.0
        >>> wrong = {"image": torch.eye(4), "text": torch.eye(4).roll(1, 0)}
        >>> round(loss(wrong, sample_id=torch.arange(4)).item(), 3)  # one step does not undo what is remembered
        0.464
    """

    formula = "mean_i t (log u_i + rho), u_i <- (1 - gamma) u_i + gamma g_i, g_i = mean_{j != i} e^{(s_ij - s_ii)/t}"
    use = "pairs or views in batches that are too small for contrast, over several epochs"
    fits = ("pairs", "several modalities", "one modality")

    fresh = (-math.inf,)  # log u

    rho: Annotated[float, Ge(0)] = 0.0  # how far a learned temperature is kept from falling

    def side(self, x: Tensor, y: Tensor, ids: Tensor | None, past: Tensor | None) -> tuple[Tensor, Tensor | None]:
        now, has = log_mean(x, y, self.tau, ids)
        if past is None:
            return mean_of(self.tau * (now + self.rho), has), None
        known = now.detach()
        log_u = moved(past[:, 0], known, self.gamma)
        tau = self.tau.detach() if isinstance(self.tau, Tensor) else self.tau
        weights = tau * (known - log_u).exp()
        terms = self.tau * (log_u + self.rho) + weights * (now - known)
        later = log_u if has is None else torch.where(has, log_u, past[:, 0])
        return mean_of(terms, has), later[:, None]


@register("isogclr")
@dataclass(eq=False, kw_only=True)
class ISogCLR(MovingContrast):
    """SogCLR with a temperature of its own for every row and direction, learned beside the model.

    Example:
        >>> loss = ISogCLR()
        >>> z = {"image": torch.eye(4), "text": torch.eye(4)[[0, 1, 3, 2]]}  # the last two have near negatives
        >>> for _ in range(3):
        ...     value = loss(z, sample_id=torch.arange(4))
        >>> [round(t, 2) for t in loss.memory[:, 1].tolist()]
        [0.06, 0.06, 0.08, 0.08]
    """

    paper = "Qiu et al. 2023, arXiv 2305.11965"
    formula = "mean_i t_i (log u_i + rho), u as in sogclr with t_i; t_i <- t_i - rate m_i, m_i a mean of d/dt_i"
    use = (
        "rows of common and rare kinds: each temperature settles where the weights of negatives are rho nats from even"
    )
    fits = ("pairs", "several modalities", "one modality")
    sharpness = "1 / the row's temperature, from initial_temperature within its limits"

    initial_temperature: Annotated[float, Gt(0)] = 0.07
    min_temperature: Annotated[float, Gt(0)] = 0.005
    max_temperature: Annotated[float, Gt(0)] = 1.0
    rho: Annotated[float, Ge(0)] = 0.1
    rate: Annotated[float, Ge(0)] = 0.01
    momentum: Annotated[float, Gt(0), Le(1)] = 0.9  # the share of the newest slope

    def __post_init__(self) -> None:
        if not self.min_temperature <= self.initial_temperature <= self.max_temperature:
            raise ValueError(
                f"initial_temperature {self.initial_temperature} is not between min_temperature "
                f"{self.min_temperature} and max_temperature {self.max_temperature}"
            )
        super().__post_init__()

    @property
    def fresh(self) -> tuple[float, ...]:  # type: ignore[override]
        """log u, the temperature, the mean of its slopes."""
        return -math.inf, self.initial_temperature, 0.0

    def told(self) -> dict[str, Tensor]:
        """The mean temperature of a row over the directions in which it had negatives."""
        sides = self.memory.view(len(self.memory), -1, len(self.fresh))
        return {"temperature": torch.where(sides[:, :, 0] > -math.inf, sides[:, :, 1], torch.nan).nanmean(1)}

    def side(self, x: Tensor, y: Tensor, ids: Tensor | None, past: Tensor | None) -> tuple[Tensor, Tensor | None]:
        log_u, tau, mean = (x.new_full((len(x), 3), 0) if past is None else past).unbind(1)
        if past is None:
            tau = torch.full_like(log_u, self.initial_temperature)
        with torch.enable_grad():
            left, right = (x / tau[:, None]).detach().requires_grad_(), y.detach().requires_grad_()
            means, has = log_mean(left, right, 1.0, ids)
        now = means.detach()
        log_u = now if past is None else moved(log_u, now, self.gamma)
        count = len(x) if has is None else has.sum().clamp(min=1)
        weights = tau * (now - log_u).exp() / count
        dx, dy = torch.autograd.grad(means, (left, right), weights)
        value = mean_of(tau * (log_u + self.rho), has)
        value = with_gradients(value, (x, y), (dx / tau[:, None], dy))
        if past is None:
            return value, None
        slope = log_u + self.rho - torch.linalg.vecdot(left.detach(), dx) / tau * count
        low, high = self.min_temperature, self.max_temperature
        tau, mean = next_temperatures(tau, mean, slope, self.rate, self.momentum, low, high)
        later = torch.stack([log_u, tau, mean], 1)
        return value, later if has is None else torch.where(has[:, None], later, past)
