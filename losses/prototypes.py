"""SwAV and DINO: one view tells which of the learned prototypes another view belongs to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn

from clx.losses.base import Embeddings, Tempered, average, register, zero_loss
from clx.losses.directed import Rows, in_turn
from clx.losses.primitives.functional import unit


@torch.no_grad()
def balanced(scores: Tensor, epsilon: float, rounds: int = 3) -> Tensor:
    """Codes `[B, K]` that sum to 1 for each row and use all prototypes about alike: Sinkhorn's algorithm in logarithms.

    Args:
        scores: `[B, K]` similarities of rows and prototypes.
        epsilon: the smaller, the nearer to one prototype a row.
        rounds: of prototypes and then rows.

    Reference:
        Caron et al. 2020, arXiv 2006.09882, equation 5. Their code takes exp(scores / epsilon) as it is, which leaves
        the range of float32 where a score is 88 epsilon.
    """
    logits = scores / epsilon
    if logits.is_cpu and logits.numel() and float(logits.abs().amax()) < 30:  # no exponential leaves the range
        codes = logits.exp()
        for _ in range(rounds):
            codes = codes / codes.sum(0)
            codes = codes / codes.sum(1, keepdim=True)
        return codes
    for _ in range(rounds):
        logits = logits - logits.logsumexp(0)
        logits = logits - logits.logsumexp(1, keepdim=True)
    return logits.exp()


def cross_entropy(codes: Tensor, scores: Tensor, temperature: Tensor | float) -> Tensor:
    """Of each row's softmax over prototypes with its code, both `[B, K]`: the mean over rows, `[]`."""
    return -(codes * (scores / temperature).log_softmax(1)).sum(1).mean()


@dataclass(eq=False, kw_only=True)
class WithPrototypes(Tempered):
    """Prototypes `[K, D]`, unit rows wherever they are used, which the loss learns."""

    family = "self-distillation"
    cost = "time O(V B K (V + D)), memory O(V B K); K prototypes"

    temperature: Annotated[float, Gt(0)] = 0.1
    prototypes: Annotated[int, Ge(2)] = 3000
    directions: nn.Parameter = field(init=False, repr=False)  # [K, D]

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        self.directions = nn.Parameter(torch.randn(self.prototypes, dim) / math.sqrt(dim))

    def scores(self, rows: Sequence[Tensor], directions: Tensor) -> list[Tensor]:
        """Cosines `[B, K]` of each of some `[B, W]` with prototypes `[K, D]`, of which the first W columns count."""
        width = rows[0].shape[1]
        columns = unit(directions if width == directions.shape[1] else directions[:, :width]).T
        return [unit(each) @ columns for each in rows]

    def of_names(self, z: Embeddings, there: dict[str, Rows], directions: Tensor) -> dict[str, Tensor]:
        """`scores` of the rows that are there, by name."""
        return dict(zip(z, self.scores([x[there[name]] for name, x in z.items()], directions), strict=True))


@register("swav")
@dataclass(eq=False, kw_only=True)
class SwAV(WithPrototypes):
    """Each view tells the code of each other view, where codes are shared out over prototypes evenly.

    The paper holds its prototypes still in the first steps, and for small batches has a queue from its 15th epoch on:
    neither is here. With fewer rows than prototypes codes cannot use all of these: take `prototypes` below the batch.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> loss = SwAV(prototypes=4)
        >>> loss.setup(["image/0", "image/1"], 16)
        >>> views = {"image/0": torch.randn(8, 16), "image/1": torch.randn(8, 16)}
        >>> 0 < loss(views).item() < 12
        True
    """

    paper = "Caron et al. 2020, arXiv 2006.09882"
    formula = "mean over a != b of -mean_i sum_k q_b,ik log softmax_k(u_a,i.c_k / t), q by Sinkhorn over the batch"
    use = "views of one modality whose rows fall into groups; no second model"
    fits = ("one modality",)
    sharpness = "1 / temperature, and 1 / epsilon of the codes"

    epsilon: Annotated[float, Gt(0)] = 0.05
    rounds: Annotated[int, Ge(1)] = 3

    def forward(self, z: Embeddings, *, present: dict[str, Tensor] | None = None) -> Tensor:
        there, ways = in_turn(z, present)
        if not ways:
            return zero_loss(z)
        scores = self.of_names(z, there, self.directions)
        codes = {name: balanced(each.detach(), self.epsilon, self.rounds) for name, each in scores.items()}
        place = {(way.start, way.end): way.of_start for way in ways}
        return average([cross_entropy(codes[b][place[b, a]], scores[a][place[a, b]], self.tau) for a, b in place])


@register("dino")
@dataclass(eq=False, kw_only=True)
class DINO(WithPrototypes):
    """Each view tells the prototypes of another view's key, by a momentum copy (`train.second`), centred and sharpened.

    The copy's softmax is of scores less their running mean, `center_momentum` a step, which keeps it from one prototype
    for all, with a lower temperature, which keeps it from all alike. The prototypes, in the paper the last layer of the
    head, belong to the loss; the copy's follow by `prototype_momentum`. The paper has 65,536 of them, raises the copy's
    temperature to 0.07 in the first epochs, and also shows small crops to the student alone: these are not here.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> loss = DINO(prototypes=4)
        >>> loss.setup(["image/0", "image/1"], 16)
        >>> views = {"image/0": torch.randn(8, 16), "image/1": torch.randn(8, 16)}
        >>> 0 < loss(views, keys=views).item() < 12
        True
        >>> loss.center.shape  # what is taken off the scores of the next batch
        torch.Size([4])
    """

    paper = "Caron et al. 2021, arXiv 2104.14294"
    formula = "mean over a != b of -mean_i sum_k softmax_k((k_b,i.d_k - m_k) / t') log softmax_k(u_a,i.c_k / t)"
    use = "views of one modality, as byol; with train.second: {momentum: 0.996, schedule: cosine}"
    fits = ("one modality",)
    sharpness = "1 / temperature, and 1 / teacher_temperature of the copy"
    ours = "the momentum of the copy's prototypes is a setting of its own"

    prototypes: Annotated[int, Ge(2)] = 4096
    teacher_temperature: Annotated[float, Gt(0)] = 0.04
    center_momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    prototype_momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.996
    center: Tensor = field(init=False, repr=False)  # [K]
    slow: Tensor = field(init=False, repr=False)  # [K, D], the copy's prototypes

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        super().setup(names, dim, classes, rows)
        self.register_buffer("center", torch.zeros(self.prototypes))
        self.register_buffer("slow", self.directions.detach().clone())

    def forward(self, z: Embeddings, *, keys: Embeddings, present: dict[str, Tensor] | None = None) -> Tensor:
        there, ways = in_turn(z, present)
        if not ways:
            return zero_loss(z)
        learns = self.training and self.remembers
        with torch.no_grad():
            if learns:  # before the keys, as the copy's weights have moved
                self.slow.lerp_(self.directions.to(self.slow), 1 - self.prototype_momentum)
            told = self.of_names({name: keys[name] for name in z}, there, self.slow)
            codes = {name: ((each - self.center) / self.teacher_temperature).softmax(1) for name, each in told.items()}
            if learns:
                mean = torch.cat(list(told.values())).mean(0)
                self.center.lerp_(mean.to(self.center), 1 - self.center_momentum)
        scores = self.of_names(z, there, self.directions)
        place = {(way.start, way.end): way.of_start for way in ways}
        return average([cross_entropy(codes[b][place[b, a]], scores[a][place[a, b]], self.tau) for a, b in place])
