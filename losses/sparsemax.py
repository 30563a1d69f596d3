"""Sparsemax: shares of one whole, of which many are exactly 0, as what a head tells of a set of labels."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from clx.losses.base import register
from clx.losses.primitives.autograd import at_least_float32
from clx.losses.set_heads import SetHead


def threshold_of(z: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row of `[B, K]`, the tau with sum_k max(z_k - tau, 0) = 1, `[B, 1]`, and the support z > tau `[B, K]`."""
    ordered = z.detach().sort(dim=1, descending=True).values
    count = torch.arange(1, z.shape[1] + 1, device=z.device, dtype=z.dtype)
    sizes = (1 + count * ordered > ordered.cumsum(1)).sum(1, keepdim=True).clamp(min=1)
    lowest = ordered.gather(1, sizes - 1) if z.shape[1] else ordered[:, :0]
    support = z.detach() >= lowest
    return ((z * support).sum(1, keepdim=True) - 1) / support.sum(1, keepdim=True), support


def sparsemax(z: Tensor) -> Tensor:
    """The shares nearest to `z` `[B, K]`: max(z - tau, 0), which add up to 1 and of which many are exactly 0.

    Reference:
        Martins and Astudillo 2016, arXiv 1602.02068.
    """
    z = z - z.detach().amax(1, keepdim=True) if z.shape[1] else z  # the shares are the same, of large numbers too
    tau, support = threshold_of(z)
    return torch.where(support, z - tau, 0)


def sparsemax_loss(z: Tensor, q: Tensor) -> Tensor:
    """Of each row `[B]`, -q.z + 1/2 sum over the support of (z_k^2 - tau^2) + 1/2 |q|^2, whose gradient is p - q.

    At least 0, and 0 only for `sparsemax(z) == q`; `q` `[B, K]` are shares that add up to 1.

    Reference:
        Martins and Astudillo 2016, arXiv 1602.02068, with several labels section 3.4.
    """
    z = z - z.detach().amax(1, keepdim=True)  # the loss is the same, and its squares are small
    tau, support = threshold_of(z)
    spread = torch.where(support, z.square() - tau.square(), 0).sum(1)
    loss: Tensor = torch.linalg.vecdot(q, q) / 2 + spread / 2 - torch.linalg.vecdot(q, z)
    return loss


@register("sparsemax")
@dataclass(eq=False, kw_only=True)
class Sparsemax(SetHead):
    """Shares of one whole, the labels of a row alike and the others exactly 0; rows without a label are left out.
    Where some labels of a row are not known, the others share the whole.

    A label is said to apply where its share is above `above`.

    Example:
        >>> import torch
        >>> z, loss = {"image": torch.zeros(1, 2)}, Sparsemax()
        >>> predictions = torch.tensor([[2.0, 2, 0.5]])
        >>> loss.chances(predictions).tolist(), loss.applying(loss.chances(predictions)).tolist()
        ([[0.5, 0.5, 0.0]], [[True, True, False]])
        >>> loss(z, predictions=predictions, label_sets=torch.tensor([[1.0, 1, 0]])).item()
        0.0
        >>> loss(z, predictions=predictions, label_sets=torch.tensor([[0.0, 0, 1]])).item()
        1.75
    """

    paper = "Martins and Astudillo 2016, arXiv 1602.02068"
    formula = "mean_i 1/2 |q_i|^2 - q_i.p_i + 1/2 sum_{k: p_ik > tau_i} p_ik^2 - tau_i^2, q_i = y_i / sum_k y_ik"
    cost = "time O(B K log K), memory O(B K)"
    use = "rows have few labels of many, and the others should be told to be none exactly"

    above: Annotated[float, Ge(0), Lt(1)] = 0.0

    def telling(self, label_sets: Tensor) -> Tensor:
        return (label_sets > 0).any(1)  # no NaN is

    def all_tell(self, label_sets: Tensor) -> bool:
        return label_sets.is_cpu and len(label_sets) > 0 and bool((label_sets.sum(1) > 0).all())

    def errors(self, predictions: Tensor, label_sets: Tensor, known: Tensor | None = None) -> Tensor:
        if known is not None:  # what is 2 below the largest has no share
            largest = predictions.detach().masked_fill(~known, -torch.inf).amax(1, keepdim=True)
            predictions = torch.where(known, predictions, largest.nan_to_num(neginf=0.0) - 2)
        q = label_sets / label_sets.sum(1, keepdim=True).clamp(min=1)
        return sparsemax_loss(predictions, q)[:, None]

    def chances(self, predictions: Tensor) -> Tensor:
        return sparsemax(at_least_float32(predictions))

    def applying(self, chances: Tensor) -> Tensor:
        return chances > self.above
