"""SupReMix: supervised contrast for regression, with mixtures of rows as harder negatives and positives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from clx.losses.base import Embeddings, Tempered, flat, nothing, register
from clx.losses.streaming import lse, mean, unit

Growth = Callable[[Tensor], Tensor]


def linear(distance: Tensor) -> Tensor:
    """Log of 1 + distance: what a column at that target distance counts in the denominator."""
    return distance.log1p()


def squared(distance: Tensor) -> Tensor:
    """Log of 1 + distance^2."""
    return distance.square().log1p()


def supremix(
    z: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    share: Tensor | None = None,
    window: float | None = None,
    growth: Growth = linear,
    pairs: Callable[[int], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """SupReMix from similarities alone: a mixture's similarity is the mixture of its parts' similarities.

    -1/|P(i)| sum_{p in P(i)} log( exp(z_i.x_p / t) / sum_{c in A(i)} W_ic exp(z_i.x_c / t) )

    A(i): all other rows; for each row k of another target the hard negative a z_i + (1-a) z_k of target
    a y_i + (1-a) y_k, a = share_ik; for each j, k with y_i - w < y_j < y_i < y_k < y_i + w the hard positive
    a z_j + (1-a) z_k, a = (y_k - y_i) / (y_k - y_j). P(i): rows of target y_i and the hard positives.
    W_ic = exp(growth(|y_i - y_c|)), 1 for hard positives. Mixtures are constants to the gradient.

    Args:
        z: `[N, D]`, unit rows.
        y: `[N]`, without NaN.
        temperature: positive.
        share: `[N, N]` in [0, 1], the anchor's part in hard negatives; None for no hard negatives.
        window: w, in units of y, so there is no value that suits all targets; None for no hard positives.
        growth: log weight by target distance.
        pairs: given how many hard positives a target has, the ones to use; all by default.

    Returns:
        The loss of each anchor in nats, `[N]`, and whether it has a positive; 0 where it has none.

    Reference:
        Wu et al. 2023, arXiv 2309.16633. Written from its description: the published code differs, see the tests.
    """
    n = len(z)
    own = torch.eye(n, dtype=torch.bool, device=z.device)
    distance = (y[:, None] - y).abs()
    s = z @ z.T / temperature
    fixed = z @ z.detach().T / temperature  # similarities with constants
    groups = [lse((s + growth(distance)).masked_fill(own, -torch.inf), 1)]
    twins = (distance == 0) & ~own
    total, count = (s * twins).sum(1), twins.sum(1)
    if share is not None:
        mixed = share * fixed.diagonal()[:, None] + (1 - share) * fixed + growth((1 - share) * distance)
        groups.append(lse(mixed.masked_fill(distance == 0, -torch.inf), 1))
    if window is not None:
        log_sum, more, how_many = _hard_positives(fixed, y, window, pairs)
        groups.append(log_sum)
        total, count = total + more, count + how_many
    valid = count > 0
    terms = lse(torch.stack(groups), 0) - total / count.clamp(min=1)
    return torch.where(valid, terms, 0), valid


def _hard_positives(
    fixed: Tensor, y: Tensor, window: float, pairs: Callable[[int], Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Over each anchor's hard positives: log-sum-exp of similarities, their sum, their number; `[N]` each."""
    log_sums, sums = fixed.new_full((len(y),), -torch.inf), fixed.new_zeros(len(y))
    counts = torch.zeros(len(y), dtype=torch.long, device=y.device)
    for target in y.unique():  # anchors of one target share their pairs
        anchors = (y == target).nonzero()[:, 0]
        below = ((y < target) & (target - y < window)).nonzero()[:, 0]
        above = ((y > target) & (y - target < window)).nonzero()[:, 0]
        number = len(below) * len(above)
        if not number:
            continue
        chosen = torch.arange(number, device=y.device) if pairs is None else pairs(number).to(y.device)
        j, k = below[chosen // len(above)], above[chosen % len(above)]
        a = (y[k] - target) / (y[k] - y[j])
        mixed = a * fixed[anchors][:, j] + (1 - a) * fixed[anchors][:, k]
        log_sums = log_sums.index_put((anchors,), lse(mixed, 1))
        sums = sums.index_put((anchors,), mixed.sum(1))
        counts[anchors] = len(chosen)
    return log_sums, sums, counts


@register("supremix")
@dataclass(eq=False, kw_only=True)
class SupReMix(Tempered):
    """SupReMix over the rows of all names, for one continuous target.

    `window` is in the target's units and must be set to suit them: 5 is for ages in years. Far below the distance
    between targets it gives no hard positives; far above, every pair of rows around a target is one.
    """

    family = "regression"
    paper = "Wu et al. 2023, arXiv 2309.16633"
    formula = "mean_i lse_{c in A(i)}(u_i.x_c / t + log(1 + |y_i - y_c|)) - mean_{p in P(i)} u_i.x_p / t"
    cost = "N = V B rows: time O(N^2 D + N P), memory O(N^2 + N P), P hard positives per anchor"
    use = "a continuous target, pre-training before a linear head; set window in the target's units"

    temperature: Annotated[float, Gt(0)] = 0.3
    mixing: Literal["both", "negative", "positive", "none"] = "both"
    window: Annotated[float, Gt(0)] = 5.0
    mix_alpha: Annotated[float, Gt(0)] = 2.0  # Beta(2, 8): a hard negative is 0.2 anchor on average
    mix_beta: Annotated[float, Gt(0)] = 8.0
    magnify: Literal["linear", "squared"] = "linear"
    max_positives: Annotated[int, Ge(1)] = 4096  # hard positives per target, drawn at random beyond that

    def forward(
        self,
        z: Embeddings,
        *,
        targets: Tensor,
        present: dict[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        if targets.shape[1] != 1:
            raise ValueError(f"supremix orders items by one target, got {targets.shape[1]}")
        x, items = flat(z, present)
        y = targets[items, 0].to(x.dtype)
        known = ~y.isnan()
        x, y = x[known], y[known]
        if len(x) < 2:
            return nothing(z)
        terms, valid = supremix(
            unit(x),
            y,
            self.tau,
            self.draw_shares(len(x), x, generator) if self.mixing in ("both", "negative") else None,
            self.window if self.mixing in ("both", "positive") else None,
            linear if self.magnify == "linear" else squared,
            lambda number: self.draw_pairs(number, generator),
        )
        dropped = len(known) - int(valid.sum())
        if dropped:
            self.log["dropped_anchors"] = dropped
        return mean(terms[valid])

    def draw_shares(self, n: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Beta(mix_alpha, mix_beta) draws `[n, n]`."""
        where = like.device if generator is None else generator.device
        a, b = (
            torch._standard_gamma(torch.full((n, n), shape, device=where), generator=generator)
            for shape in (self.mix_alpha, self.mix_beta)
        )
        return (a / (a + b)).to(like)

    def draw_pairs(self, number: int, generator: torch.Generator | None) -> Tensor:
        if number <= self.max_positives:
            return torch.arange(number)
        where = None if generator is None else generator.device
        return torch.randint(number, (self.max_positives,), generator=generator, device=where)
