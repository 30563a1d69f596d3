"""The softmax family on two inputs: InfoNCE, CLIP, NT-Xent, DCL, DCLW.

All of them are -log(e^p / (e^p + sum of e^n)) = softplus(N - p), with p the positive's logit and N the
log-sum-exp over the negatives; decoupled losses leave the positive out of the denominator, so N - p remains.
`cross_margins` and `gram_margins` give N - p of every row, `cross_loss` and `gram_loss` the mean of its softplus.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from clx.losses.base import register
from clx.losses.pairwise import Negatives, Pairwise, PairwiseWithNegatives, add_negatives
from clx.losses.primitives.edits import DifferentIds, Edit, off_diagonal, off_items
from clx.losses.primitives.functional import paired_similarity, softplus
from clx.losses.primitives.streaming import cross_loss, cross_margins, gram, gram_loss, gram_margins


def other_rows(ids: Tensor | None) -> Edit:
    """Edit for `x y^T` that leaves out each row's partner and, given ids `[B]`, all columns of its id."""
    return off_diagonal if ids is None else DifferentIds(ids)


def infonce(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    ids: Tensor | None = None,
    negatives: Negatives | None = None,
) -> Tensor:
    """InfoNCE: each row of `x` finds its own among the rows of `y`, and of the further negatives n where there are any.

    mean_i -log( exp(x_i.y_i / t) / (sum_j exp(x_i.y_j / t) + sum_k exp(x_i.n_k / t)) )

    Args:
        x, y: `[B, D]`, unit rows; row i of both is one item.
        temperature: positive.
        ids: `[B]`; other rows of equal id are left out of the denominator.
        negatives: rows that are candidates of every row of `x` and the partner of none.

    Returns:
        Scalar in nats; 0 for a batch of one without further negatives.

    Reference:
        van den Oord et al. 2018, arXiv 1807.03748; with negatives: Henderson et al. 2017, arXiv 1705.00652;
        Karpukhin et al. 2020, arXiv 2004.04906.
    """
    return choice_loss(x, y, temperature, ids, negatives, both=False)


def clip(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    ids: Tensor | None = None,
    negatives: Negatives | None = None,
) -> Tensor:
    """CLIP: InfoNCE from `x` to `y` and from `y` to `x`, averaged.

    1/2 mean_i [ -log softmax_j(x_i.y_j / t)_i - log softmax_j(y_i.x_j / t)_i ]

    Further negatives stand beside the rows of `y`, for the rows of `x` alone: from `y` to `x` they are not looked at.

    Args, Returns: as `infonce`.

    Reference:
        Radford et al. 2021, figure 3, arXiv 2103.00020; with negatives: Yuksekgonul et al. 2023, arXiv 2210.01936.
    """
    return choice_loss(x, y, temperature, ids, negatives)


def choice_loss(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    ids: Tensor | None,
    negatives: Negatives | None,
    both: bool = True,
) -> Tensor:
    """`cross_loss`, where the rows of `x` choose among `negatives` as well."""
    edit = None if ids is None else DifferentIds(ids)
    if negatives is None:
        return cross_loss(x, y, temperature, edit, both)
    margins = cross_margins(x, y, temperature, edit or off_diagonal, both)
    return softplus(add_negatives(margins, x, y, temperature, negatives)).mean()


def log_sum_of_negatives(x: Tensor, y: Tensor, temperature: Tensor | float, ids: Tensor | None = None) -> Tensor:
    """Log-sum-exp of each row of `[x; y]` over the rows of `x` and `y` of all other items: `[2B]`."""
    return gram(torch.cat([x, y]), temperature, other_items(ids) or off_items(len(x)))[0]


def other_items(ids: Tensor | None) -> Edit | None:
    """Edit for `[x; y]` that leaves out all rows of an item's id; None, which the primitives take for its own two."""
    return None if ids is None else DifferentIds(ids.repeat(2))


def nt_xent(x: Tensor, y: Tensor, temperature: Tensor | float, ids: Tensor | None = None) -> Tensor:
    """NT-Xent: every row of both finds its partner among the other 2B - 1.

    mean over the 2B rows u of -log( exp(u.u' / t) / sum_{v != u} exp(u.v / t) ), u' the partner of u

    Args, Returns: as `infonce`.

    Reference:
        Chen et al. 2020, arXiv 2002.05709.
    """
    return gram_loss(x, y, temperature, other_items(ids))


