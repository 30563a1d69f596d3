"""Distillation of a teacher's scores of a query's own candidates, as columns of the data."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor
from torch.nn import functional

from clx.losses.base import Embeddings, Loss, register, require_two_inputs
from clx.losses.primitives.forms import NEVER
from clx.losses.primitives.functional import unit
from clx.losses.primitives.masks import all_known, mean_where


def margin_mse(s: Tensor, theirs: Tensor, counted: Tensor) -> Tensor:
    """mean_ik ((s_i0 - s_ik) - m_ik)^2, m the teacher's margins: `[]`.

    Args:
        s: `[B, C]`, similarities of a query with its positive, the first, and with its negatives.
        theirs: `[B, C]` the teacher's scores of the same, or `[B, C - 1]` margins; NaN where one is not known.
        counted: `[B, C]`, which candidates there are.

    Reference:
        Hofstaetter et al. 2020, arXiv 2010.02666.
    """
    margins = theirs if theirs.shape[1] < s.shape[1] else theirs[:, :1] - theirs[:, 1:]
    counted = counted[:, :1] & counted[:, 1:] & ~margins.isnan()
    errors = s[:, :1] - s[:, 1:] - torch.where(counted, margins, 0)
    return mean_where(counted, errors.square())


def listed_kl(s: Tensor, theirs: Tensor, counted: Tensor, temperature: float) -> Tensor:
    """t^2 mean_i KL(softmax(theirs_i / t) || softmax(s_i / t)) of scores `[B, C]`, NaN where one is not known: `[]`;
    of the candidates that are `counted` `[B, C]`, in rows of two such or more."""
    counted = counted & ~theirs.isnan()
    given = (torch.where(counted, theirs, 0), torch.where(counted, s, 0))
    teacher, student = ((each / temperature).masked_fill(~counted, NEVER).log_softmax(1) for each in given)
    rows = torch.where(counted, teacher.exp() * (teacher - student), 0).sum(1)
    return mean_where(counted.sum(1) > 1, rows) * temperature**2


@register("distil-scores")
@dataclass(eq=False, kw_only=True)
class DistilScores(Loss):
    """What a teacher, a cross-encoder say, has said of a query's candidates: the first input is the query, the others
    are its candidates, the positive first; `data.target` has the columns of the scores, in that order.

    `margins` (MarginMSE) takes the margins too, a column less. A candidate without its input or score is left out. A
    teacher's scores have no bounds: by default similarities are products of the rows as they are; cosines
    (`normalise`) can only be like scores from -1 to 1.

    Example:
        >>> z = {"query": torch.eye(2), "right": torch.eye(2), "wrong": torch.eye(2).roll(1, 0)}
        >>> DistilScores()(z, targets=torch.tensor([[2.0, 1], [5, 3]])).item()  # margins 1 and 2, and 1 and 1 are had
        0.5
        >>> round(DistilScores(form="softmax")(z, targets=torch.tensor([[2.0, 1], [5, 4]])).item(), 3)
        0.0
    """

    family = "distillation"
    paper = "Hofstaetter et al. 2020, arXiv 2010.02666; softmax as in sentence-transformers"
    formula = (
        "margins: mean_ik ((q_i.p_i - q_i.n_ik) - m_ik)^2; softmax: t^2 mean_i KL(softmax(T_i / t) || softmax(s_i / t))"
    )
    cost = "time and memory O(B C D); C the candidates of a query"
    use = "queries with candidates that a cross-encoder has scored"
    fits = ("scores",)
    sharpness = "1 / list_temperature, of softmax"

    list_temperature: Annotated[float, Gt(0)] = 1.0
    form: Literal["margins", "softmax"] = "margins"
    normalise: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form == "margins" and self.list_temperature != 1:
            raise ValueError("form margins has no temperature: leave list_temperature out")

    def forward(self, z: Embeddings, *, targets: Tensor, present: dict[str, Tensor] | None = None) -> Tensor:
        require_two_inputs(z)
        count, width = len(z) - 1, targets.shape[1]
        if not (width == count >= 2 or (self.form == "margins" and width == count - 1 >= 1)):
            or_margins = f", or {count - 1} of margins" if self.form == "margins" and count > 1 else ""
            raise ValueError(
                f"the {count} inputs behind the query, {', '.join(list(z)[1:])}, take as many columns of scores in "
                f"data.target, two at least{or_margins}; it has {width}"
            )
        if present is None and self.form == "margins" and not self.normalise and all_known(targets):
            query, right, *wrong = z.values()
            first = torch.linalg.vecdot(query, right)
            ours = torch.stack([first - torch.linalg.vecdot(query, each) for each in wrong], 1)
            theirs = targets if width < count else targets[:, :1] - targets[:, 1:]
            return functional.mse_loss(ours, theirs.to(ours.dtype))
        here = {name: x if present is None else torch.where(present[name][:, None], x, 0) for name, x in z.items()}
        query, *candidates = map(unit, here.values()) if self.normalise else here.values()
        s = torch.stack([torch.linalg.vecdot(query, each) for each in candidates], 1)
        counted = torch.ones_like(s, dtype=torch.bool)
        if present is not None:
            has_query, *has = (present[name] for name in z)
            counted = torch.stack([has_query & each for each in has], 1)
        theirs = targets.to(s.dtype)
        return (
            margin_mse(s, theirs, counted)
            if self.form == "margins"
            else listed_kl(s, theirs, counted, self.list_temperature)
        )
