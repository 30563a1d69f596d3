"""Distillation: embeddings learn what a finished model (`train.second`) says of the same rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from clx.losses.base import Embeddings, Tempered, average, register, zero_loss
from clx.losses.primitives.blocks import similarities
from clx.losses.primitives.functional import unit
from clx.losses.primitives.masks import chosen
from clx.losses.unused import refuse_unused

BLOCK = 1 << 20
"""Similarities that are held at a time."""
ALMOST_NEVER = -1e6
"""A logit whose exponential is 0 and which times 0 is 0."""

RowLoss = Callable[[Tensor, Tensor], Tensor]
"""The sum `[]` over some anchors, of similarities by the student and by the teacher, `[N, B]`."""


def like_the_teacher(
    x: Tensor, y: Tensor, of_x: Tensor, of_y: Tensor, temperature: Tensor | float, theirs: float | Tensor
) -> Tensor:
    """Cross-entropy of each row's softmax among the rows of another input with the teacher's, from x to y: `[]`.

    -mean_i sum_j softmax_j(s_i.r_j / t') log softmax_j(x_i.y_j / t), s and r the teacher's rows; j is not i where x and
    y are the same tensor

    Args:
        x, y: `[B, D]`, unit rows of two inputs by the student; `of_x`, `of_y` `[B, E]` by the teacher.
        temperature, theirs: of the student and of the teacher.

    Reference:
        Hinton et al. 2015, arXiv 1503.02531; over similarities as in open_clip's distillation.
    """

    numbers = torch.arange(len(x), device=x.device)

    def rows(ours: Tensor, teacher: Tensor, anchors: Tensor) -> Tensor:
        ours, teacher = ours / temperature, teacher / theirs
        if x is y:
            own = anchors[:, None] == numbers
            ours, teacher = ours.masked_fill(own, ALMOST_NEVER), teacher.masked_fill(own, ALMOST_NEVER)
        return -(teacher.softmax(1) * ours.log_softmax(1)).sum()

    return over_rows(rows, x, y, of_x, of_y, numbers) / len(x)


def like_margins(x: Tensor, y: Tensor, of_x: Tensor, of_y: Tensor) -> Tensor:
    """Squared difference of margins, the similarity with the own partner less that with another row's, between student
    and teacher: the mean over all pairs of two items, from x to y, `[]`.

    Reference:
        Hofstaetter et al. 2020, arXiv 2010.02666, with the other rows of the batch as the negatives.
    """
    own, theirs = torch.linalg.vecdot(x, y), torch.linalg.vecdot(of_x, of_y)
    own, theirs = own[:, None], theirs[:, None]
    total = over_rows(lambda s, t, a, b: ((a - s) - (b - t)).square().sum(), x, y, of_x, of_y, own, theirs)
    return total / max(1, len(x) * (len(x) - 1))  # a row's margin to itself is 0


def over_rows(of: Callable[..., Tensor], x: Tensor, y: Tensor, of_x: Tensor, of_y: Tensor, *more: Tensor) -> Tensor:
    """The sum over blocks of rows of a function of their similarities; none of a block is kept for backward."""
    size = max(1, BLOCK // max(1, len(y)))
    if len(x) <= size:
        return of(x @ y.T, of_x @ of_y.T, *more)

    def block(x: Tensor, y: Tensor, of_x: Tensor, *more: Tensor) -> Tensor:
        return of(x @ y.T, of_x @ of_y.T, *more)

    parts = zip(*(each.split(size) for each in (x, of_x, *more)), strict=True)
    sums = [checkpoint(block, part, y, *others, use_reentrant=False) for part, *others in parts]
    return torch.stack(sums).sum()


@register("distil")
@dataclass(eq=False, kw_only=True)
class Distil(Tempered):
    """Student like teacher, by `form`:

    - `similarities`: of each row with the rows of another input, as a softmax, both ways, over all pairs of inputs; of
      one input alone with the rows of that. The widths of the two models may differ. The teacher's softmax is that of
      `teacher_temperature`, the student's own where it is not given: 0.01 is that of most CLIP models.
    - `features`: the embeddings themselves, by 1 - cosine. `embed_dim` must be the teacher's width.
    - `margins`: by how much a row is nearer to its partner than to the other rows.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> student = {"image": torch.randn(4, 8), "text": torch.randn(4, 8)}
        >>> teacher = {name: torch.randn(4, 16) for name in student}
        >>> Distil()(student, keys=teacher).item() > Distil()(student, keys=student).item() > 0
        True
        >>> Distil(form="features")(student, keys=student).item() < 1e-6
        True
    """

    family = "distillation"
    paper = "similarities as in open_clip, after Hinton et al. 2015, arXiv 1503.02531; margins arXiv 2010.02666"
    formula = "similarities: -mean_i sum_j softmax_j(s_i.r_j / t') log softmax_j(x_i.y_j / t), both ways"
    cost = "time O(B^2 (D + E)) per pair of names, memory O(B (D + E)); features O(B D)"
    use = "a small model that is to do what a large one does; with train.second.run or .model, beside clip or alone"
    fits = ("pairs", "one modality", "several modalities")
    sharpness = "1 / temperature, and 1 / teacher_temperature of the teacher; of similarities alone"
    ours = "margins are to the other rows of the batch, where the paper has a list of negatives"

    form: Literal["similarities", "features", "margins"] = "similarities"
    teacher_temperature: Annotated[float, Gt(0)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("learn_temperature", "teacher_temperature")
        refuse_unused(self, f"form: {self.form}", dict.fromkeys(names, self.form == "similarities"))

    def forward(self, z: Embeddings, *, keys: Embeddings, present: dict[str, Tensor] | None = None) -> Tensor:
        names = list(z)
        pairs = [(a, b) for k, a in enumerate(names) for b in names[k + 1 :]]
        if self.form == "features" or len(names) == 1:
            pairs = [(name, name) for name in names]
        rows: list[Tensor | slice] = [slice(None)] * len(pairs)
        if present is not None:
            rows = list(chosen([present[a] & present[b] for a, b in pairs]))
        terms = []
        for (a, b), both in zip(pairs, rows, strict=True):
            x, of_x = unit(z[a][both]), unit(keys[a][both].detach())
            y, of_y = (x, of_x) if a == b else (unit(z[b][both]), unit(keys[b][both].detach()))
            if len(x) > (self.form != "features"):
                terms.append(self.pair(x, y, of_x, of_y))
        return average(terms) if terms else zero_loss(z)

    def pair(self, x: Tensor, y: Tensor, of_x: Tensor, of_y: Tensor) -> Tensor:
        """The loss of unit rows of two inputs, or of one, by student and teacher."""
        if self.form == "features":
            if x.shape != of_x.shape:
                raise ValueError(
                    f"form features compares the embeddings themselves, of width {x.shape[1]}, with the second model's "
                    f"of {of_x.shape[1]}: set embed_dim to that, or take form similarities or margins"
                )
            near: Tensor = torch.linalg.vecdot(x, of_x)
            return (1 - near).mean()
        if self.form == "margins":
            return (like_margins(x, y, of_x, of_y) + like_margins(y, x, of_y, of_x)) / 2
        tau = self.tau
        theirs = self.teacher_temperature or (tau.detach() if isinstance(tau, Tensor) else tau)
        if x is not y and len(x) ** 2 <= BLOCK:  # all similarities once, for both ways
            ours, teacher = similarities(x, y) / tau, of_x @ of_y.T / theirs
            both = [(teacher.softmax(d) * ours.log_softmax(d)).sum() for d in (1, 0)]
            return -(both[0] + both[1]) / (2 * len(x))
        there = like_the_teacher(x, y, of_x, of_y, tau, theirs)
        return there if x is y else (there + like_the_teacher(y, x, of_y, of_x, tau, theirs)) / 2
