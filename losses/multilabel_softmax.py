"""Softmax of a set of labels, of which several are right: decoupled, soft top-k, or all in one choice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from clx.losses.base import register
from clx.losses.primitives.autograd import at_least_float32
from clx.losses.primitives.forms import decoupled, soft_choice, soft_top_k, top_k
from clx.losses.set_heads import OfSome
from clx.losses.unused import refuse_unused


def cuts(scores: Tensor) -> Tensor:
    """Of each row `[B, K]` the score `[B, 1]` above which a label applies: halfway between the last of the best and the
    log-sum-exp of all others, where these two are furthest apart; no more than half of the labels are the best."""
    if scores.shape[1] < 2:
        return torch.zeros_like(scores[:, :1])
    ordered = scores.sort(dim=1, descending=True).values
    others = ordered.flip(1).logcumsumexp(1).flip(1)[:, 1:]  # of all behind each
    last = ordered[:, : scores.shape[1] // 2]
    place = (last - others[:, : last.shape[1]]).argmax(1, keepdim=True)
    return (last.gather(1, place) + others.gather(1, place)) / 2


@register("multilabel-softmax")
@dataclass(eq=False, kw_only=True)
class MultilabelSoftmax(OfSome):
    """The labels of a row against all others, of very many labels; rows without a label are left out.

    `decoupled` sets each label of a row against the labels that are none of it, so that its own do not compete;
    `softmax` against all, so that they share one whole; with `top-k` they are to be among the `k` best. What the head
    says is a score by `words`, or that of a linear layer.

    Example:
        >>> import torch
        >>> z, sets = {"text": torch.zeros(1, 2)}, torch.tensor([[1.0, 1, 0, 0]])
        >>> predictions = torch.tensor([[4.0, 3, 0, 0]])
        >>> loss = MultilabelSoftmax()
        >>> round(loss(z, predictions=predictions, label_sets=sets).item(), 3)
        0.065
        >>> round(MultilabelSoftmax(form="softmax")(z, predictions=predictions, label_sets=sets).item(), 3)
        0.84
        >>> loss.applying(loss.chances(predictions)).tolist()
        [[True, True, False, False]]
    """

    paper = (
        "DEXML, Gupta et al. 2024, arXiv 2310.10636: decoupled and top-k; softmax UWE, De Lange et al. 2025, arXiv "
        "2511.07969"
    )
    formula = (
        "decoupled: mean_i mean_{p: y_ip = 1} log(1 + sum_{n: y_in = 0} exp(s_in - s_ip)); softmax: "
        "mean_i lse_k(s_ik) - mean_p s_ip; top-k: -mean_i mean_p log sigmoid(slope (s_ip + t_i)), "
        "sum_k sigmoid(slope (s_ik + t_i)) = k"
    )
    cost = "time and memory O(B K); top-k: 24 times the time"
    use = "rows have a few of very many labels, whose order counts"
    ours = (
        "that a label applies above the widest gap between the best scores and the log-sum-exp of all others, of top-k "
        "where its sigmoid is 0.5 or more; softmax is the mean over the labels of a row, in DEXML their sum"
    )

    form: Literal["decoupled", "softmax", "top-k"] = "decoupled"
    k: Annotated[int, Ge(1)] = 5
    slope: Annotated[float, Gt(0)] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unused(self, f"form: {self.form}", dict.fromkeys(("k", "slope"), self.form == "top-k"))

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        if self.form == "top-k" and 0 < len(classes) <= self.k:
            raise ValueError(f"k = {self.k}: of {len(classes)} labels all would be among the best; set it lower")

    def telling(self, label_sets: Tensor) -> Tensor:
        some = (label_sets > 0).any(1)  # no NaN is
        return some & ((~label_sets.isnan()).sum(1) > self.k) if self.form == "top-k" else some

    def all_tell(self, label_sets: Tensor) -> bool:
        return label_sets.is_cpu and len(label_sets) > 0 and bool((label_sets.sum(1) > 0).all())

    def errors(self, predictions: Tensor, label_sets: Tensor, known: Tensor | None = None) -> Tensor:
        left_out = torch.zeros_like(label_sets, dtype=torch.bool) if known is None else ~known
        if self.form == "top-k":
            return top_k(predictions, label_sets, left_out, self.k, self.slope)[0][:, None]
        form = decoupled if self.form == "decoupled" else soft_choice
        return form(predictions, label_sets, left_out)[0][:, None]

    def errors_of_some(
        self, predictions: Tensor, label_sets: Tensor, stands_for: Tensor, known: Tensor | None = None
    ) -> Tensor:
        if self.form == "top-k":
            raise ValueError("form: top-k finds its k among all labels: leave out labels_per_step")
        return super().errors_of_some(predictions, label_sets, stands_for, known)

    def chances(self, predictions: Tensor) -> Tensor:
        predictions = at_least_float32(predictions)
        if self.form == "top-k":
            return soft_top_k(predictions, None, self.k, self.slope).sigmoid()
        return (predictions - cuts(predictions)).sigmoid()

    def applying(self, chances: Tensor) -> Tensor:
        return chances >= 0.5
