"""SupReMix: supervised contrast for regression, with mixtures of rows as harder negatives and positives."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from clx.losses.base import Embeddings, Tempered, register, three_digits, zero_loss
from clx.losses.primitives.autograd import nan_unless_finite, without_autocast
from clx.losses.primitives.draws import beta
from clx.losses.primitives.functional import lse, unit
from clx.losses.primitives.masks import chosen, group_sizes, mean_where, stack_present

Growth = Callable[[Tensor], Tensor]


def linear(distance: Tensor) -> Tensor:
    """Log of 1 + distance: log weight, in the denominator, of a column at that distance of the targets."""
    return distance.log1p()


def squared(distance: Tensor) -> Tensor:
    """Log of 1 + distance^2."""
    return distance.square().log1p()


def supremix(
    z: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    share: Tensor | None = None,
    window: Tensor | float | None = None,
    growth: Growth = linear,
    pairs: Callable[[int], Tensor] | None = None,
    self_positive: Tensor | None = None,
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
        window: w, in units of y; None for no hard positives.
        growth: log weight by target distance.
        pairs: given how many hard positives a target has, the ones to use; all by default.
        self_positive: `[N]` bool, rows that are their own positive if they have no other.

    Returns:
        The loss of each anchor in nats, `[N]`, and whether it has a positive; 0 where it has none.

    Reference:
        Wu et al. 2023, arXiv 2309.16633. Written from the paper; the published code differs, see the tests.
    """
    n, temperature = len(z), nan_unless_finite(temperature)
    own = torch.eye(n, dtype=torch.bool, device=z.device)
    distance = (y[:, None] - y).abs()
    s = z @ z.T / temperature
    fixed = z @ z.detach().T / temperature  # mixtures are constants to the gradient
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
    if self_positive is not None:
        single, itself = self_positive & (count == 0), s.diagonal()
        groups.append(itself.masked_fill(~single, -torch.inf))
        total, count = total + itself * single, count + single
    valid = count > 0
    terms = lse(torch.stack(groups), 0) - total / count.clamp(min=1)
    return torch.where(valid, terms, 0), valid


