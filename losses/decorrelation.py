"""VICReg and Barlow Twins: views agree while the columns of the embeddings stay spread and uncorrelated."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from clx.losses.base import Embeddings, Loss, average, register, zero_loss
from clx.losses.directed import in_turn

STEADY = 1e-4
"""Added to a variance before its root, by the authors: identical rows then have a gradient."""


def vicreg(x: Tensor, y: Tensor, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> Tensor:
    """Distance of pairs, lack of deviation and covariance of columns, weighted: `[]`.

    Args:
        x, y: `[B, D]`, not normalised, at least two rows; row i of both is one item.

    Reference:
        Bardes et al. 2022, arXiv 2105.04906, as the authors' code weighs it: the variance term is the mean of both
        views, the covariance term their sum.
    """
    near = (x - y).square().mean()
    spread, apart = [], []
    for rows in (x, y):
        centred = rows - rows.mean(0)
        spread.append(torch.relu(1 - ((centred.square().sum(0) / (len(rows) - 1)) + STEADY).sqrt()).mean())
        square = (centred.T @ centred / (len(rows) - 1)).square()
        apart.append((square.sum() - square.diagonal().sum()) / rows.shape[1])
    return invariance * near + variance * (spread[0] + spread[1]) / 2 + covariance * (apart[0] + apart[1])


def barlow_twins(x: Tensor, y: Tensor, redundancy: float = 0.0051) -> Tensor:
    """Squared distance of the correlations of the columns of two views from the identity: `[]`.

    Args:
        x, y: `[B, D]`, not normalised; row i of both is one item.
        redundancy: weight of what is off the diagonal.

    Reference:
        Zbontar et al. 2021, arXiv 2103.03230.
    """
    x, y = (
        torch.nn.functional.batch_norm(rows, None, None, training=True) if len(rows) > 1 else rows * 0
        for rows in (x, y)
    )
    square = (x.T @ y / max(1, len(x)) - torch.eye(x.shape[1], dtype=x.dtype, device=x.device)).square()
    diagonal = square.diagonal().sum()
    return diagonal + redundancy * (square.sum() - diagonal)


@dataclass(eq=False, kw_only=True)
class Decorrelation(Loss):
    """The mean over pairs of names, each on the rows that have both."""

    family = "decorrelation"
    cost = "time O(V^2 B D^2), memory O(V B D + D^2)"

    def forward(self, z: Embeddings, *, present: dict[str, Tensor] | None = None) -> Tensor:
        order = {name: place for place, name in enumerate(z)}
        _, ways = in_turn(z, present, fewest=2)
        pairs = [way for way in ways if order[way.start] < order[way.end]]
        terms = [self.pair(z[way.start][way.rows], z[way.end][way.rows]) for way in pairs]
        return average(terms) if terms else zero_loss(z)

    def pair(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of rows `[B, D]` of two names."""
        raise NotImplementedError


@register("vicreg")
@dataclass(eq=False, kw_only=True)
class VICReg(Decorrelation):
    """Pairs are near, each column deviates by 1, and columns do not go together.

    The embeddings are not normalised. In the paper they are 8,192 wide and behind `head: mlp`; features of the encoder
    are used afterwards (`--features encoder`).

    Example:
        >>> views = {"image/0": torch.eye(4), "image/1": torch.eye(4)}
        >>> round(VICReg()(views).item(), 2)  # deviations of .5, and small covariances
        12.54
    """

    paper = "Bardes et al. 2022, arXiv 2105.04906"
    formula = "25 mean (x - y)^2 + 25 mean relu(1 - sd) + sum of squared covariances off the diagonal / D"
    use = "views of one modality without negatives or a second model; wide embeddings"
    fits = ("one modality",)

    invariance: Annotated[float, Ge(0)] = 25.0
    variance: Annotated[float, Ge(0)] = 25.0
    covariance: Annotated[float, Ge(0)] = 1.0

    def pair(self, x: Tensor, y: Tensor) -> Tensor:
        return vicreg(x, y, self.invariance, self.variance, self.covariance)


@register("barlow-twins")
@dataclass(eq=False, kw_only=True)
class BarlowTwins(Decorrelation):
    """Columns of two views correlate with themselves and with no other.

    Example:
        >>> views = {"image/0": torch.eye(4), "image/1": torch.eye(4)}
        >>> round(BarlowTwins()(views).item(), 4)  # 12 correlations of -1/3
        0.0068
    """

    paper = "Zbontar et al. 2021, arXiv 2103.03230"
    formula = "sum_c (1 - C_cc)^2 + .0051 sum_{c != d} C_cd^2, C the correlations of the columns of x and y"
    use = "views of one modality without negatives or a second model; wide embeddings"
    fits = ("one modality",)

    redundancy: Annotated[float, Ge(0)] = 0.0051

    def pair(self, x: Tensor, y: Tensor) -> Tensor:
        return barlow_twins(x, y, self.redundancy)
