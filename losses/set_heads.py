"""Losses of heads that tell which labels of a set apply: a chance for each, or an order."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor
from torch.nn import functional

from clx.losses.base import Embeddings, Loss, register
from clx.losses.primitives.autograd import at_least_float32
from clx.losses.primitives.forms import NEVER
from clx.losses.primitives.functional import softplus
from clx.losses.primitives.masks import all_known, mean_where


@dataclass(eq=False, kw_only=True)
class SetHead(Loss):
    """A head of which labels apply; labels of a row that are not known are left out, and rows of which none is."""

    family = "supervised heads"
    fits = ("label sets",)
    trains_predictions = True
    cost = "time and memory O(B K)"

    def forward(
        self, z: Embeddings, *, predictions: Tensor, label_sets: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        return self.over_rows(predictions, label_sets, weights)

    def over_rows(
        self, predictions: Tensor, label_sets: Tensor, weights: Tensor | None, stands_for: Tensor | None = None
    ) -> Tensor:
        """The mean error; `stands_for` as in `OfSome`."""
        if predictions.shape != label_sets.shape:
            raise ValueError(f"predictions {[*predictions.shape]} and label_sets {[*label_sets.shape]} differ in shape")
        predictions = at_least_float32(predictions)
        if weights is None and stands_for is None and self.all_tell(label_sets):
            return self.errors(predictions, label_sets.to(predictions.dtype)).mean()
        telling = self.telling(label_sets)
        known = ~label_sets.isnan() & telling[:, None]
        self.count("dropped_labels", (~telling).sum())
        self.count("unknown_labels", (telling[:, None] & ~known).sum())
        label_sets = label_sets.to(predictions.dtype)
        partial = None
        if not predictions.is_cpu or self.log:
            predictions, label_sets = (x.masked_fill(~known, 0) for x in (predictions, label_sets))
            partial = known
        if stands_for is None:
            errors = self.errors(predictions, label_sets, partial)
        else:
            errors = self.errors_of_some(predictions, label_sets, stands_for.to(predictions.dtype), partial)
        known = known if errors.shape == known.shape else telling[:, None]
        mean = mean_where(known, errors, None if weights is None else weights[:, None].expand_as(errors))
        if stands_for is None or known.shape != label_sets.shape:
            return mean
        counted = known.to(mean.dtype) @ relative(stands_for.to(mean.dtype))  # of each label as often as it stands for
        return mean * known.sum().clamp(min=1) / counted.sum().clamp(min=torch.finfo(mean.dtype).tiny)

    def telling(self, label_sets: Tensor) -> Tensor:
        """Rows `[B]` from which something can be learned."""
        return ~label_sets.isnan().all(1)

    def all_tell(self, label_sets: Tensor) -> bool:
        """Whether there is no such row, by a look that costs little; False where it would."""
        return all_known(label_sets)

    def errors(self, predictions: Tensor, label_sets: Tensor, known: Tensor | None = None) -> Tensor:
        """`[B, K]`, or `[B, 1]` of whole rows; `known` `[B, K]` bool, where some labels are not."""
        raise NotImplementedError

    def errors_of_some(
        self, predictions: Tensor, label_sets: Tensor, stands_for: Tensor, known: Tensor | None = None
    ) -> Tensor:
        """As `errors` over all labels, estimated from K of them."""
        raise NotImplementedError

    def chances(self, predictions: Tensor) -> Tensor:
        """What predictions `[B, K]` say of each label, from 0 to 1."""
        raise NotImplementedError

    def applying(self, chances: Tensor) -> Tensor:
        """Which labels are said to apply, `[B, K]` bool."""
        raise NotImplementedError


def relative(stands_for: Tensor) -> Tensor:
    """How many labels each of a sample stands for `[K]`, by their mean."""
    return stands_for * (len(stands_for) / stands_for.sum())


@dataclass(eq=False, kw_only=True)
class OfSome(SetHead):
    """A head of which labels apply that can learn from a part of the labels: those that apply to a row of the batch,
    and a sample of the others, of which each counts `stands_for` times."""

    def forward(
        self,
        z: Embeddings,
        *,
        predictions: Tensor,
        label_sets: Tensor,
        weights: Tensor | None = None,
        stands_for: Tensor | None = None,
    ) -> Tensor:
        return self.over_rows(predictions, label_sets, weights, stands_for)

    def errors_of_some(
        self, predictions: Tensor, label_sets: Tensor, stands_for: Tensor, known: Tensor | None = None
    ) -> Tensor:
        """Of a loss whose other labels are in a sum of exponentials alone: each is there so many times."""
        return self.errors(predictions + stands_for.log(), label_sets, known)


@register("binary-cross-entropy")
@dataclass(eq=False, kw_only=True)
class BinaryCrossEntropy(OfSome):
    """Whether each class applies, for itself: for rows with several labels; those that are not known are left out.

    Example:
        >>> import torch
        >>> z = {"image": torch.zeros(2, 2)}
        >>> predictions, sets = torch.tensor([[2.0, -2, 0], [9, 9, 9]]), torch.tensor([[1.0, 0, 1], [torch.nan] * 3])
        >>> loss = BinaryCrossEntropy()
        >>> round(loss(z, predictions=predictions, label_sets=sets).item(), 3), loss.log
        (0.316, {'dropped_labels': 1})
    """

    absolute = True
    paper = "textbook"
    formula = "mean_ik log(1 + exp(p_ik)) - y_ik p_ik, y_ik = 1 if class k applies to row i, else 0; over known y_ik"
    use = "rows have sets of labels and a head should tell each"

    def errors(self, predictions: Tensor, label_sets: Tensor, known: Tensor | None = None) -> Tensor:
        return functional.binary_cross_entropy_with_logits(predictions, label_sets, reduction="none")

    def errors_of_some(
        self, predictions: Tensor, label_sets: Tensor, stands_for: Tensor, known: Tensor | None = None
    ) -> Tensor:
        return self.errors(predictions, label_sets, known) * relative(stands_for)

    def chances(self, predictions: Tensor) -> Tensor:
        return predictions.sigmoid()

    def applying(self, chances: Tensor) -> Tensor:
        return chances >= 0.5


def mlcd(scores: Tensor, sets: Tensor, known: Tensor | None = None) -> Tensor:
    """Of each row `[B]`, log(1 + sum over its labels of exp(-s)) + log(1 + sum over all others of exp(s)), of scores s
    `[B, K]` and `sets` `[B, K]` of 0 and 1. At least 0; it wants the labels of a row above 0 and all others below.
    Labels that are not `known` `[B, K]` are neither.

    Reference:
        An et al. 2024, arXiv 2407.17331.
    """
    plain = known is None and scores.is_cpu and scores.numel()
    if plain and max(map(abs, torch.stack(scores.detach().aminmax()).tolist())) < 60:
        e = (scores * (1 - 2 * sets)).exp()  # no sum can overflow, and exp is slow of -inf
        terms: Tensor = torch.linalg.vecdot(e, sets).log1p() + torch.linalg.vecdot(e, 1 - sets).log1p()
        return terms
    applies, others = sets > 0, sets == 0
    if known is not None:
        applies, others = applies & known, others & known
    low, high = torch.where(applies, -scores, NEVER), torch.where(others, scores, NEVER)
    return softplus(low.logsumexp(1)) + softplus(high.logsumexp(1))


@register("mlcd")
@dataclass(eq=False, kw_only=True)
class MLCD(BinaryCrossEntropy):
    """The labels of a row above 0 and all others below, the furthest from that first: for many labels, as clusters of
    an earlier model are (`clx mine --clusters 1000 --centres 8`). Labels that are not known are left out.

    Example:
        >>> import torch
        >>> predictions, sets = torch.tensor([[2.0, -2, 0]]), torch.tensor([[1.0, 0, 1]])
        >>> loss = MLCD()
        >>> round(loss({"image": torch.zeros(1, 2)}, predictions=predictions, label_sets=sets).item(), 3)
        0.886
    """

    paper = "An et al. 2024, arXiv 2407.17331"
    formula = "mean_i log(1 + sum_{k applies} exp(-p_ik)) + log(1 + sum_{k does not} exp(p_ik))"
    use = "rows have a few of very many labels, such as their nearest clusters"
    ours = "the scores are those of the head, a linear one say; in the paper 32 times cosines with centres"

    def errors(self, predictions: Tensor, label_sets: Tensor, known: Tensor | None = None) -> Tensor:
        return mlcd(predictions, label_sets, known)[:, None]

    def errors_of_some(
        self, predictions: Tensor, label_sets: Tensor, stands_for: Tensor, known: Tensor | None = None
    ) -> Tensor:
        return mlcd(predictions + stands_for.log(), label_sets, known)[:, None]


def label_ranking(predictions: Tensor, label_sets: Tensor, margin: float, known: Tensor | None = None) -> Tensor:
    """Of each row `[B]`, sum over its labels p and the other classes n of max(0, margin - s_p + s_n), of those that are
    `known` `[B, K]` where some are not.

    Reference:
        Guo et al. 2023, arXiv 2211.12739 (TaI-DPT).
    """
    own = label_sets > 0
    left = own if known is None else own | ~known
    others = predictions.masked_fill(left, -torch.inf).sort(dim=1, descending=True).values
    sums = functional.pad(others.masked_fill(others.isinf(), 0).cumsum(1), (1, 0))  # of the first so many
    above = torch.searchsorted(-others.detach(), (margin - predictions).detach())  # others over s_p - margin
    return torch.where(own, above * (margin - predictions) + sums.gather(1, above), 0).sum(1)


@register("label-ranking")
@dataclass(eq=False, kw_only=True)
class LabelRanking(SetHead):
    """Each label of a row above every other class by a margin; only their order is learned, of labels that are known.

    Example:
        >>> import torch
        >>> z, sets = {"image": torch.zeros(1, 2)}, torch.tensor([[1.0, 0, 0]])
        >>> LabelRanking()(z, predictions=torch.tensor([[2.0, 1.5, -1]]), label_sets=sets).item()
        0.5
    """

    paper = "TaI-DPT, Guo et al. 2023, arXiv 2211.12739"
    formula = "mean_i sum_{p: y_ip = 1, n: y_in = 0} max(0, margin - s_ip + s_in)"
    cost = "time O(B K log K), memory O(B K)"
    use = "learned prompts, or a head, should order labels, and how many apply does not matter"
    ours = "the chance of a label, sigmoid(s_ik - mean_k s_ik): the order alone is learned"

    margin: Annotated[float, Gt(0)] = 1.0

    def errors(self, predictions: Tensor, label_sets: Tensor, known: Tensor | None = None) -> Tensor:
        return label_ranking(predictions, label_sets, self.margin, known)[:, None]

    def chances(self, predictions: Tensor) -> Tensor:
        predictions = at_least_float32(predictions)
        return (predictions - predictions.mean(1, keepdim=True)).sigmoid()

    def applying(self, chances: Tensor) -> Tensor:
        return chances >= 0.5
