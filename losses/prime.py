"""PRIME's triplets: hard negatives with a margin that follows from how far the positive is."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from clx.losses.base import register
from clx.losses.further_negatives import DrawnWithNegatives, Negatives, left_out, with_rows
from clx.losses.primitives.blocks import by_blocks, of_block
from clx.losses.primitives.draws import uniform
from clx.losses.primitives.forms import NEVER
from clx.losses.primitives.masks import group_sizes


def dynamic_margin(
    s: Tensor, out: Tensor, positive: Tensor, nearest: int, low: float, high: float, temperature: float
) -> Tensor:
    """sum_n w_n max(0, s_n - p + m_n) of each row, over its nearest negatives n: `[B]`.

    m_n = |p - s_n| held between `low` and `high`, without gradient; w the softmax of s_n / t over those above 0.

    Args:
        s: `[B, M]`, similarities.
        out: `[B, M]`, which of them are no negatives.
        positive: p, `[B]`.
        nearest: how many negatives count; all where there are fewer.
    """
    hard = s.masked_fill(out, -math.inf).topk(min(nearest, s.shape[1]), 1).values
    apart = hard - positive[:, None]
    left = (apart + apart.detach().abs().clamp(low, high)).relu()  # 0 where there is no negative
    weights = (hard / temperature).masked_fill(left <= 0, NEVER).softmax(1)  # NaN shows; a row that is right has none
    found: Tensor = torch.linalg.vecdot(weights, left)
    return found


def partners(ids: Tensor, generator: torch.Generator | None) -> Tensor:
    """For each of `[B]` a row of its id, its own too, drawn evenly."""
    size, first = group_sizes(ids)
    drawn = uniform((len(ids),), ids, generator)
    return ids.argsort(stable=True)[first + (drawn * size).long().clamp(max=size - 1)]


@register("prime")
@dataclass(eq=False, kw_only=True)
class PRIME(DrawnWithNegatives):
    """Triplets with a dynamic margin, in both directions, over all pairs of names.

    Rows of equal `repeats`, or, with `exclude`, of equal `sample_id` or `labels`, are positives: of them one is drawn.
    Columns of negatives are among those of the rows of the first of two names.

    Example:
        >>> text, label = torch.eye(4), torch.eye(4)
        >>> loss = PRIME()
        >>> loss({"text": text, "label": label}).item()
        0.0
        >>> round(loss({"text": text, "label": label.roll(1, 0)}).item(), 3)
        1.3
    """

    family = "ranking"
    paper = "Dahiya et al. 2025, NAACL (PRIME)"
    formula = "mean_i sum_n w_n max(0, s_in - s_ip + m_n), m_n = |s_ip - s_in| in [min_margin, max_margin]"
    cost = "time O(B^2 D) per pair of names, memory O(B D)"
    use = "texts and very many labels, written out: the second input is the label's text, with exclude: labels"
    fits = ("pairs", "labels")
    sharpness = "1 / weight_temperature, of the negatives' weights alone"
    ours = (
        "the prototypes and the two stages of label vectors are left out: labels are embedded as they are. For pairs "
        "in order the margin is min_margin, by algebra; columns of negatives among the rows' candidates"
    )

    nearest: Annotated[int, Ge(1)] = 100
    min_margin: Annotated[float, Ge(0)] = 0.1
    max_margin: Annotated[float, Ge(0)] = 0.3
    weight_temperature: Annotated[float, Gt(0)] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_margin > self.max_margin:
            raise ValueError(f"min_margin {self.min_margin} is above max_margin {self.max_margin}")

    def both_ways(
        self,
        x: Tensor,
        y: Tensor,
        ids: Tensor | None,
        negatives: Negatives | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        """The mean of both directions, of unit rows."""
        there = self.one_way(x, y, ids, negatives, generator)
        return (there + self.one_way(y, x, ids, None, generator)) / 2

    def one_way(
        self, x: Tensor, y: Tensor, ids: Tensor | None, negatives: Negatives | None, generator: torch.Generator | None
    ) -> Tensor:
        """Of the rows of `x` among those of `y` and the further negatives."""
        given = self.nearest, self.min_margin, self.max_margin, self.weight_temperature
        partner, out = y if ids is None else y[partners(ids, generator)], left_out(ids, negatives, len(y))

        def terms(s: Tensor, rows: slice, positive: Tensor) -> tuple[Tensor]:
            return (dynamic_margin(s, out(s, rows), of_block(positive, rows), *given).sum(),)

        return by_blocks(terms, x, with_rows(y, negatives), torch.linalg.vecdot(x, partner))[0] / len(x)
