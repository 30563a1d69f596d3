"""The softmax family on two inputs: InfoNCE, CLIP, NT-Xent, DCL, DCLW.

All of them are -log(e^p / (e^p + sum of e^n)) = softplus(N - p), with p the positive's logit and N the
log-sum-exp over the negatives; decoupled losses leave the positive out of the denominator, so N - p remains.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from clx.losses.base import Pairwise, register
from clx.losses.streaming import Apart, Edit, cross, gram, off_diagonal, paired, rows, softplus


def apart(ids: Tensor | None) -> Edit:
    """Leaves every row's own column out and, given ids, all columns of its id."""
    return off_diagonal if ids is None else Apart(ids)


def infonce(x: Tensor, y: Tensor, temperature: Tensor | float, ids: Tensor | None = None) -> Tensor:
    """InfoNCE: each row of `x` finds its own among the rows of `y`.

    mean_i -log( exp(x_i.y_i / t) / sum_j exp(x_i.y_j / t) )

    Args:
        x, y: `[B, D]`, unit rows; row i of both is one item.
        temperature: positive.
        ids: `[B]`; other rows of equal id are left out of the denominator.

    Returns:
        Scalar in nats; 0 for a batch of one.

    Reference:
        van den Oord et al. 2018, eq. (4), arXiv 1807.03748.
    """
    return softplus(rows(x, y, temperature, apart(ids)) - paired(x, y, temperature)).mean()


def clip(x: Tensor, y: Tensor, temperature: Tensor | float, ids: Tensor | None = None) -> Tensor:
    """CLIP: InfoNCE from `x` to `y` and from `y` to `x`, averaged.

    1/2 mean_i [ -log softmax_j(x_i.y_j / t)_i - log softmax_j(y_i.x_j / t)_i ]

    Args, Returns: as `infonce`.

    Reference:
        Radford et al. 2021, figure 3, arXiv 2103.00020.
    """
    to_y, to_x = cross(x, y, temperature, apart(ids))
    positive = paired(x, y, temperature)
    return (softplus(to_y - positive) + softplus(to_x - positive)).mean() / 2


def negatives(x: Tensor, y: Tensor, temperature: Tensor | float, ids: Tensor | None = None) -> Tensor:
    """Log-sum-exp over the rows of `x` and of `y` of all other items, for `[x; y]`: `[2B]`."""
    ids = torch.arange(len(x), device=x.device) if ids is None else ids
    return gram(torch.cat([x, y]), temperature, Apart(ids.repeat(2)))[0]


def nt_xent(x: Tensor, y: Tensor, temperature: Tensor | float, ids: Tensor | None = None) -> Tensor:
    """NT-Xent: every row of both finds its partner among the other 2B - 1.

    mean over the 2B rows u of -log( exp(u.u' / t) / sum_{v != u} exp(u.v / t) ), u' the partner of u

    Args, Returns: as `infonce`.

    Reference:
        Chen et al. 2020, eq. (1), arXiv 2002.05709.
    """
    positive = paired(x, y, temperature).repeat(2)
    return softplus(negatives(x, y, temperature, ids) - positive).mean()


def dcl(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    ids: Tensor | None = None,
    weight: Tensor | float = 1.0,
) -> Tensor:
    """Decoupled contrastive loss: NT-Xent without the positive in the denominator. It can be negative.

    mean over the 2B rows u of -w u.u' / t + log sum_{v of other items} exp(u.v / t)

    Args:
        weight: of the positive, a number or `[B]`. The others as `infonce`.

    Returns:
        Scalar in nats; rows without any negative are left out, 0 if none has one.

    Reference:
        Yeh et al. 2022, eq. (6), arXiv 2110.06848; both directions averaged.
    """
    others = negatives(x, y, temperature, ids)
    positive = (weight * paired(x, y, temperature)).repeat(2)
    seen = others > -torch.inf
    terms = torch.where(seen, others, 0) - positive
    return (terms * seen).sum() / seen.sum().clamp(min=1)


