"""The softmax family on two inputs: InfoNCE, CLIP, NT-Xent.

All of them are -log(e^p / (e^p + sum of e^n)) = softplus(N - p), with p the positive's logit and N the
log-sum-exp over the negatives; decoupled losses, in `dcl`, leave the positive out of the denominator, so N - p remains.
`cross_margins` and `gram_margins` give N - p of every row, `cross_loss` and `gram_loss` the mean of its softplus.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from clx.losses.base import register
from clx.losses.further_negatives import Negatives, SoftmaxWithNegatives, add_negatives
from clx.losses.pairwise import WEIGHED, Ids
from clx.losses.primitives.edits import DifferentIds, Edit, off_diagonal, off_items
from clx.losses.primitives.functional import paired_similarity, softplus, weighted_mean
from clx.losses.primitives.judged import Judged
from clx.losses.primitives.masks import group_sizes
from clx.losses.primitives.streaming import cross_loss, cross_margins, gram, gram_loss, gram_margins


def other_rows(ids: Ids | None, both: bool = True) -> Edit:
    """Edit for `x y^T` that leaves out each row's partner and, given ids `[B]`, all columns of its id.

    With `both` the columns are anchors, too, so that a pair has to be left out of both sums.
    """
    if isinstance(ids, Judged):
        return ids.from_either() if both else ids
    return off_diagonal if ids is None else DifferentIds(ids)


def infonce(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    ids: Ids | None = None,
    negatives: Negatives | None = None,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """InfoNCE: each row of `x` finds its own among the rows of `y`, and of the further negatives n where there are any.

    mean_i -log( exp(x_i.y_i / t) / (sum_j exp(x_i.y_j / t) + sum_k exp(x_i.n_k / t)) )

    Args:
        x, y: `[B, D]`, unit rows; row i of both is one item.
        temperature: positive.
        ids: `[B]`; other rows of equal id are left out of the denominator.
        negatives: rows that are candidates of every row of `x` and the partner of none.
        weights: `[B]`, the factor of each row's term, 1 by default.
        smoothing: share of the target that all rows of `y` which count have alike, as in torch's `cross_entropy`;
            further negatives have none.

    Returns:
        Scalar in nats; 0 for a batch of one without further negatives.

    Reference:
        van den Oord et al. 2018, arXiv 1807.03748; with negatives: Henderson et al. 2017, arXiv 1705.00652;
        Karpukhin et al. 2020, arXiv 2004.04906; with weights: GCL, Zhu et al. 2024, arXiv 2404.08535, of which no code
        is published: the divisor, rows and not their weights, is our own.
    """
    return choice_loss(x, y, temperature, ids, negatives, weights, smoothing, both=False)


def clip(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    ids: Ids | None = None,
    negatives: Negatives | None = None,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """CLIP: InfoNCE from `x` to `y` and from `y` to `x`, averaged.

    1/2 mean_i [ -log softmax_j(x_i.y_j / t)_i - log softmax_j(y_i.x_j / t)_i ]

    Further negatives stand beside the rows of `y`, for the rows of `x` alone: from `y` to `x` they are not looked at.

    Args, Returns: as `infonce`.

    Reference:
        Radford et al. 2021, figure 3, arXiv 2103.00020; with negatives: Yuksekgonul et al. 2023, arXiv 2210.01936.
    """
    return choice_loss(x, y, temperature, ids, negatives, weights, smoothing)


def choice_loss(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    ids: Ids | None,
    negatives: Negatives | None,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
    both: bool = True,
) -> Tensor:
    """`cross_loss`, where the rows of `x` choose among `negatives` as well, and each row's terms have its weight."""
    edit = None if ids is None else other_rows(ids, both)
    if negatives is None and weights is None and not smoothing:
        return cross_loss(x, y, temperature, edit, both)
    margins = cross_margins(x, y, temperature, edit or off_diagonal, both)
    if negatives is not None:
        margins = add_negatives(margins, x, y, temperature, negatives)
    terms = softplus(margins)
    if smoothing:
        sides = [apart(x, y, y, ids), apart(y, x, x, ids)] if both else [apart(x, y, y, ids)]
        terms = terms + smoothing * torch.cat(sides) / temperature
    return weighted_mean(terms, repeated(weights, len(terms)))


def apart(x: Tensor, partner: Tensor, candidates: Tensor, ids: Ids | None) -> Tensor:
    """How much more similar each row of `x` is to its partner than to the mean candidate, `[N]`.

    Args:
        x, partner, candidates: `[N, D]`.
        ids: `[N]`; of the candidates of a row's id its partner alone counts.
    """
    if isinstance(ids, Judged):
        raise ValueError("label_smoothing goes with exclude as a word, not by a second model")
    total, size = candidates.sum(0), len(candidates)
    if ids is None:
        return paired_similarity(x, partner - total / size)
    sizes, group = group_sizes(ids)
    own = torch.zeros_like(candidates).index_add(0, group, candidates)[group]
    return paired_similarity(x, partner - (total - own + partner) / (size + 1 - sizes)[:, None])


