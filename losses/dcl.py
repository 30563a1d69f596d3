"""DCL and DCLW: NT-Xent without the positive in its denominator."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from clx.losses.base import register
from clx.losses.further_negatives import Negatives, SoftmaxWithNegatives, add_negatives
from clx.losses.infonce import other_items
from clx.losses.pairwise import WEIGHED, Ids
from clx.losses.primitives.functional import paired_similarity
from clx.losses.primitives.streaming import gram_margins


def dcl(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    ids: Ids | None = None,
    weight: Tensor | None = None,
    negatives: Negatives | None = None,
) -> tuple[Tensor, Tensor]:
    """Decoupled contrastive loss: NT-Xent without the positive in the denominator. It can be negative.

    -w u.u' / t + log sum_{v of other items} exp(u.v / t), for each of the 2B rows u; further negatives are among the v
    of the rows of `x`

    Args:
        weight: w of each positive, `[B]`; 1 without it. The others as `infonce`.

    Returns:
        The loss of each row in nats, `[2B]`, and whether it has a negative; 0 where it has none.

    Reference:
        Yeh et al. 2022, arXiv 2110.06848.
    """
    terms = gram_margins(x, y, temperature, other_items(ids), weight)
    if negatives is not None:
        terms = add_negatives(terms, x, y, temperature, negatives, weight)
    valid = terms != -torch.inf  # NaN is no lack of negatives: it must show
    return torch.where(valid, terms, 0), valid


def von_mises(x: Tensor, y: Tensor, sigma: float) -> Tensor:
    """DCLW's weights `2 - B softmax_i(x_i.y_i / sigma)`, `[B]`: the more similar a pair, the less it counts."""
    return 2 - len(x) * paired_similarity(x, y, sigma).softmax(0)


@dataclass(eq=False, kw_only=True)
class Decoupled(SoftmaxWithNegatives):
    """Mean over the rows that have a negative; rows without, by `exclude`, are logged as `dropped_anchors`."""

    family = "softmax"
    paper = "Yeh et al. 2022, arXiv 2110.06848"
    cost = "time O(B^2 D) per pair of names, memory O(B D)"
    ours = WEIGHED + "; columns of negatives in the sums of the first input's rows"

    temperature: Annotated[float, Gt(0)] = 0.1

    def pair(
        self,
        x: Tensor,
        y: Tensor,
        ids: Ids | None,
        negatives: Negatives | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        terms, valid = dcl(x, y, self.tau, ids, self.weight(x, y), negatives)
        terms = terms if weights is None else terms * weights.repeat(2).to(terms.dtype)
        if ids is None and len(x) > 1:  # each row is a negative of the others
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
