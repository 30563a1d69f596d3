"""Two-view losses on several views: each view against the mean of the others, or all pairs of views."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt
from torch import Tensor

from clx.losses.base import average, register
from clx.losses.infonce import nt_xent
from clx.losses.multiview import MultiView, mv_dhel, with_mean_of_others
from clx.losses.pairwise import Ids, Pairwise


def average_view(
    views: Sequence[Tensor],
    temperature: Tensor | float,
    two_view: Literal["nt-xent", "mv-dhel"] = "nt-xent",
    renormalise: bool = False,
    present: Tensor | None = None,
) -> Tensor:
    """Mean over views a of a two-view loss between u_a and the mean of the item's other views.

    Args:
        two_view: the two-view loss.
        renormalise: scale the mean to length 1; without it, the mean of views that disagree is shorter and counts less.

    Returns:
        Scalar in nats; 0 for a batch of one.
    """
    terms = []
    for x, other in with_mean_of_others(views, present, renormalise):
        if len(x) > 1:
            terms.append(nt_xent(x, other, temperature) if two_view == "nt-xent" else mv_dhel([x, other], temperature))
    return average(terms) if terms else views[0][:0].sum()


@register("average-view")
@dataclass(eq=False, kw_only=True)
class AverageView(MultiView):
    """Each view against the mean of the others, by a two-view loss.

    Example:
        >>> import torch
        >>> views = {name: torch.eye(4) for name in ("image/0", "image/1", "image/2")}
        >>> round(AverageView(two_view="nt-xent")(views).item(), 3)  # views agree, so their mean is each of them
        0.594
    """

    paper = "a baseline in Koromilas et al. 2025, arXiv 2507.06979"
    formula = "mean_a loss(u_a, mean_{b != a} u_b)"
    cost = "time O(V B^2 D), memory O(B D)"
    use = "a cheap baseline for three views or more"
    fits = ("one modality",)

    two_view: Literal["nt-xent", "mv-dhel"] = "nt-xent"
    renormalise: bool = False

    def of_views(self, views: list[Tensor], present: Tensor | None) -> Tensor:
        return average_view(views, self.tau, self.two_view, self.renormalise, present)


@register("pairwise")
@dataclass(eq=False, kw_only=True)
class PairwiseViews(Pairwise):
    """A two-view loss averaged over all pairs of names.

    Example:
        >>> import torch
        >>> views = {name: torch.eye(4) for name in ("image/0", "image/1", "image/2")}
        >>> round(PairwiseViews(two_view="nt-xent")(views).item(), 3)
        0.594
    """

    family = "multi-view"
    paper = "the usual baseline; see Koromilas et al. 2025, arXiv 2507.06979"
    formula = "mean_{a < b} loss(u_a, u_b)"
    cost = "time O(V^2 B^2 D), memory O(B D)"
    use = "the baseline that losses over all views at once are compared with"
    fits = ("one modality",)

    temperature: Annotated[float, Gt(0)] = 0.5
    two_view: Literal["nt-xent", "mv-dhel"] = "nt-xent"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.two_view != "nt-xent" and self.exclude == "repeats":  # the default, which only the other knows
            self.exclude = "none"

    def pair(self, x: Tensor, y: Tensor, ids: Ids | None) -> Tensor:
        if self.two_view == "nt-xent":
            return nt_xent(x, y, self.tau, ids)
        if ids is not None:
            raise ValueError("exclude works with two_view='nt-xent' only")
        return mv_dhel([x, y], self.tau)