def repeated(weights: Tensor | None, size: int) -> Tensor | None:
    """The weights `[B]` of items, for `size` rows of one view after another."""
    return None if weights is None else weights.repeat(size // len(weights))


def log_sum_of_negatives(x: Tensor, y: Tensor, temperature: Tensor | float, ids: Ids | None = None) -> Tensor:
    """Log-sum-exp of each row of `[x; y]` over the rows of `x` and `y` of all other items: `[2B]`."""
    return gram(torch.cat([x, y]), temperature, other_items(ids) or off_items(len(x)))[0]


def other_items(ids: Ids | None) -> Edit | None:
    """Edit for `[x; y]` that leaves out all rows of an item's id; None, which the primitives take for its own two."""
    if isinstance(ids, Judged):
        return ids.stacked()
    return None if ids is None else DifferentIds(ids.repeat(2))


def nt_xent(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    ids: Ids | None = None,
    negatives: Negatives | None = None,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """NT-Xent: every row of both finds its partner among the other 2B - 1.

    mean over the 2B rows u of -log( exp(u.u' / t) / sum_{v != u} exp(u.v / t) ), u' the partner of u

    Further negatives are among the v of the rows of `x`.

    Args, Returns: as `infonce`.

    Reference:
        Chen et al. 2020, arXiv 2002.05709.
    """
    if negatives is None and weights is None and not smoothing:
        return gram_loss(x, y, temperature, other_items(ids))
    margins = gram_margins(x, y, temperature, other_items(ids))
    if negatives is not None:
        margins = add_negatives(margins, x, y, temperature, negatives)
    terms = softplus(margins)
    if smoothing:
        z, items = torch.cat([x, y]), torch.arange(len(x), device=x.device) if ids is None else ids
        twice = items if isinstance(items, Judged) else items.repeat(2)
        terms = terms + smoothing * apart(z, torch.cat([y, x]), z, twice) / temperature
    return weighted_mean(terms, repeated(weights, len(terms)))


@register("clip")
@dataclass(eq=False, kw_only=True)
class CLIP(SoftmaxWithNegatives):
    """InfoNCE in both directions, over all pairs of names.

    Example:
        >>> image, text = torch.eye(4), torch.eye(4)
        >>> loss = CLIP(temperature=0.5)
        >>> round(loss({"image": image, "text": text}).item(), 3)
        0.341
        >>> round(loss({"image": image, "text": text.roll(1, 0)}).item(), 3)  # each text beside another's image
        2.341
        >>> twins = torch.tensor([0, 0, 1, 2])  # items 0 and 1 are of one label, and no negatives of each other
        >>> round(CLIP(temperature=0.5, exclude="labels")({"image": image, "text": text}, labels=twins).item(), 3)
        0.29
    """

    family = "softmax"
    paper = "Radford et al. 2021, arXiv 2103.00020"
    formula = "1/2 mean_i [ lse_j(x_i.y_j / t) + lse_j(y_i.x_j / t) ] - x_i.y_i / t"
    cost = "time O(B^2 D) per pair of names, memory O(B D)"
    use = "the default for aligning two modalities; large batches help"
    fits = ("pairs", "several modalities")

    learn_temperature: bool = True
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0

    def pair(
        self,
        x: Tensor,
        y: Tensor,
        ids: Ids | None,
        negatives: Negatives | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        return clip(x, y, self.tau, ids, negatives, weights, self.label_smoothing)


@register("nt-xent")
@dataclass(eq=False, kw_only=True)
class NTXent(SoftmaxWithNegatives):
    """SimCLR's loss, over all pairs of names.

    Example:
        >>> views = {"image/0": torch.eye(4), "image/1": torch.eye(4)}
        >>> round(NTXent(temperature=0.5)(views).item(), 3)  # log(1 + 6 e^-2): 6 negatives at cosine 0
        0.594
    """

    family = "softmax"
    paper = "Chen et al. 2020, arXiv 2002.05709"
    formula = "mean over rows u of [x; y]: lse_{v != u}(u.v / t) - u.u' / t, u' the partner of u"
    cost = "time O(B^2 D) per pair of names, memory O(B D)"
    use = "two augmented views of one modality: rows of the same view are negatives too"
    fits = ("one modality",)
    ours = WEIGHED + "; columns of negatives in the sums of the first view's rows"

    temperature: Annotated[float, Gt(0)] = 0.5
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0

    def pair(
        self,
        x: Tensor,
        y: Tensor,
        ids: Ids | None,
        negatives: Negatives | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        return nt_xent(x, y, self.tau, ids, negatives, weights, self.label_smoothing)
