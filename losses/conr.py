"""ConR: a regulariser that pushes rows apart whose predictions are close although their targets are far apart."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from clx.losses.base import Embeddings, Tempered, register, three_digits, zero_loss
from clx.losses.primitives.functional import unit
from clx.losses.primitives.masks import group_sizes, mean_where, stack_present
from clx.losses.primitives.streaming import gram
from clx.losses.primitives.tiles import by_rows


def conr(
    z: Tensor,
    targets: Tensor,
    predictions: Tensor,
    temperature: Tensor | float,
    window: Tensor | float = 1.0,
    pushing: Tensor | float = 0.01,
    self_positive: Tensor | None = None,
    known: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """ConR: positives are rows of a close target, negatives those of a far target but a close prediction.

    -1/|P(i)| sum_{p in P(i)} log( exp(s_ip) / (sum_{P(i)} exp(s_ij) + sum_{N(i)} exp(e |y_i - y_j| + s_ij)) ),
    s_ij = z_i.z_j / t, P(i) = {j != i: |y_i - y_j| <= w}, N(i) = {j: |y_i - y_j| > w, |p_i - p_j| <= w}

    Args:
        z: `[N, D]`, unit rows.
        targets: `[N, K]`, without NaN; differences of several are Euclidean.
        predictions: `[N, K]`, constants to the gradient.
        temperature: positive.
        window: w, in units of the target.
        pushing: e, how much more a negative counts per unit of target distance.
        self_positive: `[N]` bool, rows that are a positive of their own, as an equal second view would be.
        known: `[N]` bool, False for rows that are to be left out, whose targets may be any numbers; all by default.

    Returns:
        The loss of each row in nats, `[N]`, and whether it is an anchor: has a positive and a negative; 0 where
        it is none.

    Reference:
        Keramati et al. 2024, arXiv 2309.06651. Without the published code's exp(0) = 1 for every
        pair that is no positive.
    """
    self_positive = torch.zeros(len(z), dtype=torch.bool, device=z.device) if self_positive is None else self_positive
    near = _Near(targets, predictions.detach(), window, pushing, self_positive, known)
    positives, negatives = near.counts()
    valid = (positives > 0) & (negatives > 0)
    log_sum, linear = gram(z, temperature, near.weights, near.positives)
    return torch.where(valid, log_sum - linear / positives.clamp(min=1), 0), valid


class _Near:
    """Which pairs of a tile are positives and negatives of ConR, from targets and predictions."""

    def __init__(
        self,
        targets: Tensor,
        predictions: Tensor,
        window: Tensor | float,
        pushing: Tensor | float,
        self_positive: Tensor,
        known: Tensor | None,
    ) -> None:
        self.y, self.p, self.window, self.pushing = targets, predictions, window, pushing
        self.self_positive, self.known = self_positive, None if known is None else known.to(targets.dtype)
        self.place: tuple[slice, slice] | None = None  # the tile whose distances are kept

    def closeness(self, i: slice, j: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Of each pair: distance of the targets; 1 if it is in the window, else 0; the same 1 or 0 of predictions."""
        if self.place != (i, j):
            self.place, far = (i, j), _distance(self.y, i, j)
            self.kept = far, self._within(far), self._within(_distance(self.p, i, j))
            if self.known is not None:
                for close in self.kept[1:]:
                    close.mul_(self.known[i, None]).mul_(self.known[j])
        return self.kept

    def positives(self, i: slice, j: slice) -> Tensor:
        """1 for pairs of close targets, else 0; a row with itself counts if it is `self_positive`."""
        close = self.closeness(i, j)[1].clone()
        if (own := self._own(i, j)) is not None:
            close.diagonal(i.start - j.start).mul_(own)
        return close

    def weights(self, s: Tensor, i: slice, j: slice) -> Tensor:
        """Edit: 1 for positives and negatives, else 0; e |y_i - y_j| is added to the logits of negatives.

        A row with itself is left out unless it is `self_positive`.
        """
        if (own := self._own(i, j)) is not None:
            s.diagonal(i.start - j.start).masked_fill_(~own, -torch.inf)
        far, close, predicted = self.closeness(i, j)
        negative = predicted - predicted * close
        # in logarithms: exp(e |y_i - y_j|) may be beyond float32
        if isinstance(self.pushing, Tensor):
            s.addcmul_(far * self.pushing, negative)
        else:
            s.addcmul_(far, negative, value=self.pushing)
        return negative.add_(close)

    def _own(self, i: slice, j: slice) -> Tensor | None:
        """`self_positive` of the rows that the tile pairs with themselves; None if there are no such pairs."""
        start, stop = max(i.start, j.start), min(i.stop, j.stop)
        return self.self_positive[start:stop] if start < stop else None

    def _within(self, distance: Tensor) -> Tensor:
        """1 where the distance is at most the window, else 0."""
        return torch.le(distance, self.window, out=torch.empty_like(distance))

    def counts(self) -> tuple[Tensor, Tensor]:
        """How many positives and negatives each row has, `[N]`."""
        n = len(self.y)

        def of_rows(part: slice) -> tuple[Tensor, Tensor]:
            _, close, predicted = self.closeness(part, slice(0, n))
            positives = close.sum(1) - (~self.self_positive[part]).to(close.dtype)
            return positives, (predicted - predicted * close).sum(1)

        positives, negatives = by_rows(self.y, max(1, (1 << 19) // n), of_rows)
        return positives, negatives


def _distance(x: Tensor, i: slice, j: slice) -> Tensor:
    """Euclidean distances of rows i and j of `x` `[N, K]`, exact for rows that are close."""
    if x.shape[1] == 1:
        return (x[i] - x[j].T).abs_()
    return torch.cdist(x[i], x[j], compute_mode="donot_use_mm_for_euclid_dist")


@register("conr")
@dataclass(eq=False, kw_only=True)
class ConR(Tempered):
    """ConR over the rows of all names; a regulariser, to be added to a regression loss on the same head.

    The paper takes two views of each item, so every row has a positive. An item of one view is a positive of its own:
    ConR is for rare targets, and such a row seldom has a close target in its batch, so it would not be an anchor.

    `window` is in the target's units, as 1 is for ages in years, and `pushing` is per unit of the target. When they are
    not given, `window` is 0.1 of the targets' standard deviation and `pushing` 0.2 over it. The default weight of the
    term, beside an error in the target's units, is 0.02 of it. A training run takes the deviation of all training rows.

    Example:
        >>> z = {"image": torch.tensor([[1.0, 0], [1, 0.1], [0, 1]])}
        >>> targets = torch.tensor([[20.0], [21], [70]])
        >>> loss = ConR(temperature=0.5, window=5, pushing=0.01)
        >>> round(loss(z, targets=targets, predictions=torch.tensor([[20.0], [21], [22]])).item(), 3)  # 70 taken for 22
        0.673
        >>> loss(z, targets=targets, predictions=torch.tensor([[20.0], [21], [69]])).item()  # all told apart
        0.0
    """

    window_share: ClassVar[float] = 0.1
    pushing_share: ClassVar[float] = 0.2
    weight_share: ClassVar[float] = 0.02

    family = "regression"
    paper = "Keramati et al. 2024, arXiv 2309.06651"
    formula = "mean_i log(sum_{P(i)} e^{s_ij} + sum_{N(i)} e^{e|y_i-y_j| + s_ij}) - mean_{P(i)} s_ip"
    cost = "time O(V^2 B^2 (D + K)), memory O(V B D)"
    use = "imbalanced regression, beside l1; weight, window and pushing by the target's deviation unless given"
    fits = ("targets",)

    temperature: Annotated[float, Gt(0)] = 0.07
    window: Annotated[float, Gt(0)] | None = None
    pushing: Annotated[float, Ge(0)] | None = None

    @classmethod
    def target_defaults(cls, deviation: float) -> dict[str, float]:
        return {
            "weight": three_digits(cls.weight_share * deviation),
            "window": three_digits(cls.window_share * deviation),
            "pushing": three_digits(cls.pushing_share * (1 / deviation if deviation else 0)),
        }

    def forward(
        self,
        z: Embeddings,
        *,
        targets: Tensor,
        predictions: Tensor,
        present: dict[str, Tensor] | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        x, items = stack_present(z, present)
        rows, known = len(x), None
        unknown = targets.isnan().any(1)
        if not x.is_cpu:  # how many are known is not to be looked at
            known, targets = ~unknown[items], targets.masked_fill(unknown[:, None], 0)
        elif bool(unknown.any()):
            there = ~unknown[items]
            x, items = x[there], items[there]
        if not len(x):
            return zero_loss(z)
        y, p = targets[items].to(x.dtype), predictions[items].to(x.dtype)
        window: Tensor | float | None = self.window
        pushing: Tensor | float | None = self.pushing
        if window is None or pushing is None:
            spread = _spread(y, known)
            window = self.window_share * spread if window is None else window
            pushing = self.pushing_share / spread.clamp(min=1e-12) if pushing is None else pushing
        self_positive = group_sizes(items)[0] == 1
        terms, valid = conr(unit(x), y, p, self.tau, window, pushing, self_positive, known)
        self.count("dropped_anchors", rows - valid.sum())
        return mean_where(valid, terms, None if weights is None else weights[items])


def _spread(y: Tensor, known: Tensor | None) -> Tensor:
    """Standard deviation of the known rows of `y` `[N, K]`; of several columns the root of the sum of squares."""
    if known is None:
        return y.std(0).norm() if len(y) > 1 else y.new_zeros(())
    count = known.sum()
    apart = torch.where(known[:, None], y - y.sum(0) / count, 0)  # those that are not known are 0 in the sum
    return (apart.square().sum() / (count - 1).clamp(min=1)).sqrt()
