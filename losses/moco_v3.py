"""MoCo v3: predictions find their keys, by a slowly moving copy of the model, among those of the batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt
from torch import Tensor, nn

from clx.losses.base import Embeddings, Exclude, Tempered, average, register, zero_loss
from clx.losses.directed import in_turn
from clx.losses.infonce import infonce
from clx.losses.judge import asked_for
from clx.losses.pairwise import item_ids
from clx.losses.predictor import Predictor
from clx.losses.primitives.functional import unit


def moco_v3(query: Tensor, key: Tensor, temperature: Tensor | float, ids: Tensor | None = None) -> Tensor:
    """InfoNCE of queries among the keys of the batch, times twice the temperature; `[]`.

    Args:
        query, key: `[B, D]`, unit rows; row i of both is one item.
        ids: rows of equal id are no negatives of each other.

    Reference:
        Chen, Xie and He 2021, arXiv 2104.02057.
    """
    factor = 2 * (temperature.detach() if isinstance(temperature, Tensor) else temperature)
    return factor * infonce(query, key, temperature, ids)


@register("moco-v3")
@dataclass(eq=False, kw_only=True)
class MoCoV3(Tempered):
    """Each name's predictions among the keys of each other name, by a momentum copy (`train.second`), without a queue.

    The predictor is a part of the loss, `hidden` wide, by default 16 times the embeddings, as in the paper. Twice the
    mean over ordered pairs, so that two views give the paper's sum.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> loss = MoCoV3()
        >>> loss.setup(["image/0", "image/1"], 16)
        >>> views = {"image/0": torch.randn(8, 16), "image/1": torch.randn(8, 16)}
        >>> 2 < loss(views, keys=views).item() < 12
        True
    """

    family = "second model"
    paper = "Chen, Xie and He 2021, arXiv 2104.02057"
    formula = "sum over both ways of 2 t mean_i [lse_j(q_i.k_j / t) - q_i.k_i / t], q = h(z), h the predictor"
    cost = "time O(V^2 B^2 D), memory O(V B H); H the hidden width"
    use = "views of one modality, large batches; with train.second.momentum"
    fits = ("one modality", "pairs")

    temperature: Annotated[float, Gt(0)] = 1.0
    hidden: Annotated[int, Ge(1)] | None = None
    exclude: Exclude = "repeats"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.predictor: nn.Module = nn.Identity()

    def requires(self) -> frozenset[str]:
        return super().requires() | asked_for(self.exclude)

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        self.predictor = Predictor(dim, self.hidden or 16 * dim)

    def forward(
        self,
        z: Embeddings,
        *,
        keys: Embeddings,
        present: dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
        sample_id: Tensor | None = None,
        repeats: Tensor | None = None,
    ) -> Tensor:
        ids = item_ids(self.exclude, len(next(iter(z.values()))), labels, sample_id, repeats)
        there, ways = in_turn(z, present, fewest=2)
        if not ways:
            return zero_loss(z)
        told = {name: unit(self.predictor(x[there[name]])) for name, x in z.items()}
        return 2 * average(
            [
                moco_v3(
                    told[way.start][way.of_start],
                    unit(keys[way.end][way.rows].detach()),
                    self.tau,
                    None if ids is None else ids[way.rows],
                )
                for way in ways
            ]
        )
