"""Supervised contrast: rows of one label attract each other."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from clx.losses.base import Embeddings, Tempered, register, zero_loss
from clx.losses.primitives.edits import DifferentIds, Edit, SameIds, off_diagonal
from clx.losses.primitives.functional import softplus, unit
from clx.losses.primitives.masks import group_sizes, stack_present
from clx.losses.primitives.streaming import gram
from clx.losses.primitives.tiles import is_small


def supcon(
    z: Tensor, labels: Tensor, temperature: Tensor | float, form: Literal["out", "in"] = "out"
) -> tuple[Tensor, Tensor]:
    """SupCon, with the mean over positives outside the logarithm or inside.

    out: -1/|P(i)| sum_{p in P(i)} log( exp(z_i.z_p / t) / sum_{a != i} exp(z_i.z_a / t) )
    in:  -log( 1/|P(i)| sum_{p in P(i)} exp(z_i.z_p / t) / sum_{a != i} exp(z_i.z_a / t) )

    Args:
        z: `[N, D]`, unit rows.
        labels: `[N]`; P(i) are the other rows of i's label.
        temperature: positive.

    Returns:
        The loss of each anchor in nats, `[N]`, and whether it has a positive; 0 where it has none.

    Reference:
        Khosla et al. 2020, arXiv 2004.11362.
    """
    small = is_small(z, len(z))
    if small:
        same = labels[:, None] == labels
        together = same.to(z.dtype).fill_diagonal_(0)
        positives = together.sum(1)
    else:
        sizes, group = group_sizes(labels)
        positives = (sizes - 1).to(z.dtype)
    valid, count = positives > 0, positives.clamp(min=1)
    if form == "in":
        apart: Edit = (lambda s, i, j: (~same).to(s.dtype)) if small else DifferentIds(group)
        own: Edit = (lambda s, i, j: together) if small else SameIds(group)
        negative, positive = gram(z, temperature, apart)[0], gram(z, temperature, own)[0]
        terms = softplus(negative - torch.where(valid, positive, 0)) + count.log()
    elif small:
        log_sum, positive = gram(z, temperature, off_diagonal, lambda i, j: together)
        terms = log_sum - positive / count
    else:
        sums = torch.zeros_like(z).index_add(0, group, z)
        # a row's similarities with all of its label, less the one with itself
        positive = torch.linalg.vecdot(z, sums[group] - z) / temperature / count
        terms = gram(z, temperature, off_diagonal)[0] - positive
    return torch.where(valid, terms, 0), valid


@register("supcon")
@dataclass(eq=False, kw_only=True)
class SupCon(Tempered):
    """SupCon over the rows of all names; a row without label has its own item's rows as positives only.

    Example:
        >>> z = {"image": torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])}
        >>> loss = SupCon(temperature=0.5)
        >>> round(loss(z, labels=torch.tensor([0, 0, 1, 1])).item(), 3)  # rows of one label coincide
        0.24
        >>> round(loss(z, labels=torch.tensor([0, 1, 0, 1])).item(), 3)
        2.24
        >>> loss(z, labels=torch.tensor([0, 0, -1, -1])).item() > 0, loss.log
        (True, {'dropped_anchors': 2})
    """

    family = "supervised"
    paper = "Khosla et al. 2020, arXiv 2004.11362"
    formula = "out: mean_i lse_{a != i}(u_i.u_a / t) - mean_{p in P(i)} u_i.u_p / t"
    cost = "time O(V^2 B^2 D), memory O(V B D); form in: twice the time"
    use = "class labels are at hand, several rows of one class in a batch"
    fits = ("labels",)

    temperature: Annotated[float, Gt(0)] = 0.07
    form: Literal["out", "in"] = "out"

    def forward(
        self,
        z: Embeddings,
        *,
        labels: Tensor,
        present: dict[str, Tensor] | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        x, items = stack_present(z, present)
        labels = torch.where(labels < 0, -1 - torch.arange(len(labels), device=labels.device), labels)
        if len(x) < 2:
            return zero_loss(z)
        terms, valid = supcon(unit(x), labels[items], self.tau, self.form)
        count = valid.sum()
        self.count("dropped_anchors", len(valid) - count)
        terms = terms if weights is None else terms * weights[items].to(terms.dtype)
        return terms.sum() / count.clamp(min=1)
