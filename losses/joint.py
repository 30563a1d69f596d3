"""InfoNCE with more in its denominator: other directions, hard negatives that weigh more, and rows of noise."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le, Lt, MinLen
from torch import Tensor

from clx.losses.base import Embeddings, register
from clx.losses.further_negatives import Negatives, SoftmaxWithNegatives
from clx.losses.infonce import infonce, other_rows
from clx.losses.pairwise import Ids, ids_or_guide
from clx.losses.primitives.draws import normal
from clx.losses.primitives.edits import DifferentIds, Edit, either, off_diagonal
from clx.losses.primitives.functional import lse, paired_similarity, softplus, unit, weighted_mean
from clx.losses.primitives.judged import Judged
from clx.losses.primitives.streaming import cross_rows

Direction = Literal["first-second", "second-first", "first-first", "second-second"]
"""Whose rows are compared with whose: of row i, x_i with all y, y_i with all x, x_i with all x, y_i with all y."""
FORWARD: tuple[Direction, ...] = ("first-second",)
CLIMBS = 4
"""Steps that noise takes towards the anchors."""


@dataclass(frozen=True)
class Harder:
    """Negatives count more, the more similar they are: `strength` times their cosine, as a constant, is added."""

    strength: float = 0.0
    of: Literal["all", "others", "own"] = "all"
    """`own`: the row's own columns of negatives; `others`: all but these."""

    def edit(self, temperature: Tensor | float, own: DifferentIds | None) -> Edit | None:
        """For logits of negatives; `own` tells whose they are, None for partners of other rows."""
        if not self.strength or (self.of == "own" and own is None):
            return None
        tau = temperature.detach() if isinstance(temperature, Tensor) else temperature
        factor, of = 1 + self.strength * tau, self.of

        def scale(s: Tensor, i: slice, j: slice) -> None:
            # the primitives take an edit for a constant, so this is strength times the cosine without gradient
            if of == "all" or own is None:
                s.mul_(factor)
            else:
                same = own.ids[i, None] == own.of_columns[j]
                s.copy_(torch.where(same if of == "own" else ~same, s * factor, s))

        return scale


PLAIN = Harder()


def joint(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    ids: Ids | None = None,
    negatives: Negatives | None = None,
    directions: Collection[Direction] = FORWARD,
    harder: Harder = PLAIN,
    noise: Tensor | None = None,
) -> Tensor:
    """Each row's -log( exp(x_i.y_i / t) / Z_i ), `[B]`, where Z_i adds up exp(s / t) over all `directions` together:

    first-second: x_i with every y_j, the negatives and the noise; second-first: y_i with every x_j, so the positive
    counts twice; first-first: x_i with the other x_j; second-second: y_i with the other y_j and their negatives.

    Args:
        x, y: `[B, D]`, unit rows; row i of both is one item.
        temperature: positive.
        ids: `[B]`, or a second model's word: rows that are no negatives of each other, in all directions.
        negatives: columns of negatives.
        harder: of first-second.
        noise: `[N, D]`, unit rows that are negatives of every row of `x`.

    Reference:
        Li et al. 2023, GTE, arXiv 2308.03281 (all four); hardness: Lan et al. 2025, LLaVE, arXiv 2503.04812; noise:
        Zhou et al. 2022, DCLR, arXiv 2205.00656.
    """
    edit = other_rows(ids, both=False)
    found = [cross_rows(x, y, temperature, either(harder.edit(temperature, None), edit))]
    if negatives is not None:
        beside = either(harder.edit(temperature, negatives.of), negatives.edit)
        found.append(cross_rows(x, negatives.rows, temperature, beside))
    if noise is not None:
        found.append(cross_rows(x, noise, temperature))

    def within(left: Tensor, right: Tensor) -> Edit:
        return ids.between(left, right) if isinstance(ids, Judged) else other_rows(ids)

    guide = (ids.left, ids.right) if isinstance(ids, Judged) else (x, y)
    if "second-first" in directions:
        found.append(cross_rows(y, x, temperature, within(guide[1], guide[0])))
    if "first-first" in directions:
        found.append(cross_rows(x, x, temperature, within(guide[0], guide[0])))
    if "second-second" in directions:
        found.append(cross_rows(y, y, temperature, within(guide[1], guide[1])))
        if negatives is not None:
            apart = either(negatives.repeats, _of_partners(ids, negatives), negatives.of)
            found.append(cross_rows(y, negatives.rows, temperature, apart))
    margins = lse(torch.stack(found), 0) - paired_similarity(x, y, temperature)
    twice = math.log(2) if "second-first" in directions else 0.0
    return twice + softplus(margins - twice)


def _of_partners(ids: Ids | None, negatives: Negatives) -> Judged | None:
    """Which negatives a second model finds no negatives of the partners."""
    if not isinstance(ids, Judged) or negatives.judged is None:
        return None
    return ids.between(ids.right, negatives.judged.right, own=None)