def dcl(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    ids: Tensor | None = None,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Decoupled contrastive loss: NT-Xent without the positive in the denominator. It can be negative.

    -w u.u' / t + log sum_{v of other items} exp(u.v / t), for each of the 2B rows u

    Args:
        weight: w of each positive, `[B]`; 1 without it. The others as `infonce`.

    Returns:
        The loss of each row in nats, `[2B]`, and whether it has a negative; 0 where it has none.

    Reference:
        Yeh et al. 2022, arXiv 2110.06848.
    """
    terms = gram_margins(x, y, temperature, other_items(ids), weight)
    valid = terms != -torch.inf  # NaN is no lack of negatives: it must show
    return torch.where(valid, terms, 0), valid


def von_mises(x: Tensor, y: Tensor, sigma: float) -> Tensor:
    """DCLW's weights `2 - B softmax_i(x_i.y_i / sigma)`, `[B]`: the more similar a pair, the less it counts."""
    return 2 - len(x) * paired_similarity(x, y, sigma).softmax(0)


@register("infonce")
@dataclass(eq=False, kw_only=True)
class InfoNCE(PairwiseWithNegatives):
    """InfoNCE from the first of two names to the second, over all pairs in order.

    Example:
        >>> image, text = torch.eye(4), torch.eye(4)
        >>> loss = InfoNCE(temperature=0.5)
        >>> round(loss({"image": image, "text": text}).item(), 3)
        0.341
        >>> round(loss({"image": image, "text": text.roll(1, 0)}).item(), 3)  # each text beside another's image
        2.341
        >>> wrong = {"wrong": torch.tensor([[1.0, 1, 0, 0]])}  # one row that is a negative of all
        >>> round(loss({"image": image, "text": text}, negatives=wrong).item(), 3)
        0.553
    """

    family = "softmax"
    paper = "van den Oord et al. 2018, arXiv 1807.03748"
    formula = "mean_i lse_j(x_i.y_j / t) - x_i.y_i / t"
    cost = "time O(B^2 D) per pair of names, memory O(B D)"
    use = "only one direction matters, as when the second input comes from a frozen model"
    fits = ("pairs",)

    def pair(self, x: Tensor, y: Tensor, ids: Tensor | None, negatives: Negatives | None = None) -> Tensor:
        return infonce(x, y, self.tau, ids, negatives)


@register("clip")
@dataclass(eq=False, kw_only=True)
class CLIP(PairwiseWithNegatives):
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

    def pair(self, x: Tensor, y: Tensor, ids: Tensor | None, negatives: Negatives | None = None) -> Tensor:
        return clip(x, y, self.tau, ids, negatives)


@register("nt-xent")
@dataclass(eq=False, kw_only=True)
class NTXent(Pairwise):
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

    temperature: Annotated[float, Gt(0)] = 0.5

    def pair(self, x: Tensor, y: Tensor, ids: Tensor | None) -> Tensor:
        return nt_xent(x, y, self.tau, ids)


@dataclass(eq=False, kw_only=True)
class Decoupled(Pairwise):
    """Mean over the rows that have a negative; rows without, by `exclude`, are logged as `dropped_anchors`."""

    family = "softmax"
    paper = "Yeh et al. 2022, arXiv 2110.06848"
    cost = "time O(B^2 D) per pair of names, memory O(B D)"

    temperature: Annotated[float, Gt(0)] = 0.1

    def pair(self, x: Tensor, y: Tensor, ids: Tensor | None) -> Tensor:
        terms, valid = dcl(x, y, self.tau, ids, self.weight(x, y))
        if ids is None:  # two rows or more: each is a negative of the other
            return terms.mean()
        count = valid.sum()
        self.count("dropped_anchors", len(valid) - count)
        return terms.sum() / count.clamp(min=1)

    def weight(self, x: Tensor, y: Tensor) -> Tensor | None:
        """Factor of each positive `[B]`; None for 1."""
        return None


@register("dcl")
@dataclass(eq=False, kw_only=True)
class DCL(Decoupled):
    """Decoupled contrastive loss, over all pairs of names.

    Example:
        >>> views = {"image/0": torch.eye(4), "image/1": torch.eye(4)}
        >>> round(DCL(temperature=0.5)(views).item(), 3)  # log(6 e^-2): it can be negative
        -0.208
    """

    formula = "mean over rows u of [x; y]: lse_{v of other items}(u.v / t) - u.u' / t"
    use = "small batches: without the positive in the denominator easy items keep their gradient"
    fits = ("one modality",)


@register("dclw")
@dataclass(eq=False, kw_only=True)
class DCLW(Decoupled):
    """Decoupled contrastive loss in which positives count more, the less similar they are.

    Example:
        >>> x, y = torch.eye(3), torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 1]])  # the last pair agrees least
        >>> loss = DCLW()
        >>> [round(w, 3) for w in loss.weight(x, torch.nn.functional.normalize(y)).tolist()]
        [0.827, 0.827, 1.347]
    """

    formula = "lse_{v of other items}(u.v / t) - w u.u' / t, w_i = 2 - B softmax_i(x_i.y_i / sigma)"
    use = "as dcl, with hard positives emphasised; the weights carry no gradient"
    fits = ("one modality",)

    sigma: Annotated[float, Gt(0)] = 0.5

    def weight(self, x: Tensor, y: Tensor) -> Tensor | None:
        with torch.no_grad():
            return von_mises(x, y, self.sigma)
