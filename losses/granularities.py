"""MGLL's agreement of granularities: what an input says of texts of one kind, and of another, should be alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from clx.losses.base import Embeddings, Tempered, register, zero_loss
from clx.losses.primitives.blocks import by_blocks
from clx.losses.primitives.functional import units
from clx.losses.primitives.masks import chosen


def disagreement(logs: Tensor) -> Tensor:
    """mean_g sum_ij M_ij log(M_ij / P_gij), M the mean of P over g, of logarithms log P `[b, G, M]`: sum over rows."""
    mean = logs.logsumexp(1) - math.log(logs.shape[1])
    return torch.dot(mean.exp().flatten(), (mean - logs.mean(1)).flatten())


@register("granularities")
@dataclass(eq=False, kw_only=True)
class Granularities(Tempered):
    """The first input's choice among the rows of each other one: all these choices like their mean.

    A term beside one `clip` or `relation` for each text, which say what is right: keywords and a description of an
    image, say. Rows that lack an input are left out.

    Example:
        >>> image = torch.eye(3)
        >>> loss = Granularities(temperature=0.5)
        >>> same = {"image": image, "keywords": image, "description": image}
        >>> abs(round(loss(same).item(), 6))
        0.0
        >>> loss(same | {"keywords": image.roll(1, 0)}).item() > 0.1
        True
    """

    family = "distillation"
    paper = "MGLL, arXiv 2511.15943"
    formula = "mean_g,i sum_j M_ij log(M_ij / P_gij), P_g = softmax_j(x_i.y_gj / t), M the mean of P_g over g"
    cost = "time O(V B^2 D), memory O(V B D)"
    use = "beside clip: one input with texts of several granularities; weight 0.5 (the paper)"
    fits = ("several modalities",)
    ours = "of softmaxes of cosines: the published code takes logarithms of logits, negative ones too, and is NaN"

    temperature: Annotated[float, Gt(0)] = 0.07

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        if len(names) < 3:
            raise ValueError(f"it takes an input and two others or more that it chooses among, got {', '.join(names)}")

    def forward(self, z: Embeddings, *, present: dict[str, Tensor] | None = None) -> Tensor:
        names = list(z)
        rows: Tensor | slice = slice(None)
        if present is not None:
            some = torch.stack([present[n].any() for n in names]).tolist()
            names = [n for n, there in zip(names, some, strict=True) if there]
            if len(names) < 3:
                return zero_loss(z)
            (rows,) = chosen([torch.stack([present[n] for n in names]).all(0)])
        first, *others = units({n: z[n] if present is None else z[n][rows] for n in names}).values()
        if len(others) < 2 or len(first) < 2:
            return zero_loss(z)
        count, tau = len(others), self.tau
        t = tau if isinstance(tau, Tensor) else first.new_full((), tau)

        def terms(s: Tensor, rows: slice, t: Tensor) -> tuple[Tensor]:
            return (disagreement((s.unflatten(1, (count, -1)) / t).log_softmax(2)),)

        return by_blocks(terms, first, torch.cat(others), t)[0] / len(first)
