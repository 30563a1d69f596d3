"""Asymmetric loss: whether each label applies, with little weight on labels that are known not to."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Lt
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from clx.losses.base import register
from clx.losses.primitives.autograd import first_order_only, without_autocast
from clx.losses.set_heads import BinaryCrossEntropy


def asymmetric(predictions: Tensor, label_sets: Tensor, own: float, others: float, shift: float) -> Tensor:
    """Of each label `[B, K]`, -(1 - p)^own log p where it applies and -p'^others log(1 - p') where it does not, with
    p = sigmoid(prediction) and p' = max(p - shift, 0); the powers have no gradient.

    Reference:
        Ridnik et al. 2021, arXiv 2009.14119; as Sun et al. 2022, arXiv 2206.09541 (DualCoOp), have it.
    """
    return _Asymmetric.apply(predictions, label_sets, own, others, shift)  # type: ignore[no-any-return, no-untyped-call]


class _Asymmetric(Function):
    """Value and gradient in one pass: of a large head, time goes with how often its numbers are read and written."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, predictions: Tensor, label_sets: Tensor, own: float, others: float, shift: float) -> Tensor:
        applies = label_sets > 0
        no = torch.sigmoid(-predictions)  # 1 - p, of a high prediction too
        kept = (no + shift).clamp_(max=1)  # 1 - p'
        weight = torch.where(applies, no if own == 1 else no**own, (1 - kept) ** others)
        log = kept.log() if shift else functional.logsigmoid(-predictions)
        log = torch.where(applies, functional.logsigmoid(predictions), log)
        # of -log(1 - p') it is p (1 - p) / (1 - p'), and 0 where p' is
        slope = torch.where(applies, -no, (1 - no).mul_(no).div_(kept).masked_fill_(kept == 1, 0) if shift else 1 - no)
        ctx.save_for_backward(slope.mul_(weight))
        return log.mul_(weight).neg_()

    @staticmethod
    @first_order_only
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return g * slope, None, None, None, None


@register("asymmetric")
@dataclass(eq=False, kw_only=True)
class Asymmetric(BinaryCrossEntropy):
    """Whether each class applies, with little weight on classes that are known not to: few of many apply to a row.

    Example:
        >>> import torch
        >>> z, sets = {"image": torch.zeros(1, 2)}, torch.tensor([[1.0, 0, 0]])
        >>> loss = Asymmetric()
        >>> round(loss(z, predictions=torch.tensor([[0.0, 0, -4]]), label_sets=sets).item(), 3)
        0.156
        >>> round(BinaryCrossEntropy()(z, predictions=torch.tensor([[0.0, 0, -4]]), label_sets=sets).item(), 3)
        0.468
    """

    paper = "Ridnik et al. 2021, arXiv 2009.14119; DualCoOp, Sun et al. 2022, arXiv 2206.09541"
    formula = (
        "-mean_ik y_ik (1 - p_ik)^focus_own log p_ik + (1 - y_ik) p'_ik^focus_others log(1 - p'_ik), "
        "p = sigmoid(prediction), p' = max(p - shift, 0)"
    )
    use = "each row has few labels of many, or learned prompts tell sets of labels"

    focus_own: Annotated[float, Ge(0)] = 1.0
    focus_others: Annotated[float, Ge(0)] = 2.0
    shift: Annotated[float, Ge(0), Lt(1)] = 0.05

    def errors(self, predictions: Tensor, label_sets: Tensor, known: Tensor | None = None) -> Tensor:
        return asymmetric(predictions, label_sets, self.focus_own, self.focus_others, self.shift)
