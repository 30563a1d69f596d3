"""Losses on all views of an item at once. Modalities are views like any other.

Every function takes V views `[B, D]` of unit rows, in which row i of each view is item i. It may take `present`
`[V, B]`, False where an item lacks a view: such a row is no anchor, no positive and no negative. An item with fewer
than two views is a negative only.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from clx.losses.base import Embeddings, Tempered, register, require_two_inputs
from clx.losses.primitives.autograd import nan_unless_finite
from clx.losses.primitives.edits import DifferentIds, off_absent_items, off_diagonal, off_items
from clx.losses.primitives.functional import lse, softplus, unit, units, weighted_mean
from clx.losses.primitives.masks import chosen, mean_where
from clx.losses.primitives.streaming import cross_margins, gram
from clx.losses.primitives.tiles import is_small, tiny_side


def mv_infonce(views: Sequence[Tensor], temperature: Tensor | float, present: Tensor | None = None) -> Tensor:
    """MV-InfoNCE: all positives of an item in one numerator, all other rows in one denominator.

    mean_i -log( sum_{l != m} exp(u_li.u_mi / t) / sum_l sum_{(m, j) != (l, i)} exp(u_li.u_mj / t) )

    Returns:
        Scalar in nats; 0 for a batch of one.

    Reference:
        Koromilas et al. 2025, arXiv 2507.06979. Rows of the same view are negatives too, as in its code.
    """
    positive, negative = _positives(views, temperature, present).flatten(1), _negatives(views, temperature, present)
    if present is None:
        if len(views[0]) > 1:  # no row can be without positives or negatives
            return softplus(negative.logsumexp(0) - positive.logsumexp(1)).mean()
        return weighted_mean(softplus(lse(negative, 0) - lse(positive, 1)))
    anchors = present.sum(0) > 1
    total, others = lse(positive, 1).masked_fill(~anchors, 0), lse(negative, 0).masked_fill(~anchors, 0)
    return mean_where(anchors, softplus(others - total))


def mv_dhel(views: Sequence[Tensor], temperature: Tensor | float, present: Tensor | None = None) -> Tensor:
    """MV-DHEL: alignment over all pairs of views, uniformity within each view by itself.

    mean_i [ sum_l log sum_{j != i} exp(u_li.u_lj / t) - log sum_{l < m} exp(u_li.u_mi / t) ]

    Returns:
        Scalar in nats, possibly negative; 0 for a batch of one. An item that is the only one with some view has
        no term for it, and an item without any negative is left out.

    Reference:
        Koromilas et al. 2025, arXiv 2507.06979. In log space: the published product of sums overflows.
    """
    pairs = _positives(views, temperature, present)
    if present is None and len(views[0]) > 1:
        alignment = pairs.flatten(1).logsumexp(1) - math.log(2)  # every pair is in it twice, in both orders
        return (_within_all(views, temperature) - alignment).mean()
    present = _all_present(views) if present is None else present
    repulsion = torch.cat([_negatives([v], temperature, t[None]) for v, t in zip(views, present, strict=True)])
    repelled = repulsion != -torch.inf
    anchors = (present.sum(0) > 1) & repelled.any(0)
    alignment = (lse(pairs.flatten(1), 1) - math.log(2)).masked_fill(~anchors, 0)
    return mean_where(anchors, torch.where(repelled, repulsion, 0).sum(0) - alignment)


def poly_view(
    views: Sequence[Tensor],
    temperature: Tensor | float,
    form: Literal["geometric", "arithmetic", "sufficient"] = "geometric",
    present: Tensor | None = None,
) -> Tensor:
    """Poly-View: each view predicts the others, against the rows of other items in every view.

    l_iab = -log( exp(u_ai.u_bi / t) / (exp(u_ai.u_bi / t) + sum_{j != i} sum_c exp(u_ai.u_cj / t)) )

    geometric: mean_{i, a, b != a} l_iab; arithmetic: mean_{i, a} -log( 1/(V-1) sum_{b != a} exp(-l_iab) );
    sufficient: InfoNCE from u_ai to the mean of the item's other views, at length 1, among such means.

    Returns:
        Scalar in nats; 0 for a batch of one.

    Reference:
        Shidani et al. 2024, arXiv 2403.05490. That the sufficient statistic has length 1 is a choice made here.
    """
    if form == "sufficient":
        pairs = with_mean_of_others(views, present, renormalise=True)
        return weighted_mean(torch.cat([softplus(cross_margins(*pair, temperature, both=False)) for pair in pairs]))
    present = _all_present(views) if present is None else present
    positive = _positives(views, temperature, present).transpose(0, 1)  # [V, B, V]
    negative = _negatives(views, temperature, present)
    usable = positive != -torch.inf
    terms = softplus(negative[:, :, None] - positive.masked_fill(~usable, 0))
    if form == "geometric":
        return mean_where(usable, terms)
    anchors = usable.any(2)
    shares = lse((-terms).masked_fill(~usable, -torch.inf), 2).masked_fill(~anchors, 0)
    return mean_where(anchors, usable.sum(2).clamp(min=1).to(terms.dtype).log() - shares)


def _all_present(views: Sequence[Tensor]) -> Tensor:
    return torch.ones(len(views), len(views[0]), dtype=torch.bool, device=views[0].device)


def _positives(views: Sequence[Tensor], temperature: Tensor | float, present: Tensor | None) -> Tensor:
    """Similarities between the views of each item `[B, V, V]`; -inf on the diagonal and for absent views."""
    stacked = torch.stack(list(views), 1)
    unusable = torch.eye(len(views), dtype=torch.bool, device=stacked.device)
    if present is not None:
        unusable = unusable | ~(present.T[:, :, None] & present.T[:, None, :])
    return (torch.bmm(stacked, stacked.mT) / temperature).masked_fill(unusable, -torch.inf)


def _negatives(views: Sequence[Tensor], temperature: Tensor | float, present: Tensor | None) -> Tensor:
    """Log-sum-exp of every row over all rows of other items, `[V, B]`; -inf for absent rows."""
    size = len(views[0])
    if present is None or (present.is_cpu and bool(present.all())):
        return gram(views, temperature, off_items(size))[0].view(len(views), size)
    if not present.is_cpu:  # how many rows are there is not known on the host
        edit = off_absent_items(size, present.flatten())
        return gram(views, temperature, edit)[0].view(len(views), size)
    items = torch.arange(size, device=present.device).expand_as(present)[present]
    others = DifferentIds(items) if len(views) > 1 else off_diagonal
    log_sum = gram([v[t] for v, t in zip(views, present, strict=True)], temperature, others)[0]
    return log_sum.new_full(present.shape, -torch.inf).masked_scatter(present, log_sum)


def _within_all(views: Sequence[Tensor], temperature: Tensor | float) -> Tensor:
    """Sum over the views of the log-sum-exp of every row over the other rows of its view, `[B]`."""
    if not is_small(views[0], len(views[0]), tiny_side // 2):
        return torch.cat([_negatives([v], temperature, None) for v in views]).sum(0)
    stacked = torch.stack(list(views))
    s = torch.bmm(stacked, stacked.mT) / nan_unless_finite(temperature)
    diagonal = torch.eye(s.shape[1], dtype=torch.bool)
    return s.masked_fill(diagonal, -torch.inf).logsumexp(2).sum(0)


def with_mean_of_others(
    views: Sequence[Tensor], present: Tensor | None, renormalise: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each view: its rows and the means of the other views, `[N, D]` each, of the N items that have both."""
    others = [[k for k in range(len(views)) if k != a] for a in range(len(views))]
    if present is None:
        for a, rest in enumerate(others):
            other = functools.reduce(torch.add, (views[k] for k in rest)) / len(rest)
            yield views[a], unit(other) if renormalise else other
        return
    rows = chosen([present[a] & present[rest].any(0) for a, rest in enumerate(others)])
    for a, (rest, both) in enumerate(zip(others, rows, strict=True)):
        total = torch.stack([torch.where(present[k, :, None], views[k], 0) for k in rest]).sum(0)
        other = (total / present[rest].sum(0).clamp(min=1)[:, None])[both]
        yield views[a][both], unit(other) if renormalise else other


