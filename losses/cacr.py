"""CACR: the farther a positive, the more it attracts; the nearer a negative, the more it repels."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor
from torch.nn.functional import mse_loss

from clx.losses.base import Embeddings, Loss, average, register, require_two_inputs, zero_loss
from clx.losses.primitives.blocks import by_blocks, without_self
from clx.losses.primitives.functional import units
from clx.losses.primitives.masks import chosen, mean_where
from clx.losses.primitives.tiles import multiplying


def attraction(views: Sequence[Tensor], tau: float = 1.0, present: Tensor | None = None) -> Tensor:
    """mean over i, v of sum_{u != v} w_u |z_vi - z_ui|^2, w = softmax_u(tau |z_vi - z_ui|^2).

    Args:
        views: V of `[B, D]`; row i of each is one item.
        tau: an inverse temperature: above 0 the farther positives count more.
        present: `[V, B]`; an item with one view alone has no term.
    """
    if len(views) == 2 and present is None:
        return mse_loss(views[0], views[1], reduction="sum") / len(views[0])
    z = torch.stack(list(views), 1)
    costs = (z[:, :, None] - z[:, None]).square().sum(3)  # [B, V, V]
    usable = ~torch.eye(len(views), dtype=torch.bool, device=z.device).expand_as(costs)
    if present is not None:
        usable = usable & present.T[:, :, None] & present.T[:, None, :]
    anchors = usable.any(2)
    weights = (tau * costs).masked_fill(~usable & anchors[:, :, None], -math.inf).softmax(2)
    return mean_where(anchors, (weights * costs).sum(2))


def repulsion(x: Tensor, y: Tensor, tau: float = 1.0) -> Tensor:
    """-mean_i sum_{j != i} w_j |x_i - y_j|^2, w = softmax_{j != i}(-tau |x_i - y_j|^2), of `[B, D]`, B >= 2; scalar."""

    def terms(s: Tensor, rows: slice, of_y: Tensor) -> tuple[Tensor]:
        # -tau |x - y|^2 but for what is the same in a whole row; what stands for the row itself has no weight
        logits = without_self(torch.add(2 * tau * s, of_y, alpha=-tau), rows, -1e30)
        weights = logits.softmax(1)
        return ((weights * logits).sum(),)

    with multiplying(None):  # the three parts cancel: rounded, near rows would seem far
        return (by_blocks(terms, x, y, y.square().sum(1))[0] / tau - x.square().sum()) / len(x)


@register("cacr")
@dataclass(eq=False, kw_only=True)
class CACR(Loss):
    """Contrastive attraction and contrastive repulsion over all names; the second of two names repels no one.

    Example:
        >>> x = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
        >>> loss = CACR()
        >>> round(loss({"image/0": x, "image/1": x}).item(), 3)  # views agree; the nearest negatives at distance^2 2
        -2.127
        >>> round(loss({"image/0": x, "image/1": x.roll(1, 0)}).item(), 3)
        1.702
    """

    family = "multi-view"
    paper = "Zheng et al. 2021, arXiv 2105.03746"
    formula = (
        "alpha mean_iv sum_u w_u |z_vi - z_ui|^2 - beta mean_{v < w, i} sum_{j != i} r_j |z_vi - z_wj|^2, "
        "w ~ exp(tau_positive |..|^2), r ~ exp(-tau_negative |..|^2)"
    )
    cost = "time O(V^2 B^2 D), memory O(V B D)"
    use = "several views, and classes or views of uneven number: near negatives and far positives count more"
    fits = ("one modality",)
    sharpness = "2 tau_negative for negatives, -2 tau_positive for positives: both are inverse temperatures"

    alpha: Annotated[float, Gt(0)] = 1.0
    beta: Annotated[float, Gt(0)] = 1.0
    tau_positive: Annotated[float, Gt(0)] = 1.0
    tau_negative: Annotated[float, Gt(0)] = 1.0

    def forward(self, z: Embeddings, *, present: dict[str, Tensor] | None = None) -> Tensor:
        require_two_inputs(z)
        # absent rows may hold anything, NaN too
        u = units(z if present is None else {n: torch.where(present[n][:, None], x, 0) for n, x in z.items()})
        names = list(itertools.combinations(u, 2))
        pairs = [(u[a], u[b]) for a, b in names]
        there = None if present is None else torch.stack([present[n] for n in u])
        if present is not None:
            rows = chosen([present[a] & present[b] for a, b in names])
            pairs = [(x[both], y[both]) for (x, y), both in zip(pairs, rows, strict=True)]
        apart = [repulsion(x, y, self.tau_negative) for x, y in pairs if len(x) > 1]
        if len(apart) < len(names):
            self.log["skipped_pairs"] = len(names) - len(apart)
        if not len(next(iter(u.values()))):
            return zero_loss(z)
        total = self.alpha * attraction(list(u.values()), self.tau_positive, there)
        return total + self.beta * average(apart) if apart else total