def von_mises(x: Tensor, y: Tensor, sigma: float) -> Tensor:
    """DCLW's weights `2 - B softmax_i(x_i.y_i / sigma)`, `[B]`: less for pairs that agree already."""
    return 2 - len(x) * paired(x, y, sigma).softmax(0)


@register("infonce")
@dataclass(eq=False, kw_only=True)
class InfoNCE(Pairwise):
    """InfoNCE from the first of two names to the second, over all pairs in order."""

    family = "softmax"
    paper = "van den Oord et al. 2018, arXiv 1807.03748"
    formula = "mean_i lse_j(x_i.y_j / t) - x_i.y_i / t"
    cost = "time O(B^2 D) per pair of names, memory O(B D)"
    use = "one direction only matters, as when the second input comes from a frozen model"

    def pair(self, x: Tensor, y: Tensor, ids: Tensor | None) -> Tensor:
        return infonce(x, y, self.tau, ids)


@register("clip")
@dataclass(eq=False, kw_only=True)
class CLIP(Pairwise):
    """InfoNCE in both directions, over all pairs of names."""

    family = "softmax"
    paper = "Radford et al. 2021, arXiv 2103.00020"
    formula = "1/2 mean_i [ lse_j(x_i.y_j / t) + lse_j(y_i.x_j / t) ] - x_i.y_i / t"
    cost = "time O(B^2 D) per pair of names, memory O(B D)"
    use = "the default for aligning two modalities; large batches help"

    learn_temperature: bool = True

    def pair(self, x: Tensor, y: Tensor, ids: Tensor | None) -> Tensor:
        return clip(x, y, self.tau, ids)


@register("nt-xent")
@dataclass(eq=False, kw_only=True)
class NTXent(Pairwise):
    """SimCLR's loss, over all pairs of names."""

    family = "softmax"
    paper = "Chen et al. 2020, arXiv 2002.05709"
    formula = "mean over rows u of [x; y]: lse_{v != u}(u.v / t) - u.u' / t, u' the partner of u"
    cost = "time O(B^2 D) per pair of names, memory O(B D)"
    use = "two augmented views of one modality: rows of the same view are negatives too"

    temperature: Annotated[float, Gt(0)] = 0.5

    def pair(self, x: Tensor, y: Tensor, ids: Tensor | None) -> Tensor:
        return nt_xent(x, y, self.tau, ids)


@register("dcl")
@dataclass(eq=False, kw_only=True)
class DCL(Pairwise):
    """Decoupled contrastive loss, over all pairs of names."""

    family = "softmax"
    paper = "Yeh et al. 2022, arXiv 2110.06848"
    formula = "mean over rows u of [x; y]: lse_{v of other items}(u.v / t) - u.u' / t"
    cost = "time O(B^2 D) per pair of names, memory O(B D)"
    use = "small batches: without the positive in the denominator easy items keep their gradient"

    temperature: Annotated[float, Gt(0)] = 0.1

    def pair(self, x: Tensor, y: Tensor, ids: Tensor | None) -> Tensor:
        return dcl(x, y, self.tau, ids)


@register("dclw")
@dataclass(eq=False, kw_only=True)
class DCLW(Pairwise):
    """Decoupled contrastive loss with positives weighted by how much they still disagree."""

    family = "softmax"
    paper = "Yeh et al. 2022, arXiv 2110.06848"
    formula = "lse_{v of other items}(u.v / t) - w u.u' / t, w_i = 2 - B softmax_i(x_i.y_i / sigma)"
    cost = "time O(B^2 D) per pair of names, memory O(B D)"
    use = "as dcl, with hard positives emphasised; the weights carry no gradient"

    temperature: Annotated[float, Gt(0)] = 0.1
    sigma: Annotated[float, Gt(0)] = 0.5

    def pair(self, x: Tensor, y: Tensor, ids: Tensor | None) -> Tensor:
        return dcl(x, y, self.tau, ids, von_mises(x, y, self.sigma).detach())
