"""ConR: a regulariser that parts rows whose predictions are close though their targets are far."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from clx.losses.base import Embeddings, Tempered, flat, nothing, register, three_digits
from clx.losses.primitives.streaming import gram, unit
from clx.losses.primitives.tiles import slices


def conr(
    z: Tensor,
    targets: Tensor,
    predictions: Tensor,
    temperature: Tensor | float,
    window: float = 1.0,
    pushing: float = 0.01,
    alone: Tensor | None = None,
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
        alone: `[N]` bool, the rows that are a positive of their own, as an equal second view of them would be.

    Returns:
        The loss of each row in nats, `[N]`, and whether it is an anchor: has a positive and a negative; 0 where
        it is none.

    Reference:
        Keramati et al. 2024, arXiv 2309.06651. Without the published code's exp(0) = 1 for every
        pair that is no positive.
    """
    alone = torch.zeros(len(z), dtype=torch.bool, device=z.device) if alone is None else alone
    near = _Near(targets, predictions.detach(), window, pushing, alone)
    positives, negatives = near.counts()
    valid = (positives > 0) & (negatives > 0)
    log_sum, linear = gram(z, temperature, near.weights, near.positives)
    return torch.where(valid, log_sum - linear / positives.clamp(min=1), 0), valid


class _Near:
    """What ConR asks of a tile of pairs, from targets and predictions."""

    def __init__(self, targets: Tensor, predictions: Tensor, window: float, pushing: float, alone: Tensor) -> None:
        self.y, self.p, self.window, self.pushing, self.alone = targets, predictions, window, pushing, alone
        self.place: tuple[slice, slice] | None = None  # of the tile that was looked at last

    def look(self, i: slice, j: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Distances of the targets of pairs, 1 for those of close targets and 1 for those of close predictions."""
        if self.place != (i, j):
            self.place, far = (i, j), _distance(self.y, i, j)
            self.seen = far, self._within(far), self._within(_distance(self.p, i, j))
        return self.seen

    def positives(self, i: slice, j: slice) -> Tensor:
        """1 for the pairs of close targets, 0 for others and for a row with itself, unless it is alone."""
        close = self.look(i, j)[1].clone()
        if (own := self._own(i, j)) is not None:
            close.diagonal(i.start - j.start).mul_(own)
        return close

    def weights(self, s: Tensor, i: slice, j: slice) -> Tensor:
        """1 for positives and for negatives, whose logits get e |y_i - y_j| more, 0 for others; a row with itself is
        masked, unless it is alone."""
        if (own := self._own(i, j)) is not None:
            s.diagonal(i.start - j.start).masked_fill_(~own, -torch.inf)
        far, close, predicted = self.look(i, j)
        negative = predicted - predicted * close
        s.addcmul_(far, negative, value=self.pushing)  # in logarithms: exp(e |y_i - y_j|) may be beyond float32
        return negative.add_(close)

    def _own(self, i: slice, j: slice) -> Tensor | None:
        """Which of the rows that a tile pairs with themselves are alone; None where it has no such pair."""
        start, stop = max(i.start, j.start), min(i.stop, j.stop)
        return self.alone[start:stop] if start < stop else None

    def _within(self, distance: Tensor) -> Tensor:
        return torch.le(distance, self.window, out=torch.empty_like(distance))

    def counts(self) -> tuple[Tensor, Tensor]:
        """How many positives and negatives each row has, `[N]`."""
        n = len(self.y)
        every, positives, negatives = slice(0, n), [], []
        for part in slices(n, max(1, (1 << 19) // n)):
            _, close, predicted = self.look(part, every)
            positives.append(close.sum(1) - (~self.alone[part]).to(close.dtype))
            negatives.append((predicted - predicted * close).sum(1))
        return torch.cat(positives), torch.cat(negatives)


def _distance(x: Tensor, i: slice, j: slice) -> Tensor:
    if x.shape[1] == 1:
        return (x[i] - x[j].T).abs_()
    return torch.cdist(x[i], x[j], compute_mode="donot_use_mm_for_euclid_dist")


@register("conr")
@dataclass(eq=False, kw_only=True)
class ConR(Tempered):
    """ConR over the rows of all names; a regulariser, to be added to a regression loss on the same head.

    The paper takes two views of each item, so that every row has a positive. An item of one view is its own: of rare
    targets, which are what ConR is for, hardly a row has another near it in its batch, and it would be no anchor.

    `window` is in the target's units, 1 for ages in years, and `pushing` is per unit of them. When not given they are a
    tenth of the targets' deviation and a fifth over it; and the weight beside an error in these units is a fiftieth of
    it. In a training run the deviation is that of all training rows.

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
        x, items = flat(z, present)
        rows = len(x)
        if bool((unknown := targets.isnan()).any()):
            known = ~unknown.any(1)[items]
            x, items = x[known], items[known]
        if not len(x):
            return nothing(z)
        y, p = targets[items].to(x.dtype), predictions[items].to(x.dtype)
        window, pushing = self.window, self.pushing
        if window is None or pushing is None:
            spread = 0.0 if len(y) < 2 else y.std(0).norm().item()
            window = self.window_share * spread if window is None else window
            pushing = self.pushing_share / max(spread, 1e-12) if pushing is None else pushing
        alone = torch.bincount(items)[items] == 1
        terms, valid = conr(unit(x), y, p, self.tau, window, pushing, alone)
        anchors = int(valid.sum())
        if anchors < rows:
            self.log["dropped_anchors"] = rows - anchors
        terms = terms if weights is None else terms * weights[items].to(terms.dtype)
        return terms.sum() / max(1, anchors)
