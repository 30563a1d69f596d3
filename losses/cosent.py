"""CoSENT: pairs with a score, whose cosines should have the order of the scores."""

import itertools
import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Gt
from torch import Tensor, nn
from torch.autograd import Function

from clx.losses.base import Embeddings, Tempered, average, register, require_two_inputs
from clx.losses.primitives.autograd import at_least_float32, first_order_only, sum_dtype, without_autocast
from clx.losses.primitives.functional import paired_similarity, unit
from clx.losses.primitives.masks import mean_where


def cosent(x: Tensor, y: Tensor, scores: Tensor, temperature: Tensor | float, counted: Tensor | None = None) -> Tensor:
    """CoSENT: every two pairs of which one has the lower score, and should have the lower cosine.

    log( 1 + sum_{i, j: s_i < s_j} exp((x_i.y_i - x_j.y_j) / t) )

    Args:
        x, y: `[B, D]`, unit rows; row i of both is one pair.
        scores: `[B]`, any numbers, of which the order alone counts; without NaN.
        temperature: positive.
        counted: `[B]`, False for pairs to leave out, whose rows must be finite; all by default.

    Returns:
        Scalar in nats, not divided by the number of terms; 0 where all scores are equal.

    Reference:
        Su 2022, https://kexue.fm/archives/8847; Huang et al. 2024, IEEE/ACM Transactions on Audio, Speech, and
        Language Processing.
    """
    return ordered_loss(paired_similarity(at_least_float32(x), at_least_float32(y), temperature), scores, counted)


def ordered_loss(logits: Tensor, scores: Tensor, counted: Tensor | None = None) -> Tensor:
    """log(1 + sum over i, j with s_i < s_j of exp(logits_i - logits_j)) of two `[B]`, in time O(B log B); scalar.

    Of rows that are not `counted` `[B]`, scores may be anything and logits any finite number.
    """
    return _Ordered.apply(logits, scores, counted)  # type: ignore[no-any-return, no-untyped-call]


class _Ordered(Function):
    """The loss and its gradient from cumulative log-sum-exps along the order of the scores.

    With P_k the log-sum-exp of the logits of lower scores, and L_k that of the negative logits of higher ones, the sum
    is that of exp(logit_k + L_k), and its gradient exp(logit_k + L_k) - exp(P_k - logit_k): both of one sign, so that
    nothing but their difference can cancel.
    """

    @staticmethod
    @without_autocast
    def forward(ctx: Any, logits: Tensor, scores: Tensor, counted: Tensor | None) -> Tensor:
        if counted is not None:  # above all others by score, where they add exp(-inf) to what is compared with them
            logits, scores = logits.masked_fill(~counted, math.inf), scores.masked_fill(~counted, math.inf)
        ordered, order = scores.sort()
        s = logits[order].to(sum_dtype(logits))
        none = s.new_full((1,), -math.inf)
        lower = torch.cat([none, s.logcumsumexp(0)])[torch.searchsorted(ordered, ordered)]
        higher = torch.cat([(-s).flip(0).logcumsumexp(0).flip(0), none])
        higher = higher[torch.searchsorted(ordered, ordered, right=True)]
        above = s + higher if counted is None else torch.where(counted[order], s + higher, -math.inf)
        total = torch.cat([s.new_zeros(1), above]).logsumexp(0)
        slope = (above - total).exp() - (lower - s - total).exp()
        ctx.save_for_backward(torch.zeros_like(s).index_copy_(0, order, slope).to(logits.dtype))
        return total.to(logits.dtype)

    @staticmethod
    @first_order_only
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return g * slope, None, None


