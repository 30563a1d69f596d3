"""Losses on the predictions of a head that is trained jointly, alone or beside a contrastive one."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Lt
from torch import Tensor
from torch.nn import functional

from clx.losses.base import Embeddings, Loss, register
from clx.losses.primitives.autograd import at_least_float32
from clx.losses.primitives.functional import weighted_mean


@dataclass(eq=False, kw_only=True)
class Regression(Loss):
    """Mean over all known targets of an error; NaN targets are left out."""

    family = "supervised heads"
    cost = "time and memory O(B K)"
    trains_predictions = True

    def forward(self, z: Embeddings, *, predictions: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        if predictions.shape != targets.shape:
            raise ValueError(f"predictions {[*predictions.shape]} and targets {[*targets.shape]} differ in shape")
        predictions = at_least_float32(predictions)
        targets = targets.to(predictions.dtype)
        counted = None if weights is None else weights[:, None].expand_as(targets)
        unknown = targets.isnan()
        if bool(unknown.any()):
            self.log["dropped_targets"] = int(unknown.sum())
            predictions, targets = predictions[~unknown], targets[~unknown]
            counted = None if counted is None else counted[~unknown]
        if counted is None and targets.numel():
            return self.error(predictions, targets, "mean")
        return weighted_mean(self.error(predictions, targets, "none"), counted)

    def error(self, predictions: Tensor, targets: Tensor, reduction: str) -> Tensor:
        raise NotImplementedError


@register("l1")
@dataclass(eq=False, kw_only=True)
class L1(Regression):
    """Mean absolute error.

    Example:
        >>> import torch
        >>> z = {"image": torch.zeros(3, 2)}  # heads do not look at the embeddings
        >>> predictions, targets = torch.tensor([[1.0], [2], [5]]), torch.tensor([[2.0], [2], [torch.nan]])
        >>> loss = L1()
        >>> loss(z, predictions=predictions, targets=targets).item(), loss.log
        (0.5, {'dropped_targets': 1})
    """

    paper = "textbook"
    formula = "mean |p - y|"
    use = "regression with outliers; what most age and similarity benchmarks report"

    def error(self, predictions: Tensor, targets: Tensor, reduction: str) -> Tensor:
        return functional.l1_loss(predictions, targets, reduction=reduction)


@register("mse")
@dataclass(eq=False, kw_only=True)
class MSE(Regression):
    """Mean squared error.

    Example:
        >>> import torch
        >>> z = {"image": torch.zeros(2, 2)}
        >>> MSE()(z, predictions=torch.tensor([[1.0], [2]]), targets=torch.tensor([[2.0], [5]])).item()
        5.0
    """

    paper = "textbook"
    formula = "mean (p - y)^2"
    use = "regression with Gaussian noise"

    def error(self, predictions: Tensor, targets: Tensor, reduction: str) -> Tensor:
        return functional.mse_loss(predictions, targets, reduction=reduction)


@register("huber")
@dataclass(eq=False, kw_only=True)
class Huber(Regression):
    """Squared error near zero, absolute error beyond `delta`.

    Example:
        >>> import torch
        >>> z = {"image": torch.zeros(2, 2)}
        >>> Huber(delta=1)(z, predictions=torch.tensor([[1.0], [2]]), targets=torch.tensor([[2.0], [5]])).item()
        1.5
    """

    paper = "Huber 1964, doi 10.1214/aoms/1177703732"
    formula = "mean h(p - y), h(e) = e^2 / 2 if |e| <= delta else delta (|e| - delta / 2)"
    use = "regression with some outliers"

    delta: Annotated[float, Gt(0)] = 1.0

    def error(self, predictions: Tensor, targets: Tensor, reduction: str) -> Tensor:
        return functional.huber_loss(predictions, targets, reduction=reduction, delta=self.delta)


@register("cross-entropy")
@dataclass(eq=False, kw_only=True)
class CrossEntropy(Loss):
    """Softmax cross-entropy of class predictions; rows labelled -1 are left out.

    Example:
        >>> import torch
        >>> z = {"image": torch.zeros(3, 2)}
        >>> predictions, labels = torch.tensor([[2.0, 0], [0, 2], [9, 9]]), torch.tensor([0, 1, -1])
        >>> loss = CrossEntropy()
        >>> round(loss(z, predictions=predictions, labels=labels).item(), 3), loss.log
        (0.127, {'dropped_labels': 1})
    """

    family = "supervised heads"
    trains_predictions = True
    paper = "textbook"
    formula = "mean_i lse_k(p_ik) - p_i,y_i"
    cost = "time and memory O(B K)"
    use = "classes are at hand and a head should tell them"

    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0

    def forward(self, z: Embeddings, *, predictions: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        lowest, highest = (int(end) for end in labels.aminmax()) if len(labels) else (0, 0)
        if len(labels) and highest >= predictions.shape[1]:
            raise ValueError(f"label {highest} is beyond the {predictions.shape[1]} predicted classes")
        predictions = at_least_float32(predictions)
        if lowest < 0:
            known = labels >= 0
            self.log["dropped_labels"] = int((~known).sum())
            predictions, labels = predictions[known], labels[known]
            weights = None if weights is None else weights[known]
        if weights is None and len(labels):
            return functional.cross_entropy(predictions, labels, label_smoothing=self.label_smoothing)
        smoothing = self.label_smoothing
        return weighted_mean(
            functional.cross_entropy(predictions, labels, reduction="none", label_smoothing=smoothing), weights
        )


@register("binary-cross-entropy")
@dataclass(eq=False, kw_only=True)
class BinaryCrossEntropy(Loss):
    """Whether each class applies, for itself: for rows with several labels; rows without known labels are left out.

    Example:
        >>> import torch
        >>> z = {"image": torch.zeros(2, 2)}
        >>> predictions, sets = torch.tensor([[2.0, -2, 0], [9, 9, 9]]), torch.tensor([[1.0, 0, 1], [torch.nan] * 3])
        >>> loss = BinaryCrossEntropy()
        >>> round(loss(z, predictions=predictions, label_sets=sets).item(), 3), loss.log
        (0.316, {'dropped_labels': 1})
    """

    family = "supervised heads"
    trains_predictions = True
    paper = "textbook"
    formula = "mean_ik log(1 + exp(p_ik)) - y_ik p_ik, y_ik = 1 if class k applies to row i, else 0"
    cost = "time and memory O(B K)"
    use = "rows have sets of labels and a head should tell each"

    def forward(
        self, z: Embeddings, *, predictions: Tensor, label_sets: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        if predictions.shape != label_sets.shape:
            raise ValueError(f"predictions {[*predictions.shape]} and label_sets {[*label_sets.shape]} differ in shape")
        predictions = at_least_float32(predictions)
        unknown = label_sets.isnan().any(1)
        if bool(unknown.any()):
            self.log["dropped_labels"] = int(unknown.sum())
            predictions, label_sets = predictions[~unknown], label_sets[~unknown]
            weights = None if weights is None else weights[~unknown]
        errors = functional.binary_cross_entropy_with_logits(
            predictions, label_sets.to(predictions.dtype), reduction="none"
        )
        return weighted_mean(errors, None if weights is None else weights[:, None].expand_as(errors))