@dataclass(eq=False, kw_only=True)
class MultiView(Tempered):
    """Base of the losses over all names at once: makes unit rows and one mask of what is present."""

    family = "multi-view"
    temperature: Annotated[float, Gt(0)] = 0.5

    def forward(self, z: Embeddings, *, present: dict[str, Tensor] | None = None) -> Tensor:
        require_two_inputs(z)
        if present is None:
            return self.of_views(list(units(z).values()), None)
        mask = torch.stack([present[name] for name in z])
        self.count("dropped_anchors", (mask.sum(0) < 2).sum())
        # absent rows may hold anything, NaN too
        views = [unit(torch.where(present[name][:, None], x, 0)) for name, x in z.items()]
        return self.of_views(views, mask)

    def of_views(self, views: list[Tensor], present: Tensor | None) -> Tensor:
        """The loss of unit rows `[B, D]` of each name, and where they are present `[V, B]`; None where all are."""
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
    fits = ("several modalities", "one modality")

    def of_views(self, views: list[Tensor], present: Tensor | None) -> Tensor:
        return mv_infonce(views, self.tau, present)


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
    fits = ("several modalities", "one modality")

    temperature: Annotated[float, Gt(0)] = 0.2

    def of_views(self, views: list[Tensor], present: Tensor | None) -> Tensor:
        return mv_dhel(views, self.tau, present)


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
    fits = ("one modality",)
    ours = "form: sufficient has its means at length 1, of which the paper says nothing"

    form: Literal["geometric", "arithmetic", "sufficient"] = "geometric"

    def of_views(self, views: list[Tensor], present: Tensor | None) -> Tensor:
        return poly_view(views, self.tau, self.form, present)
