"""An embedding is drawn to the layers of a model that stays as it is: self-guided contrast of sentence encoders."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from clx.losses.base import Embeddings, Tempered, register, zero_loss
from clx.losses.primitives.draws import uniform
from clx.losses.primitives.edits import DifferentIds, off_diagonal
from clx.losses.primitives.functional import paired_similarity, softplus, unit, weighted_mean
from clx.losses.primitives.masks import chosen
from clx.losses.primitives.streaming import cross_rows


def self_guided(x: Tensor, layers: Tensor, temperature: Tensor | float, embeddings: bool = False) -> Tensor:
    """Each row finds its own at every layer, among the layers of other rows: terms `[B]` in nats.

    mean_l -log( e^(x_i.h_il / t) / (e^(x_i.h_il / t) + sum_{j != i} sum_m e^(x_i.h_jm / t)) )

    Args:
        x: `[B, D]`, unit rows.
        layers: `[B, L, D]`, unit rows h, L of each item.
        temperature: positive.
        embeddings: whether the other rows of `x` are negatives as well.

    Reference:
        Kim, Yoo and Lee 2021, arXiv 2106.07345, SG-OPT (equation 6); with one layer and `embeddings` its Opt1, without
        Opt2.
    """
    size, depth, width = layers.shape
    ids = torch.arange(size, device=x.device)
    others = cross_rows(x, layers.reshape(-1, width), temperature, DifferentIds(ids, ids.repeat_interleave(depth)))
    if embeddings:
        others = torch.logaddexp(others, cross_rows(x, x, temperature, off_diagonal))
    positive = paired_similarity(x[:, None].expand_as(layers), layers, temperature)
    return softplus(others[:, None] - positive).mean(1)


@register("self-guided")
@dataclass(eq=False, kw_only=True)
class SelfGuided(Tempered):
    """Contrast of each embedding with the hidden states of a second model that stays as it is, such as the pretrained
    one that the run began with; averaged over all names. Both go through one head of the loss.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> loss = SelfGuided(hidden=8, temperature=0.5)
        >>> loss.setup(["text"], 4)
        >>> z = torch.eye(4)
        >>> same, other = z[:, None].expand(4, 3, 4), z.roll(1, 0)[:, None].expand(4, 3, 4)  # three layers
        >>> bool(loss({"text": z}, key_layers={"text": same}) < loss({"text": z}, key_layers={"text": other}))
        True
    """

    family = "inner states"
    paper = "Kim, Yoo and Lee 2021, arXiv 2106.07345"
    formula = "mean_i mean_l -log( e^(c_i.h_il / t) / (e^(c_i.h_il / t) + sum_{j != i} sum_m e^(c_i.h_jm / t)) )"
    cost = "time O(V B (B L D + L hidden^2)), memory O(V B L hidden), and a pass of the second model"
    use = "a pretrained text encoder, no views needed; short training at a low rate, as its layers are what it learns"
    ours = (
        "the published head is 4096 wide (`hidden`), and the published loss adds .1 times the squared distance of the "
        "weights from those at the start, which this has not; `guide: self` is ours"
    )
    fits = ("one modality",)

    host_reads = 2

    temperature: Annotated[float, Gt(0)] = 0.01
    guide: Literal["second", "self"] = "second"
    layers: Literal["all", "random"] = "all"
    negatives_of: Literal["layers", "both"] = "layers"
    hidden: Annotated[int, Ge(1)] = 4096

    def requires(self) -> frozenset[str]:
        return super().requires() | {"key_layers" if self.guide == "second" else "layers"}

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        super().setup(names, dim, classes, rows)
        self.dim = dim
        self.head = nn.Sequential(
            nn.Linear(dim, self.hidden), nn.GELU(), nn.Linear(self.hidden, self.hidden), nn.GELU()
        )

    def projected(self, rows: Tensor) -> Tensor:
        """Unit rows `[..., hidden]` of rows `[..., D]`, of fewer columns where `dims` cut them."""
        made: Tensor = self.head(nn.functional.pad(rows, (0, self.dim - rows.shape[-1])))
        return unit(made.flatten(0, -2)).view_as(made)

    def forward(
        self,
        z: Embeddings,
        *,
        key_layers: Embeddings | None = None,
        layers: Embeddings | None = None,
        generator: torch.Generator | None = None,
        present: dict[str, Tensor] | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        guides = key_layers if self.guide == "second" else layers
        if guides is None:
            raise ValueError(f"guide: {self.guide} needs {'key_layers' if self.guide == 'second' else 'layers'}")
        terms = []
        for name in (name for name in z if name in guides):
            guide = guides[name]
            if self.layers == "random":
                draw = uniform((len(guide), 1), guide, generator)
                number = (draw * guide.shape[1]).long()[..., None].expand(-1, -1, guide.shape[2])
                guide = guide.gather(1, number)
            rows: Tensor | slice = slice(None) if present is None else chosen([present[name]])[0]
            if len(x := z[name][rows]):
                each = self_guided(
                    self.projected(x), self.projected(guide[rows].detach()), self.tau, self.negatives_of == "both"
                )
                terms.append(weighted_mean(each, None if weights is None else weights[rows]))
        return torch.stack(terms).mean() if terms else zero_loss(z)
