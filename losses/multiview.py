"""Losses on all views of an item at once; modalities are views like any other.

Every function takes V views `[B, D]` of unit rows, row i of all being one item, and may take `there` `[V, B]`,
False where an item lacks a view: such a row is neither anchor, nor positive, nor negative. Items with fewer
than two views are negatives only.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from clx.losses.base import Embeddings, Pairwise, Tempered, average, nothing, register, several
from clx.losses.infonce import nt_xent
from clx.losses.primitives.streaming import cross_margins, gram, is_small, lse, mean, softplus, tiny_side, unit, units
from clx.losses.primitives.tiles import Apart, finite, off_diagonal, off_items


def mv_infonce(views: Sequence[Tensor], temperature: Tensor | float, there: Tensor | None = None) -> Tensor:
    """MV-InfoNCE: all positives of an item in one numerator, all other rows in one denominator.

    mean_i -log( sum_{l != m} exp(u_li.u_mi / t) / sum_l sum_{(m, j) != (l, i)} exp(u_li.u_mj / t) )

    Returns:
        Scalar in nats; 0 for a batch of one.

    Reference:
        Koromilas et al. 2025, arXiv 2507.06979. Rows of the same view are negatives too, as in its code.
    """
    positive, negative = _positives(views, temperature, there).flatten(1), _negatives(views, temperature, there)
    if there is not None:
        anchors = there.sum(0) > 1
        positive, negative = positive[anchors], negative[:, anchors]
    elif len(views[0]) > 1:  # nothing is left out of which all could be
        return softplus(negative.logsumexp(0) - positive.logsumexp(1)).mean()
    return mean(softplus(lse(negative, 0) - lse(positive, 1)))


def mv_dhel(views: Sequence[Tensor], temperature: Tensor | float, there: Tensor | None = None) -> Tensor:
    """MV-DHEL: alignment over all pairs of views, uniformity within each view by itself.

    mean_i [ sum_l log sum_{j != i} exp(u_li.u_lj / t) - log sum_{l < m} exp(u_li.u_mi / t) ]

    Returns:
        Scalar in nats, possibly negative; 0 for a batch of one. An item that is the only one with some view has
        no term for it, and an item without any negative is left out.

    Reference:
        Koromilas et al. 2025, arXiv 2507.06979. In log space: the published product of sums overflows.
    """
    pairs = _positives(views, temperature, there)
    if there is None and len(views[0]) > 1:
        alignment = pairs.flatten(1).logsumexp(1) - math.log(2)  # every pair is there in both orders
        return (_within_all(views, temperature) - alignment).mean()
    there = _everywhere(views) if there is None else there
    repulsion = torch.cat([_negatives([v], temperature, t[None]) for v, t in zip(views, there, strict=True)])
    repelled = repulsion != -torch.inf
    anchors = (there.sum(0) > 1) & repelled.any(0)
    alignment = lse(pairs[anchors].flatten(1), 1) - math.log(2)
    return mean(torch.where(repelled, repulsion, 0)[:, anchors].sum(0) - alignment)


def poly_view(
    views: Sequence[Tensor],
    temperature: Tensor | float,
    form: Literal["geometric", "arithmetic", "sufficient"] = "geometric",
    there: Tensor | None = None,
) -> Tensor:
    """Poly-View: each view predicts the others, against the rows of other items in every view.

    l_iab = -log( exp(u_ai.u_bi / t) / (exp(u_ai.u_bi / t) + sum_{j != i} sum_c exp(u_ai.u_cj / t)) )

    geometric: mean_{i, a, b != a} l_iab; arithmetic: mean_{i, a} -log( 1/(V-1) sum_{b != a} exp(-l_iab) );
    sufficient: InfoNCE from u_ai to the mean of the item's other views, at length 1, among such means.

    Returns:
        Scalar in nats; 0 for a batch of one.

    Reference:
        Shidani et al. 2024, arXiv 2403.05490. Whether its sufficient statistic is at length 1 is not known here.
    """
    if form == "sufficient":
        return mean(torch.cat([_to_mean_of_others(views, a, temperature, there) for a in range(len(views))]))
    there = _everywhere(views) if there is None else there
    positive = _positives(views, temperature, there).transpose(0, 1)  # [V, B, V]
    negative = _negatives(views, temperature, there)
    terms = softplus(negative[:, :, None] - positive)
    usable = positive != -torch.inf
    if form == "geometric":
        return mean(terms[usable])
    anchors = usable.any(2)
    count = usable.sum(2)[anchors].to(terms.dtype)
    return mean(count.log() - lse((-terms).masked_fill(~usable, -torch.inf)[anchors], 1))


def average_view(
    views: Sequence[Tensor],
    temperature: Tensor | float,
    two_view: Literal["nt-xent", "mv-dhel"] = "nt-xent",
    renormalise: bool = False,
    there: Tensor | None = None,
) -> Tensor:
    """Mean over views a of a two-view loss between u_a and the mean of the item's other views.

    Args:
        two_view: the two-view loss.
        renormalise: bring the mean back to length 1; without it disagreeing views weigh less.

    Returns:
        Scalar in nats; 0 for a batch of one.
    """
    terms = []
    for a in range(len(views)):
        x, other = _with_mean_of_others(views, a, there, renormalise)
        if len(x) > 1:
            terms.append(nt_xent(x, other, temperature) if two_view == "nt-xent" else mv_dhel([x, other], temperature))
    return average(terms) if terms else views[0][:0].sum()


def _everywhere(views: Sequence[Tensor]) -> Tensor:
    return torch.ones(len(views), len(views[0]), dtype=torch.bool, device=views[0].device)


def _positives(views: Sequence[Tensor], temperature: Tensor | float, there: Tensor | None) -> Tensor:
    """Similarities between the views of each item `[B, V, V]`; -inf on the diagonal and for absent views."""
    stacked = torch.stack(list(views), 1)
    unusable = torch.eye(len(views), dtype=torch.bool, device=stacked.device)
    if there is not None:
        unusable = unusable | ~(there.T[:, :, None] & there.T[:, None, :])
    return (torch.bmm(stacked, stacked.mT) / temperature).masked_fill(unusable, -torch.inf)


def _negatives(views: Sequence[Tensor], temperature: Tensor | float, there: Tensor | None) -> Tensor:
    """Log-sum-exp of every row over all rows of other items, `[V, B]`; -inf for absent rows."""
    size = len(views[0])
    if there is None or bool(there.all()):
        return gram(views, temperature, off_items(size))[0].view(len(views), size)
    items = torch.arange(size, device=there.device).expand_as(there)[there]
    edit = Apart(items) if len(views) > 1 else off_diagonal
    log_sum = gram([v[t] for v, t in zip(views, there, strict=True)], temperature, edit)[0]
    return log_sum.new_full(there.shape, -torch.inf).masked_scatter(there, log_sum)


def _within_all(views: Sequence[Tensor], temperature: Tensor | float) -> Tensor:
    """Sum over the views of the log-sum-exp of every row over the other rows of its view, `[B]`."""
    if not is_small(views[0], len(views[0]), tiny_side // 2):
        return torch.cat([_negatives([v], temperature, None) for v in views]).sum(0)
    stacked = torch.stack(list(views))
    s = torch.bmm(stacked, stacked.mT) / finite(temperature)
    own = torch.eye(s.shape[1], dtype=torch.bool)
    return s.masked_fill(own, -torch.inf).logsumexp(2).sum(0)


def _with_mean_of_others(
    views: Sequence[Tensor], a: int, there: Tensor | None, renormalise: bool
) -> tuple[Tensor, Tensor]:
    """View a and the mean of the others, of the items that have both."""
    others = [k for k in range(len(views)) if k != a]
    if there is None:
        other = functools.reduce(torch.add, (views[k] for k in others)) / len(others)
        return views[a], unit(other) if renormalise else other
    count = there[others].sum(0)
    both = there[a] & (count > 0)
    total = torch.stack([torch.where(there[k, :, None], views[k], 0) for k in others]).sum(0)
    other = (total / count.clamp(min=1)[:, None])[both]
    return views[a][both], unit(other) if renormalise else other


def _to_mean_of_others(views: Sequence[Tensor], a: int, temperature: Tensor | float, there: Tensor | None) -> Tensor:
    x, other = _with_mean_of_others(views, a, there, renormalise=True)
    return softplus(cross_margins(x, other, temperature, both=False))


@dataclass(eq=False, kw_only=True)
class MultiView(Tempered):
    """What the losses over all names at once share: unit rows, and the mask of what is present."""

    family = "multi-view"
    temperature: Annotated[float, Gt(0)] = 0.5

    def forward(self, z: Embeddings, *, present: dict[str, Tensor] | None = None) -> Tensor:
        several(z)
        if present is None:
            return self.of_views(list(units(z).values()), None)
        there = torch.stack([present[name] for name in z])
        dropped = int((there.sum(0) < 2).sum())
        if dropped:
            self.log["dropped_anchors"] = dropped
        # what stands in absent rows may be anything, NaN too
        views = [unit(torch.where(present[name][:, None], x, 0)) for name, x in z.items()]
        return self.of_views(views, there) if dropped < there.shape[1] else nothing(z)

    def of_views(self, views: list[Tensor], there: Tensor | None) -> Tensor:
        raise NotImplementedError


@register("mv-infonce")
@dataclass(eq=False, kw_only=True)
class MVInfoNCE(MultiView):
    """One softmax per item over all its positives and all other rows.

    Example:
        >>> views = {name: torch.eye(4) for name in ("image", "text", "audio")}
        >>> round(MVInfoNCE()(views).item(), 3)
        0.476
        >>> round(MVInfoNCE()(views | {"audio": torch.eye(4).roll(1, 0)}).item(), 3)  # the sounds are of other items
        1.335
    """

    paper = "Koromilas et al. 2025, arXiv 2507.06979"
    formula = "mean_i lse_{l, (m,j) != (l,i)}(u_li.u_mj / t) - lse_{l != m}(u_li.u_mi / t)"
    cost = "time O(V^2 B^2 D), memory O(V B D)"
    use = "three views or more, or several modalities, that should all meet in one point"

    def of_views(self, views: list[Tensor], there: Tensor | None) -> Tensor:
        return mv_infonce(views, self.tau, there)


@register("mv-dhel")
@dataclass(eq=False, kw_only=True)
class MVDHEL(MultiView):
    """Alignment over all views, uniformity in each view by itself.

    Example:
        >>> views = {name: torch.eye(4) for name in ("image", "text", "audio")}
        >>> round(MVDHEL()(views).item(), 3)  # 3 views: 3 log(3 negatives) - log(3 pairs at e^5)
        -2.803
        >>> round(MVDHEL()(views | {"audio": torch.eye(4).roll(1, 0)}).item(), 3)  # the sounds are of other items
        -1.718
    """

    paper = "Koromilas et al. 2025, arXiv 2507.06979"
    formula = "mean_i sum_l lse_{j != i}(u_li.u_lj / t) - lse_{l < m}(u_li.u_mi / t)"
    cost = "time O(V B^2 D), memory O(V B D)"
    use = "many views: cheaper than mv-infonce, and alignment never pulls against uniformity"

    temperature: Annotated[float, Gt(0)] = 0.2

    def of_views(self, views: list[Tensor], there: Tensor | None) -> Tensor:
        return mv_dhel(views, self.tau, there)


@register("poly-view")
@dataclass(eq=False, kw_only=True)
class PolyView(MultiView):
    """Each view predicts the others, by the geometric or arithmetic mean or by sufficient statistics.

    Example:
        >>> views = {name: torch.eye(4) for name in ("image/0", "image/1", "image/2")}
        >>> [round(PolyView(form=form)(views).item(), 3) for form in ("geometric", "arithmetic", "sufficient")]
        [0.797, 0.797, 0.341]
    """

    paper = "Shidani et al. 2024, arXiv 2403.05490"
    formula = "mean_{i,a,b} log(1 + exp(lse_{j != i, c}(u_ai.u_cj / t) - u_ai.u_bi / t))"
    cost = "time O(V^2 B^2 D), memory O(V B D + V^2 B)"
    use = "more views in place of a larger batch"

    form: Literal["geometric", "arithmetic", "sufficient"] = "geometric"

    def of_views(self, views: list[Tensor], there: Tensor | None) -> Tensor:
        return poly_view(views, self.tau, self.form, there)


@register("average-view")
@dataclass(eq=False, kw_only=True)
class AverageView(MultiView):
    """Each view against the mean of the others, by a two-view loss.

    Example:
        >>> views = {name: torch.eye(4) for name in ("image/0", "image/1", "image/2")}
        >>> round(AverageView(two_view="nt-xent")(views).item(), 3)  # views agree, so their mean is each of them
        0.594
    """

    paper = "a baseline in Koromilas et al. 2025, arXiv 2507.06979"
    formula = "mean_a loss(u_a, mean_{b != a} u_b)"
    cost = "time O(V B^2 D), memory O(B D)"
    use = "a cheap baseline for three views or more"

    two_view: Literal["nt-xent", "mv-dhel"] = "nt-xent"
    renormalise: bool = False

    def of_views(self, views: list[Tensor], there: Tensor | None) -> Tensor:
        return average_view(views, self.tau, self.two_view, self.renormalise, there)


@register("pairwise")
@dataclass(eq=False, kw_only=True)
class PairwiseViews(Pairwise):
    """A two-view loss averaged over all pairs of names.

    Example:
        >>> views = {name: torch.eye(4) for name in ("image/0", "image/1", "image/2")}
        >>> round(PairwiseViews(two_view="nt-xent")(views).item(), 3)
        0.594
    """

    family = "multi-view"
    paper = "the usual baseline; see Koromilas et al. 2025, arXiv 2507.06979"
    formula = "mean_{a < b} loss(u_a, u_b)"
    cost = "time O(V^2 B^2 D), memory O(B D)"
    use = "the baseline that losses over all views at once are compared with"

    temperature: Annotated[float, Gt(0)] = 0.5
    two_view: Literal["nt-xent", "mv-dhel"] = "nt-xent"

    def pair(self, x: Tensor, y: Tensor, ids: Tensor | None) -> Tensor:
        if self.two_view == "nt-xent":
            return nt_xent(x, y, self.tau, ids)
        if ids is not None:
            raise ValueError("exclude works with two_view='nt-xent' only")
        return mv_dhel([x, y], self.tau)