@register("cosent")
@dataclass(eq=False, kw_only=True)
class CoSENT(Tempered):
    """CoSENT over all pairs of names, each on the rows that have both and a score, the one target.

    The target says how alike the inputs of a row are: a score, or a flag of 0 and 1. Rows without one are left out and
    logged as `dropped_targets`. It is a loss of a whole batch: with one score in it there is nothing to order.

    Example:
        >>> one, other = torch.eye(3), torch.tensor([[1.0, 0, 0], [0, 1, 1], [1, 1, 0]])  # cosines 1, .71 and 0
        >>> loss = CoSENT()
        >>> round(loss({"a": one, "b": other}, targets=torch.tensor([[5.0], [3], [0]])).item(), 3)  # their own order
        0.003
        >>> round(loss({"a": one, "b": other}, targets=torch.tensor([[0.0], [1], [1]])).item(), 3)
        20.0
    """

    family = "regression"
    paper = "Su 2022, https://kexue.fm/archives/8847"
    formula = "log(1 + sum_{i, j: s_i < s_j} exp((x_i.y_i - x_j.y_j) / t)), s the scores"
    cost = "time O(B (D + log B)) per pair of names, memory O(B D)"
    use = "pairs with a score or a flag of how alike they are: sentences, duplicates, judged matches"
    fits = ("scores",)

    temperature: Annotated[float, Gt(0)] = 0.05

    def forward(self, z: Embeddings, *, targets: Tensor, present: dict[str, Tensor] | None = None) -> Tensor:
        require_two_inputs(z)
        if targets.dim() != 2 or targets.shape[1] != 1:
            raise ValueError(f"it takes one score for each pair, [B, 1], and got targets {[*targets.shape]}")
        known = ~targets[:, 0].isnan()
        if present is None and known.is_cpu and len(known) and bool(known.all()):  # a look costs less than masks there
            names = itertools.combinations(map(unit, z.values()), 2)
            return average([self.of_scores(self.similarity(x, y), targets[:, 0]) for x, y in names])
        self.count("dropped_targets", (~known).sum())
        terms, some = [], []
        for a, b in itertools.combinations(z, 2):
            both = known if present is None else known & present[a] & present[b]
            # rows that are left out may hold anything, NaN too
            x, y = (unit(torch.where(both[:, None], z[name], 0)) for name in (a, b))
            terms.append(self.of_scores(self.similarity(x, y), targets[:, 0], both))
            some.append(both.any())
        return mean_where(torch.stack(some), torch.stack(terms))

    def of_scores(self, similarity: Tensor, scores: Tensor, counted: Tensor | None = None) -> Tensor:
        """The loss of similarities and scores `[B]` of the pairs that are `counted` `[B]`, all by default."""
        return ordered_loss(similarity / self.tau, scores, counted)

    def similarity(self, x: Tensor, y: Tensor) -> Tensor:
        """Of each row of unit rows `x` with the same row of `y`, `[B]`."""
        return paired_similarity(x, y)


def angle_similarity(x: Tensor, y: Tensor) -> Tensor:
    """AnglE's similarity of pairs of unit rows `[B, D]`: `[B]`.

    |Re w + Im w| of w = sum_k a_k conj(b_k), a and b complex vectors whose real parts are the first halves of the rows
    and whose imaginary parts the second; an odd width is filled up by a zero. Rows that are opposite score as high as
    rows that are equal.

    Reference:
        Li & Li 2023, arXiv 2309.12871.
    """
    half = (x.shape[1] + 1) // 2
    (a, b), (c, d) = ((v[:, :half], nn.functional.pad(v[:, half:], (0, v.shape[1] % 2))) for v in (x, y))
    w: Tensor = torch.linalg.vecdot(a, c - d) + torch.linalg.vecdot(b, c + d)
    return w.abs()


@register("angle")
@dataclass(eq=False, kw_only=True)
class AnglE(CoSENT):
    """CoSENT on angles in the complex plane instead of cosines. A term beside others: opposite rows score high.

    Example:
        >>> one, other = torch.eye(4), torch.eye(4)[[0, 1, 3, 2]]
        >>> loss = AnglE()
        >>> round(loss({"a": one, "b": other}, targets=torch.tensor([[1.0], [1], [0], [0]])).item(), 3)
        0.0
        >>> round(loss({"a": one, "b": other}, targets=torch.tensor([[0.0], [0], [1], [1]])).item(), 3)
        21.386
    """

    paper = "Li & Li 2023, arXiv 2309.12871"
    formula = "log(1 + sum_{i, j: s_i < s_j} exp((a_i - a_j) / t)), a = |Re w + Im w|, w = sum_k x_k conj(y_k)"
    use = "beside cosent or infonce, at weight 0.02 (its library): cosines near 1 have hardly a gradient left, this has"

    def similarity(self, x: Tensor, y: Tensor) -> Tensor:
        return angle_similarity(x, y)