def _hard_positives(
    fixed: Tensor, y: Tensor, window: Tensor | float, pairs: Callable[[int], Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Over each anchor's hard positives: log-sum-exp of similarities, their sum, their number; `[N]` each."""
    ordered, order = y.sort()
    gap = ordered[:, None] - ordered  # rows of equal target have gap 0 and are neighbours
    below, above = ((gap > 0) & (gap < window)).sum(1), ((gap < 0) & (-gap < window)).sum(1)
    first, last = (gap > 0).sum(1), (gap >= 0).sum(1)
    drawn: dict[int, Tensor] = {}  # pairs of each anchor, if not all are used
    starts, counts = torch.stack([first, below * above]).tolist()
    if pairs is not None:
        for i, (start, count) in enumerate(zip(starts, counts, strict=True)):
            if count:
                drawn[i] = drawn[start] if start < i else pairs(count)  # rows of equal target share their pairs
        counts = [len(drawn.get(i, ())) for i in range(len(y))]
    number = torch.tensor(counts).to(y.device, non_blocking=True)
    # Sorted by target, an anchor's rows below it end where its own begin, and those above begin where they end.
    triples = _Triples(ordered, first - below, last, above, number, counts, drawn)
    log_sums, sums = _Mixed.apply(triples, fixed[order][:, order])  # type: ignore[no-untyped-call]
    back = order.argsort()
    return log_sums[back], sums[back], number[back]


@dataclass
class _Triples:
    """Which pairs (j, k) mix to the target of each anchor, rows sorted by target; made block by block."""

    y: Tensor
    below: Tensor
    """First row of each anchor's window."""
    above: Tensor
    """First row above each anchor."""
    width: Tensor
    """Rows in the window above."""
    number: Tensor
    counts: list[int]
    """The same, on the host."""
    drawn: dict[int, Tensor]
    """Of some anchors, the pairs that are used, where not all are; on the device of the generator."""

    def blocks(self, most: int = 1 << 18) -> Iterator[tuple[slice, Tensor, Tensor, Tensor, Tensor]]:
        """Anchors and, for all their pairs, the anchor (from 0 in the block), j, k and the share of j."""
        counts, start = self.counts, 0
        while start < len(counts):
            stop, total = start, 0
            while stop < len(counts) and (stop == start or total + counts[stop] <= most):
                total += counts[stop]
                stop += 1
            part = slice(start, stop)
            anchor = torch.repeat_interleave(self.number[part], output_size=total)
            if self.drawn:
                picks = [self.drawn[i] for i in range(start, stop) if i in self.drawn]
                pick = torch.cat(picks).to(anchor.device, non_blocking=True) if picks else anchor
            else:
                pick = (
                    torch.arange(total, device=anchor.device)
                    - (self.number[part].cumsum(0) - self.number[part])[anchor]
                )
            i = anchor + start
            j, k = self.below[i] + pick // self.width[i], self.above[i] + pick % self.width[i]
            yield part, anchor, j, k, (self.y[k] - self.y[i]) / (self.y[k] - self.y[j])
            start = stop


class _Mixed(Function):
    """Log-sum-exp and sum of `a s_ij + (1 - a) s_ik` over each anchor's pairs, with their gradients in one pass.

    Memory O(N^2 + pairs of a block): the gradient of `s` of both results, without a list of all pairs.
    """

    @staticmethod
    @without_autocast
    def forward(ctx: Any, triples: _Triples, s: Tensor) -> tuple[Tensor, Tensor]:
        log_sums, sums = s.new_full((len(s),), -torch.inf), s.new_zeros(len(s))
        d_log, d_sum = torch.zeros_like(s), torch.zeros_like(s)
        for part, anchor, j, k, a in triples.blocks():
            size, columns = part.stop - part.start, s.shape[1]
            rows = s[part].flatten()
            left, right = anchor * columns + j, anchor * columns + k
            mixed = a * rows[left] + (1 - a) * rows[right]
            peak = rows.new_full((size,), -torch.inf).scatter_reduce_(0, anchor, mixed, "amax")
            weight = (mixed - peak[anchor]).exp_()
            total = rows.new_zeros(size).index_add_(0, anchor, weight)
            log_sums[part] = total.log() + peak.masked_fill(total == 0, 0)
            sums[part] = rows.new_zeros(size).index_add_(0, anchor, mixed)
            weight /= total[anchor]
            for gradient, each in ((d_log[part].view(-1), weight), (d_sum[part].view(-1), torch.ones_like(weight))):
                gradient.index_add_(0, left, a * each).index_add_(0, right, (1 - a) * each)
        ctx.save_for_backward(d_log, d_sum)
        return log_sums, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_log: Tensor, g_sum: Tensor) -> tuple[None, Tensor]:
        d_log, d_sum = ctx.saved_tensors
        return None, g_log[:, None] * d_log + g_sum[:, None] * d_sum


@register("supremix")
@dataclass(eq=False, kw_only=True)
class SupReMix(Tempered):
    """SupReMix over the rows of all names, for one continuous target.

    The paper takes two views of each item, so every row has a positive. An item of one view is its own positive if it
    has no other, as a row of a rare target or without hard positives.

    `window` is in the target's units, as 5 is for ages in years. Far below the distance between targets, there are no
    hard positives; far above it, every pair of rows around a target is one. When it is not given, it is 0.3 of the
    targets' standard deviation; a training run takes that of all training rows.

    Example:
        >>> targets = torch.tensor([[0.0], [1], [2]])
        >>> angles = torch.tensor([0.0, 0.5, 1.0])
        >>> z = {"image": torch.stack([angles.cos(), angles.sin()], 1)}
        >>> loss = SupReMix(mixing="positive", window=1.5)
        >>> round(loss(z, targets=targets).item(), 3)  # row 1 is half of rows 0 and 2, in its target and its direction
        1.264
        >>> round(loss(z, targets=targets[[1, 0, 2]]).item(), 3)
        1.476
    """

    window_share: ClassVar[float] = 0.3

    family = "regression"
    paper = "Wu et al. 2023, arXiv 2309.16633"
    formula = "mean_i lse_{c in A(i)}(u_i.x_c / t + log(1 + |y_i - y_c|)) - mean_{p in P(i)} u_i.x_p / t"
    cost = "N = V B rows: time O(N^2 D + N P), memory O(N^2), P hard positives per anchor"
    use = "a continuous target, pre-training before a linear head; set window in the target's units"
    fits = ("targets",)

    host_reads = 2  # how many rows have a target, and how many hard positives each of them has

    temperature: Annotated[float, Gt(0)] = 0.3
    mixing: Literal["both", "negative", "positive", "none"] = "both"
    window: Annotated[float, Gt(0)] | None = None
    mix_alpha: Annotated[float, Gt(0)] = 2.0  # Beta(2, 8): a hard negative is 0.2 anchor on average
    mix_beta: Annotated[float, Gt(0)] = 8.0
    magnify: Literal["linear", "squared"] = "linear"
    max_positives: Annotated[int, Ge(1)] = 4096  # hard positives per target, drawn at random beyond that

    @classmethod
    def target_defaults(cls, deviation: float) -> dict[str, float]:
        return {"window": three_digits(cls.window_share * deviation)}

    def forward(
        self,
        z: Embeddings,
        *,
        targets: Tensor,
        present: dict[str, Tensor] | None = None,
        weights: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        if targets.shape[1] != 1:
            raise ValueError(f"supremix orders items by one target, got {targets.shape[1]}")
        x, items = stack_present(z, present)
        y = targets[items, 0].to(x.dtype)
        rows = len(x)
        (known,) = chosen([~y.isnan()])
        x, y, items = x[known], y[known], items[known]
        if len(x) < 2:
            return zero_loss(z)
        window = self.window_share * y.std() if self.window is None else self.window
        all_fit = (len(x) - 1) ** 2 // 4 <= self.max_positives  # a target in the middle has the most pairs
        terms, valid = supremix(
            unit(x),
            y,
            self.tau,
            beta(self.mix_alpha, self.mix_beta, (len(x), len(x)), x, generator)
            if self.mixing in ("both", "negative")
            else None,
            window if self.mixing in ("both", "positive") else None,
            linear if self.magnify == "linear" else squared,
            None if all_fit else lambda number: self.draw_pairs(number, generator),
            group_sizes(items)[0] == 1,
        )
        self.count("dropped_anchors", rows - valid.sum())
        return mean_where(valid, terms, None if weights is None else weights[items])

    def draw_pairs(self, number: int, generator: torch.Generator | None) -> Tensor:
        """Which of `number` hard positives are used: all, or `max_positives` draws with replacement."""
        if number <= self.max_positives:
            return torch.arange(number)
        where = None if generator is None else generator.device
        return torch.randint(number, (self.max_positives,), generator=generator, device=where)
