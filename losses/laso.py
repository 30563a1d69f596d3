"""LaSO: networks that make, of the features of two rows, those of what one, both or either of them shows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional

from clx.losses.base import Embeddings, Loss, register, zero_loss
from clx.losses.predictor import Norm
from clx.losses.primitives.draws import permutation
from clx.losses.primitives.masks import all_known, chosen, stack_present

Operate = Callable[[Tensor, Tensor], Tensor]

PRIORS: dict[str, Operate] = {
    "difference": lambda a, b: (a - b).relu(),
    "intersection": torch.minimum,
    "union": torch.add,
}
"""What each operation is of counts, at least 0: what the networks begin with, and are to beat."""


class Operator(nn.Module):
    """Features of two rows, `[B, D]` each and at least 0, to those of what an operation leaves of their labels."""

    def __init__(self, dim: int, layers: int, prior: Operate) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(2 * dim, dim), Norm(dim), nn.LeakyReLU())
        self.between = nn.ModuleList(nn.Sequential(nn.Linear(dim, dim), Norm(dim)) for _ in range(layers))
        self.last, self.prior = nn.Linear(dim, dim), prior

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        h, prior = self.first(torch.cat([a, b], 1)), self.prior(a, b)
        for layer in self.between:
            h = functional.leaky_relu(layer(h) + prior)
        found: Tensor = self.last(h).relu()
        return found


def outcomes(a: Tensor, b: Tensor, less: Operate, both: Operate, either: Operate) -> Tensor:
    """Features `[18, B, D]` of what the operations make of rows `[B, D]`, in this order: A again, as what it has alone
    with what both have; B again; A - B, B - A; A | B, B | A; A & B, B & A; (A - B) - B and the like of B, of & and of
    |; A - (B & A), B - (A & B), A - (A & B), B - (B & A)."""
    ab, ba = both(a, b), both(b, a)
    without_ba, without_ab = less(a, ba), less(b, ab)
    difference, other = less(a, b), less(b, a)
    union_ab, union_ba = either(a, b), either(b, a)
    found = [either(without_ba, ab), either(without_ab, ba), difference, other, union_ab, union_ba, ab, ba]
    found += [less(difference, b), less(other, a), both(ab, b), both(ba, a), either(union_ab, b), either(union_ba, a)]
    return torch.stack([*found, without_ba, without_ab, less(a, ab), less(b, ba)])


A, B, A_LESS_B, B_LESS_A, EITHER, BOTH = range(6)
MEANT = (
    *(A, B, A, B, A_LESS_B, B_LESS_A, EITHER, EITHER, BOTH, BOTH),
    *(A_LESS_B, B_LESS_A, BOTH, BOTH, EITHER, EITHER, A_LESS_B, B_LESS_A, A_LESS_B, B_LESS_A),
)
"""What a, b and the 18 outcomes should be classified as."""
EQUAL = ((0, 2), (1, 3), (6, 7), (8, 9), *((4, k) for k in (10, 16, 18)), *((5, k) for k in (11, 17, 19)))
"""Those of a, b and the 18 outcomes that should be the same."""


def meant(a: Tensor, not_a: Tensor, b: Tensor, not_b: Tensor) -> Tensor:
    """The sets `[20, B, C]` of `MEANT`, from those of two rows `[B, C]`; `not_a` and `not_b` are what is taken from the
    other, a and b again where all of them is known."""
    sets = [a, b, a * (1 - not_b), b * (1 - not_a), torch.maximum(a, b), a * b]
    return torch.stack([sets[k] for k in MEANT])


def laso(
    a: Tensor, b: Tensor, found: Tensor, of_a: Tensor, of_b: Tensor, classify: Callable[[Tensor], Tensor], laws: float
) -> Tensor:
    """Mean binary cross-entropy of a, b, both again, both differences, A | B and A & B with the labels that they should
    have, added up, and `laws` times what says that two ways to one set agree: the cross-entropies of the other
    outcomes, and the mean squared distances of pairs.

    Args:
        a, b: `[B, D]`, at least 0.
        found: `[18, B, D]`, their `outcomes`.
        of_a, of_b: `[B, C]`, 1 for each label that applies, else 0; NaN where that is not known. Of what an operation
            should give, labels count that follow from those that are known.
        classify: `[N, D] -> [N, C]`.

    Reference:
        Alfassy et al. 2019, arXiv 1902.09811.
    """
    rows = torch.cat([torch.stack([a, b]), found])
    logits, known = classify(rows.flatten(0, 1)).unflatten(0, rows.shape[:2]), None
    wanted = meant(of_a, of_a, of_b, of_b)
    if not all_known(wanted):  # what is the same whether a label applies that is not known, or not
        low, high = ([each.nan_to_num(nan=nan) for each in (of_a, of_b)] for nan in (0.0, 1.0))
        wanted = meant(low[0], high[0], low[1], high[1])
        known = wanted == meant(high[0], low[0], high[1], low[1])
    errors = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    if known is None:
        errors = errors.mean((1, 2))
    else:
        errors = torch.where(known, errors, 0).sum((1, 2)) / known.sum((1, 2)).clamp(min=1)
    if not laws:
        return errors[:7].sum() + errors[8]
    one, other = (torch.stack([rows[k] for k in side]) for side in zip(*EQUAL, strict=True))
    apart = (one - other).square().mean((1, 2)).sum()
    return errors[:7].sum() + errors[8] + laws * (errors[7] + errors[9:].sum() + apart)


@register("laso")
@dataclass(eq=False, kw_only=True)
class LaSO(Loss):
    """Three networks for difference, intersection and union of label sets, and a classifier, all trained with it.

    Rows are paired at random, each with one other. Embeddings count as features where they are above 0, as behind the
    ReLU of the paper's encoder. Labels that are not known are left out, and rows of which none is.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> loss = LaSO()
        >>> loss.setup(["image"], 8, ["cat", "dog"])
        >>> rows, sets = torch.randn(4, 8), torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0]])
        >>> 5 < loss({"image": rows}, label_sets=sets).item() < 50
        True
        >>> loss.operate("union", rows[:2], rows[2:]).shape  # features of rows with the labels of either
        torch.Size([2, 8])
    """

    family = "mixtures"
    paper = "Alfassy et al. 2019, arXiv 1902.09811"
    formula = (
        "BCE of c(a), c(b), c(S(a,b)), c(I(a,b)), c(U(a,b)) and of a again, U(S(a, I(b,a)), I(a,b)), with the sets of "
        "labels that they stand for, + laws (BCE of 12 more ways to these sets + 10 mean squares between two ways)"
    )
    cost = "time O(B D^2), memory O(B D); 18 passes of networks of two layers and more"
    use = "rows have sets of labels, some of few rows: features for combinations that no row shows"
    fits = ("label sets",)
    host_reads = 1  # which rows have labels
    ours = "layers: the paper's number of them is not known here"

    laws: Annotated[float, Ge(0)] = 1.0
    layers: Annotated[int, Ge(0)] = 1  # of each network, with the prior added: between its first and its last
    operators: nn.ModuleDict = field(init=False, repr=False)
    classifier: nn.Linear = field(init=False, repr=False)

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        self.operators = nn.ModuleDict({name: Operator(dim, self.layers, prior) for name, prior in PRIORS.items()})
        self.classifier = nn.Linear(dim, len(classes))

    def features(self, rows: Tensor) -> Tensor:
        """Embeddings `[N, D]`, or of a width below that, as features at least 0, `[N, D]`."""
        return functional.pad(rows.relu(), (0, self.classifier.in_features - rows.shape[1]))

    def operate(self, operation: str, a: Tensor, b: Tensor) -> Tensor:
        """Features `[B, D]` of the `difference`, `intersection` or `union` of rows with embeddings `[B, D]`."""
        found: Tensor = self.operators[operation](self.features(a), self.features(b))
        return found

    def forward(
        self,
        z: Embeddings,
        *,
        label_sets: Tensor,
        present: dict[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        rows, items = stack_present(z, present)
        sets = label_sets[items]
        (known,) = chosen([~sets.isnan().all(1)])
        self.count("dropped_labels", len(rows) - len(known))
        if len(known) < 2:
            return zero_loss(z)
        order = known[permutation(len(known), rows, generator)]
        partner = order.roll(1)
        features, sets = self.features(rows), sets.to(rows.dtype)
        a, b = features[order], features[partner]
        operators = (self.operators[name] for name in PRIORS)
        return laso(a, b, outcomes(a, b, *operators), sets[order], sets[partner], self.classifier, self.laws)
