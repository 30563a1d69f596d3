"""The energy hinge of PromCSE: no negative nearer than the positive less a margin."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from clx.losses.base import register
from clx.losses.further_negatives import Negatives, WithNegatives, left_out, with_rows
from clx.losses.pairwise import Ids
from clx.losses.primitives.blocks import by_blocks, of_block
from clx.losses.primitives.functional import paired_similarity


def energy_hinge(
    x: Tensor, y: Tensor, margin: float, ids: Ids | None = None, negatives: Negatives | None = None
) -> Tensor:
    """mean_i max(0, margin - x_i.y_i + max over negatives n of x_i.n), n the other rows of `y` and the `negatives`.

    Args:
        x, y: `[B, D]`, unit rows; row i of both is one item.
        margin: of cosines.
        ids: `[B]`; other rows of equal id are no negatives.

    Returns:
        Scalar; a row without negatives adds 0.

    Reference:
        Jiang et al. 2022, arXiv 2203.06875.
    """
    out = left_out(ids, negatives, len(x))

    def terms(s: Tensor, rows: slice, positive: Tensor) -> tuple[Tensor]:
        nearest = s.masked_fill(out(s, rows), -math.inf).amax(1)
        return (torch.relu(margin - of_block(positive, rows) + nearest).sum(),)

    return by_blocks(terms, x, with_rows(y, negatives), paired_similarity(x, y))[0] / len(x)


@register("energy-hinge")
@dataclass(eq=False, kw_only=True)
class EnergyHinge(WithNegatives):
    """The nearest negative of each row of the first of two names a margin farther than its partner, over all pairs.

    A term beside `infonce`, which goes on to spread what this leaves alone.

    Example:
        >>> image, text = torch.eye(4), torch.eye(4)
        >>> loss = EnergyHinge()
        >>> loss({"image": image, "text": text}).item()
        0.0
        >>> round(loss({"image": image, "text": text.roll(1, 0)}).item(), 3)
        1.2
    """

    family = "ranking"
    paper = "Jiang et al. 2022, arXiv 2203.06875 (PromCSE)"
    formula = "mean_i max(0, margin - x_i.y_i + max_n x_i.n), n the other rows of y and the term's negatives"
    cost = "time O(B^2 D) per pair of names, memory O(B D)"
    use = "beside infonce with columns of hard negatives, at weight 10 (the paper), where these stay too near"
    fits = ("pairs",)

    margin: Annotated[float, Ge(0)] = 0.2

    def pair(self, x: Tensor, y: Tensor, ids: Ids | None, negatives: Negatives | None = None) -> Tensor:
        return energy_hinge(x, y, self.margin, ids, negatives)
