"""SimSiam and BYOL: a predictor tells one view's target from another view, and there are no negatives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, nn

from clx.losses.base import Embeddings, Loss, average, register, zero_loss
from clx.losses.directed import in_turn
from clx.losses.predictor import Predictor
from clx.losses.primitives.functional import unit


@dataclass(eq=False, kw_only=True)
class Predicted(Loss):
    """The cosine of predictions with the targets of other names, which are constants; the mean over ordered pairs."""

    family = "self-distillation"
    cost = "time O(V^2 B D + V B D H), memory O(V B H); H the hidden width"

    times: ClassVar[float]
    """Hidden width of the predictor over that of the embeddings, when it is not given."""

    hidden: Annotated[int, Ge(1)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.predictor: nn.Module = nn.Identity()

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        self.predictor = Predictor(dim, self.hidden or max(1, round(dim * self.times)))

    def cosine(self, z: Embeddings, targets: Embeddings, present: dict[str, Tensor] | None) -> Tensor | None:
        """The mean `[]`; None where no two names have an item in common."""
        there, ways = in_turn(z, present)
        if not ways:
            return None
        told = {name: unit(self.predictor(x[there[name]])) for name, x in z.items()}
        return average(
            [
                torch.linalg.vecdot(told[way.start][way.of_start], unit(targets[way.end][way.rows].detach())).mean()
                for way in ways
            ]
        )


@register("simsiam")
@dataclass(eq=False, kw_only=True)
class SimSiam(Predicted):
    """Each view's prediction against another view's own embedding, without its gradient; no second model.

    The predictor is a part of the loss, `hidden` wide, by default a quarter of the embeddings, which in the paper have
    2,048 columns. Without negatives all embeddings could become one: the predictor and the missing gradient prevent
    that, and small learning rates of it do not. Give the towers `head: mlp`: batch norms before the embedding are a
    part of the method.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> loss = SimSiam()
        >>> loss.setup(["image/0", "image/1"], 16)
        >>> views = {"image/0": torch.randn(8, 16), "image/1": torch.randn(8, 16)}
        >>> -1 < loss(views).item() < 1  # -1 where every prediction is right
        True
    """

    paper = "Chen and He 2021, arXiv 2011.10566"
    formula = "-mean over a != b of mean_i cos(h(z_a,i), sg z_b,i), h the predictor"
    use = "views of one modality, small batches, no second model; watch the rank of the embeddings"
    fits = ("one modality",)
    times = 0.25

    def forward(self, z: Embeddings, *, present: dict[str, Tensor] | None = None) -> Tensor:
        found = self.cosine(z, z, present)
        return zero_loss(z) if found is None else -found


@register("byol")
@dataclass(eq=False, kw_only=True)
class BYOL(Predicted):
    """Each view's prediction against another view's key, by a momentum copy (`train.second`).

    The predictor is a part of the loss, `hidden` wide, by default 16 times the embeddings, as in the paper. Give the
    towers `head: mlp`, and `train.second: {momentum: 0.99, schedule: cosine}`, .996 for long trainings.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> loss = BYOL()
        >>> loss.setup(["image/0", "image/1"], 16)
        >>> views = {"image/0": torch.randn(8, 16), "image/1": torch.randn(8, 16)}
        >>> 0 < loss(views, keys=views).item() < 8
        True
    """

    paper = "Grill et al. 2020, arXiv 2006.07733"
    formula = (
        "4 - 4 mean over a != b of mean_i cos(h(z_a,i), k_b,i): of two views |n(p1) - n(k2)|^2 + |n(p2) - n(k1)|^2"
    )
    use = "views of one modality, no negatives; with train.second.momentum"
    fits = ("one modality",)
    times = 16.0

    def forward(self, z: Embeddings, *, keys: Embeddings, present: dict[str, Tensor] | None = None) -> Tensor:
        found = self.cosine(z, keys, present)
        return zero_loss(z) if found is None else 4 - 4 * found
