"""SepCLR: what two groups of rows have in common in one part of the embedding, what only one has in the other."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from clx.losses.base import Embeddings, Loss, register, require_two_inputs, zero_loss
from clx.losses.geometry import alignment, potentials, uniformity
from clx.losses.primitives.blocks import by_blocks, of_block
from clx.losses.primitives.functional import unit
from clx.losses.primitives.masks import chosen, mean_where
from clx.losses.primitives.tiles import multiplying


def joint_entropy(common: Tensor, salient: Tensor, kernel: float) -> Tensor:
    """mean_i log mean_j exp(-kernel (|c_i - c_j|^2 + |s_i - s_j|^2)), j = i too, of `[B, D]` and `[B, E]`; scalar."""
    return potentials(torch.cat([common, salient], 1), kernel).mean() - math.log(len(common))


def following(x: Tensor, y: Tensor, kernel: float) -> Tensor:
    """mean_{i < j} exp(-kernel (y_i - y_j)^2) (x_i - x_j)^2 of a coordinate `[B]` and a number `[B]`: `[]`, 0 of fewer
    than two rows. It draws the coordinates of rows of near numbers together.

    Reference:
        Louiset et al. 2024, arXiv 2402.11928, its supervised alignment; kernel is 1 / (2 tau) there.
    """
    size = len(x)
    if size < 2:
        return x[:0].sum()

    def terms(s: Tensor, rows: slice, x: Tensor) -> tuple[Tensor]:
        alike = (s - of_block(y, rows)[:, None]).square_().mul_(-kernel).exp_()
        return (((of_block(x, rows)[:, None] - x).square() * alike).sum(),)

    with multiplying(None):  # the product is a way to have each y_j in each row
        return by_blocks(terms, torch.ones_like(y[:, None]), y[:, None], x)[0] / (size * (size - 1))


def sepclr(
    common: Sequence[Tensor],
    salient: Sequence[Tensor],
    target: Tensor,
    kernel: float = 1.0,
    weights: tuple[float, float, float] = (1000.0, 1000.0, 10.0),
) -> Tensor:
    """SepCLR of two views.

    common: kernel |c - c'|^2 + mean of 2 U(c), U uniformity; salient: the same of s on target rows, U over all rows
    with s of background rows put to 0; information-less: kernel |s|^2 of background rows; joint entropy of (c, s).

    Args:
        common: two of `[B, D]`, unit rows.
        salient: two of `[B, E]`, not normalised.
        target: `[B]` bool, False for background rows.
        kernel: of distances, 1 / (2 tau).
        weights: of the salient term, of the information-less one and of the joint entropy; that of the first is 1.

    Returns:
        Scalar; what needs target rows or background rows is 0 where there are none.

    Reference:
        Louiset et al. 2024, arXiv 2402.11928.
    """
    by_salient, by_nothing, by_joint = weights
    apart = [torch.where(target[:, None], s, 0) for s in salient]
    total = kernel * alignment(common[0], common[1]) + sum(uniformity(c, kernel) for c in common)
    pulled = kernel * mean_where(target, (salient[0] - salient[1]).square().sum(1))
    total = total + by_salient * (pulled + sum(uniformity(s, kernel) for s in apart))
    empty = [mean_where(~target, s.square().sum(1)) for s in salient]
    joint = [joint_entropy(c, s, kernel) for c, s in zip(common, apart, strict=True)]
    return total + by_nothing * kernel * torch.stack(empty).mean() + by_joint * torch.stack(joint).mean()


@register("sepclr")
@dataclass(eq=False, kw_only=True)
class SepCLR(Loss):
    """Contrast of common and salient factors, over all pairs of names; a row without a label is left out.

    The last columns of an embedding are its salient part, in which rows of the background label should lie at 0. With
    `attributes` its first columns follow the numbers of `data.target`, one each, on rows that have them: near numbers,
    by `attribute_kernel` in their units, have near coordinates.

    Example:
        >>> x = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 3, 0], [0, 1, 0, 3]])
        >>> loss = SepCLR()
        >>> loss.setup(["image/0", "image/1"], 4, ["healthy", "ill"])
        >>> right = loss({"image/0": x, "image/1": x}, labels=torch.tensor([0, 0, 1, 1])).item()
        >>> wrong = loss({"image/0": x, "image/1": x}, labels=torch.tensor([1, 1, 0, 0])).item()
        >>> wrong - right > 1000
        True
    """

    family = "geometry"
    paper = "Louiset et al. 2024, arXiv 2402.11928"
    formula = (
        "A(c) + 2 U(c) + beta_salient (A(s) + 2 U(s)) + beta_background kernel |s_background|^2 "
        "+ joint mean_i log mean_j e^{-kernel (|c_i - c_j|^2 + |s_i - s_j|^2)} + attributes mean_{k, i < j} "
        "e^{-attribute_kernel (y_ik - y_jk)^2} (s_ik - s_jk)^2, A alignment, U uniformity"
    )
    cost = "time O(B^2 D) per pair of names, memory O(B D)"
    use = "two groups of rows, of which one has something more: a lesion, a digit over a picture; two views of each"
    fits = ("labels", "one modality")
    sharpness = "2 kernel, of the common part's cosines"

    host_reads = 1  # which rows have a label

    salient: Annotated[float, Gt(0), Lt(1)] = 0.5  # share of the columns
    background: str | None = None  # the label of rows that have nothing salient; the first by default
    kernel: Annotated[float, Gt(0)] = 1.0
    beta_salient: Annotated[float, Ge(0)] = 1000.0
    beta_background: Annotated[float, Ge(0)] = 1000.0
    joint: Annotated[float, Ge(0)] = 10.0
    attributes: Annotated[float, Ge(0)] = 0.0  # weight of what draws salient columns after the numbers of data.target
    attribute_kernel: Annotated[float, Gt(0)] = 20.0

    def requires(self) -> frozenset[str]:
        return super().requires() | ({"targets"} if self.attributes else set())

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        if self.background is not None and classes and self.background not in classes:
            raise ValueError(f"background {self.background!r} is no label; there is {', '.join(classes)}")
        self.background_label = list(classes).index(self.background) if self.background and classes else 0
        if not 0 < round(self.salient * dim) < dim:
            raise ValueError(f"salient {self.salient} of {dim} columns leaves one of the two parts without any")

    def forward(
        self,
        z: Embeddings,
        *,
        labels: Tensor,
        present: dict[str, Tensor] | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:
        require_two_inputs(z)
        pairs, known = list(itertools.combinations(z, 2)), labels >= 0
        self.count("dropped_labels", (~known).sum())
        rows = chosen([known if present is None else known & present[a] & present[b] for a, b in pairs])
        target, terms = labels != getattr(self, "background_label", 0), []
        for names, both in zip(pairs, rows, strict=True):
            if len(both) < 2:
                continue
            width = round(self.salient * z[names[0]].shape[1])
            seen = [z[name][both] for name in names]
            weights = self.beta_salient, self.beta_background, self.joint
            common, salient = [unit(x[:, :-width]) for x in seen], [x[:, -width:] for x in seen]
            terms.append(sepclr(common, salient, target[both], self.kernel, weights))
            if self.attributes:
                terms[-1] = terms[-1] + self.attributes * self.followed(salient, targets, both)
        skipped = len(pairs) - len(terms)
        if skipped:
            self.log["skipped_pairs"] = skipped
        return torch.stack(terms).mean() if terms else zero_loss(z)

    def followed(self, salient: Sequence[Tensor], targets: Tensor | None, rows: Tensor) -> Tensor:
        """The mean of `following` over the targets of these rows and the views of their salient parts `[N, E]`."""
        if targets is None:
            raise ValueError("attributes are numbers of the rows: name their columns in data.target")
        if targets.shape[1] > salient[0].shape[1]:
            raise ValueError(f"{targets.shape[1]} targets, but the salient part has {salient[0].shape[1]} columns")
        numbers, found = targets[rows].to(salient[0].dtype), []
        for k, known in enumerate(chosen(list((~numbers.isnan()).T))):
            found += [following(s[known, k], numbers[known, k], self.attribute_kernel) for s in salient]
        return torch.stack(found).mean()