def climbing_noise(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    rows: int,
    reach: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Unit rows `[rows, D]` of noise that climbed the loss of `x` among `y` and them by `CLIMBS` steps.

    Args:
        reach: of a step, in radians, along the gradient on the sphere. A row without gradient stays.

    Reference:
        Zhou et al. 2022, DCLR, arXiv 2205.00656. Its code steps by 1e-3 on rows of length sqrt(D), which moves no
        cosine by more than 2e-4; here rows are on the sphere and a step is an angle.
    """
    x, y = x.detach(), y.detach()
    tau = temperature.detach() if isinstance(temperature, Tensor) else temperature
    noise = unit(normal((rows, x.shape[1]), x, generator))
    if not reach or not len(x):
        return noise
    batch = cross_rows(x, y, tau, off_diagonal)
    positive = paired_similarity(x, y, tau)
    for _ in range(CLIMBS):
        with torch.enable_grad():
            leaf = noise.detach().requires_grad_()
            loss = softplus(lse(torch.stack([batch, cross_rows(x, leaf, tau)]), 0) - positive).sum()
        (slope,) = torch.autograd.grad(loss, leaf)
        along = slope - torch.linalg.vecdot(slope, noise)[:, None] * noise
        size = torch.linalg.vector_norm(along, dim=1, keepdim=True)
        moved = math.cos(reach) * noise + math.sin(reach) * along / size.clamp(min=torch.finfo(x.dtype).tiny)
        noise = torch.where(size > 0, moved, noise)
    return noise


@register("infonce")
@dataclass(eq=False, kw_only=True)
class InfoNCE(SoftmaxWithNegatives):
    """InfoNCE from the first of two names to the second, over all pairs in order.

    With more `directions` all their similarities stand in one denominator (GTE, arXiv 2308.03281); separate ones are
    `clip`. `noise` rows of noise, drawn anew in each step, are negatives of every anchor, after climbing the loss by
    steps of `climb` radians (DCLR, arXiv 2205.00656). `hardness` times a negative's cosine, as a constant, is added to
    its logit (LLaVE, arXiv 2503.04812); with `rising` so much of it as the share of the steps that are done, after the
    idea of PEG (Wu et al. 2023, arXiv 2311.11691, whose formula is not published).

    Example:
        >>> image, text = torch.eye(4), torch.eye(4)
        >>> loss = InfoNCE(temperature=0.5)
        >>> round(loss({"image": image, "text": text}).item(), 3)
        0.341
        >>> round(loss({"image": image, "text": text.roll(1, 0)}).item(), 3)  # each text beside another's image
        2.341
        >>> wrong = {"wrong": torch.tensor([[1.0, 1, 0, 0]])}  # one row that is a negative of all
        >>> round(loss({"image": image, "text": text}, negatives=wrong).item(), 3)
        0.553
        >>> every = ["first-second", "second-first", "first-first", "second-second"]
        >>> round(InfoNCE(temperature=0.5, directions=every)({"image": image, "text": text}).item(), 3)
        1.288
    """

    family = "softmax"
    paper = "van den Oord et al. 2018, arXiv 1807.03748"
    formula = "mean_i lse_j(x_i.y_j / t) - x_i.y_i / t"
    cost = "time O(B^2 D) per pair of names and direction, memory O(B D)"
    use = "only one direction matters, as when the second input comes from a frozen model; or hard negatives"
    fits = ("pairs",)

    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    directions: Annotated[list[Direction], MinLen(1)] = field(default_factory=lambda: ["first-second"])
    hardness: Annotated[float, Ge(0)] = 0.0
    hardness_of: Literal["all", "others", "own"] = "all"
    rising: bool = False  # hardness grows from 0 with the share of the steps that are done
    noise: Annotated[int, Ge(0)] = 0
    climb: Annotated[float, Ge(0), Le(1)] = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if "first-second" not in self.directions:
            raise ValueError("directions without first-second have no positive: add it")
        self.harder = Harder(self.hardness, self.hardness_of)
        if self.rising and not self.hardness:
            raise ValueError("rising is of hardness: say how much it comes to")
        if self.label_smoothing and self.is_joint:
            raise ValueError("label_smoothing does not go with directions, hardness or noise")

    @property
    def is_joint(self) -> bool:
        """Whether there is more in the denominator than the second input and columns of negatives."""
        return len(set(self.directions)) > 1 or self.hardness > 0 or self.noise > 0

    def forward(
        self,
        z: Embeddings,
        *,
        present: dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
        sample_id: Tensor | None = None,
        repeats: Tensor | None = None,
        negatives: Embeddings | None = None,
        contents: dict[str, Tensor] | None = None,
        weights: Tensor | None = None,
        keys: Embeddings | None = None,
        generator: torch.Generator | None = None,
        progress: float = 1.0,
    ) -> Tensor:
        harder = Harder(self.hardness * progress, self.hardness_of) if self.rising else self.harder
        ids = ids_or_guide(self.exclude, len(next(iter(z.values()))), labels, sample_id, repeats, keys)
        if self.hardness and self.hardness_of == "own" and not negatives:
            raise ValueError("hardness_of: own is of a row's own negatives: name their inputs in negatives")

        def pair(x: Tensor, y: Tensor, ids: Ids | None, more: Negatives | None, rows: Tensor | slice) -> Tensor:
            own = None if weights is None else weights[rows]
            if not self.is_joint:
                return infonce(x, y, self.tau, ids, more, own, self.label_smoothing)
            noise = climbing_noise(x, y, self.tau, self.noise, self.climb, generator) if self.noise else None
            return weighted_mean(joint(x, y, self.tau, ids, more, self.directions, harder, noise), own)

        return self.among(z, present, ids, negatives, contents, pair, self.own_logit)
