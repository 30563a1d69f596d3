"""Positives by a teacher, negatives by the student: what a class was before goes on attracting its rows."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from clx.losses.base import Embeddings, Tempered, average, register, zero_loss
from clx.losses.primitives.edits import off_diagonal
from clx.losses.primitives.functional import unit, weighted_mean
from clx.losses.primitives.masks import chosen, group_sizes
from clx.losses.primitives.streaming import gram


def nspt(x: Tensor, teacher: Tensor, labels: Tensor, temperature: Tensor | float) -> Tensor:
    """Each row finds the teacher's rows of its label among the other rows of the student.

    -1/|P(k)| sum_{p in P(k)} log( exp(x_k.s_p / t) / sum_{i != k} exp(x_k.x_i / t) )

    Args:
        x: `[N, D]`, unit rows by the student.
        teacher: `[N, D]`, s, unit rows of the same items by the teacher.
        labels: `[N]`; P(k) are the rows of k's label, its own one too.
        temperature: positive.

    Returns:
        The loss of each row in nats, `[N]`; it may be below 0, since the positives are no part of the sum.

    Reference:
        Cappellazzo et al. 2024, arXiv 2310.02699, of which no code is published: that k itself is left out of the sum
        is our own reading.
    """
    sizes, group = group_sizes(labels)
    sums = torch.zeros_like(teacher).index_add(0, group, teacher)
    positive: Tensor = torch.linalg.vecdot(x, sums[group]) / sizes / temperature
    log_sum: Tensor = gram(x, temperature, off_diagonal)[0]
    return log_sum - positive


@register("nspt")
@dataclass(eq=False, kw_only=True)
class NSPT(Tempered):
    """NSPT of each name by itself, their mean; a row without label is alone in its class.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> z = {"image": torch.randn(4, 8)}
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> like, unlike = z, {"image": z["image"].flip(0)}
        >>> NSPT()(z, labels=labels, keys=like).item() < NSPT()(z, labels=labels, keys=unlike).item()
        True
    """

    family = "distillation"
    paper = "Cappellazzo et al. 2024 (COCONUT), arXiv 2310.02699"
    formula = "mean_k lse_{i != k}(u_k.u_i / t) - mean_{p in P(k)} u_k.s_p / t, s by the second model"
    cost = "time O(V B^2 D), memory O(V B D)"
    use = "stages with new classes: with rows: replay and train.second.stage, beside what teaches the new ones"
    fits = ("labels",)
    ours = "the anchor is left out of the denominator, which the paper leaves open"

    temperature: Annotated[float, Gt(0)] = 0.1

    def forward(
        self,
        z: Embeddings,
        *,
        labels: Tensor,
        keys: Embeddings,
        present: dict[str, Tensor] | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        labels = torch.where(labels < 0, -1 - torch.arange(len(labels), device=labels.device), labels)
        rows: list[Tensor | slice] = [slice(None)] * len(z)
        if present is not None:
            rows = list(chosen([present[name] for name in z]))
        terms = []
        for name, here in zip(z, rows, strict=True):
            x, teacher = z[name][here], keys[name][here].detach()
            if x.shape != teacher.shape:
                raise ValueError(
                    f"nspt compares embeddings with those of the second model, of width {teacher.shape[1]}: set "
                    "embed_dim to that"
                )
            if len(x) > 1:
                each = nspt(unit(x), unit(teacher), labels[here], self.tau)
                terms.append(weighted_mean(each, None if weights is None else weights[here]))
        return average(terms) if terms else zero_loss(z)
