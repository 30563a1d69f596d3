"""Losses on the predictions of a head that is trained jointly, alone or beside a contrastive one."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor
from torch.nn import functional

from clx.losses.base import Embeddings, Loss, register
from clx.losses.primitives.autograd import at_least_float32
from clx.losses.primitives.masks import all_known, mean_where


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
        if weights is None and all_known(targets):
            return self.error(predictions, targets, "mean")
        counted = None if weights is None else weights[:, None].expand_as(targets)
        unknown = targets.isnan()
        self.count("dropped_targets", unknown.sum())
        # what stands in for the unknown may be NaN, of which the gradient would be NaN
        errors = self.error(predictions.masked_fill(unknown, 0), targets.masked_fill(unknown, 0), "none")
        return mean_where(~unknown, errors, counted)

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
    fits = ("targets",)

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
    fits = ("targets",)

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
    fits = ("targets",)

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
    fits = ("labels",)

    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0

    def forward(
        self,
        z: Embeddings,
        *,
        predictions: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
        mixed: dict[str, tuple[Tensor, Tensor | float]] | None = None,
        stands_for: Tensor | None = None,
    ) -> Tensor:
        if mixed:
            if len(z) > 1:
                raise ValueError(f"of mixed views it takes one, and has {', '.join(z)}: set views: 1, or use moit")
            ((partner, share),) = mixed.values()
            whole = partial(self.forward, z, predictions=predictions, weights=weights, stands_for=stands_for)
            known = labels[partner] >= 0  # of rows whose partner has no label nothing is learned
            own, other = torch.where(known, labels, -1), torch.where(labels >= 0, labels[partner], -1)
            lesser = (1 - share) * whole(labels=other)
            self.log.clear()  # rows without a label are counted once
            return share * whole(labels=own) + lesser
        predictions, smoothing = at_least_float32(predictions), self.label_smoothing
        if stands_for is not None:  # the softmax over all classes, estimated (Jean et al. 2015, arXiv 1412.2007)
            if smoothing:
                raise ValueError("label_smoothing is over all classes: leave it out, or labels_per_step")
            predictions = predictions + stands_for.to(predictions.dtype).log()
        if labels.is_cpu and len(labels):  # on a GPU the cross-entropy itself stops at such a label
            lowest, highest = (int(each) for each in labels.aminmax())
            if highest >= predictions.shape[1]:
                raise ValueError(f"label {highest} is beyond the {predictions.shape[1]} predicted classes")
            if weights is None and lowest >= 0:
                return functional.cross_entropy(predictions, labels, label_smoothing=smoothing)
        unknown = labels < 0
        self.count("dropped_labels", unknown.sum())
        predictions, labels = predictions.masked_fill(unknown[:, None], 0), labels.clamp(min=0)
        errors = functional.cross_entropy(predictions, labels, reduction="none", label_smoothing=smoothing)
        return mean_where(~unknown, errors, weights)


def mutual_information(logits: Tensor, counted: Tensor) -> Tensor:
    """H(mean_i p_i) - mean_i H(p_i) of the rows that are `counted` `[B]`, p their softmax `[B, K]`; 0 of none."""
    if counted.is_cpu and len(counted) and bool(counted.all()):  # a look costs less than masks there
        log_p = logits.log_softmax(1)
        p = log_p.exp()
        mean = p.mean(0)
        found: Tensor = torch.dot(p.flatten(), log_p.flatten()) / len(p) - torch.special.xlogy(mean, mean).sum()
        return found
    log_p = logits.masked_fill(~counted[:, None], 0).log_softmax(1)
    p = log_p.exp()
    mean = torch.where(counted[:, None], p, 0).sum(0) / counted.sum().clamp(min=1)
    single = mean_where(counted, -(p * log_p).sum(1))
    return torch.where(counted.any(), -torch.special.xlogy(mean, mean).sum() - single, 0)


@register("mutual-information")
@dataclass(eq=False, kw_only=True)
class MutualInformation(Loss):
    """Predictions of rows without a label, each sure of itself and all together even: minus their mutual information.

    Example:
        >>> z, unknown = {"image": torch.zeros(2, 2)}, torch.tensor([-1, -1])
        >>> loss = MutualInformation()
        >>> round(loss(z, predictions=torch.tensor([[9.0, 0], [0, 9]]), labels=unknown).item(), 3)  # -log 2 at best
        -0.692
        >>> loss(z, predictions=torch.tensor([[9.0, 0], [9, 0]]), labels=unknown).item() > -1e-6
        True
    """

    family = "supervised heads"
    trains_predictions = True
    paper = "Li et al. 2021, arXiv 2010.16088 (CLIM)"
    formula = "mean_i H(p_i) - H(mean_i p_i) over the rows without a label, p the softmax of the predictions"
    cost = "time and memory O(B K)"
    use = "beside cross-entropy and a contrast, where many rows have no label: it keeps the classes in balance"
    fits = ("labels",)
    ours = "no code was published: this is the usual estimate of I, both of whose terms have a gradient"

    def forward(self, z: Embeddings, *, predictions: Tensor, labels: Tensor) -> Tensor:
        return -mutual_information(at_least_float32(predictions), labels < 0)
