"""AMCL: several heads, and a temperature of its own for every pair of rows, that a small network tells."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from clx.losses.base import Embeddings, Loss, average, register, require_two_inputs, zero_loss
from clx.losses.primitives.blocks import by_blocks, of_block
from clx.losses.primitives.functional import unit
from clx.losses.primitives.masks import chosen


def adaptive(z: Tensor, phi: Tensor, low: float, high: float, nearest: int, beta: float) -> Tensor:
    """AMCL of one head, the mean over the 2B rows of [x; y]:

    -s+ / t+ + 1/k sum_n s_n / t_n + beta (D/2 log t+ + 1 / t+) - beta sum_n (log t_n + 1 / t_n),
    n the k nearest rows of other items, t = low + (high - low) sigmoid(-phi(a).phi(b))

    Args:
        z: `[2B, D]`, unit rows [x; y], B >= 2; row i of both is one item.
        phi: of them, `[2B, E]`.

    Reference:
        Wang et al. 2024, arXiv 2310.05615, equations 2.1 to 2.3.
    """
    size = len(z) // 2
    items = torch.arange(size, device=z.device).repeat(2)

    def temperature(product: Tensor) -> Tensor:
        return low + (high - low) * torch.sigmoid(-product)

    def terms(s: Tensor, rows: slice, phi: Tensor) -> tuple[Tensor]:
        hidden = s.masked_fill(items[rows, None] == items, -math.inf)
        near, place = hidden.topk(min(nearest, 2 * size - 2), 1)
        t = temperature((of_block(phi, rows) @ phi.T).gather(1, place))
        return ((near / t).mean(1).sum() - beta * (t.log() + 1 / t).sum(),)

    own, t = torch.linalg.vecdot(*z.chunk(2)), temperature(torch.linalg.vecdot(*phi.chunk(2)))
    positive: Tensor = -own / t + beta * (z.shape[1] / 2 * t.log() + 1 / t)
    return positive.mean() + by_blocks(terms, z, z, phi, copies=2)[0] / (2 * size)


@register("amcl")
@dataclass(eq=False, kw_only=True)
class AMCL(Loss):
    """Adaptive multi-head contrast over all pairs of names; the heads are summed.

    The heads and the network of the temperatures are the loss's own, and left out of what is exported.

    Example:
        >>> torch.manual_seed(0) and None
        >>> loss, x = AMCL(heads=1), torch.eye(4)
        >>> loss.setup(["image/0", "image/1"], 4)
        >>> right = loss({"image/0": x, "image/1": x})
        >>> wrong = loss({"image/0": x, "image/1": x.roll(1, 0)})
        >>> right.item() < wrong.item()
        True
    """

    family = "softmax"
    paper = "Wang et al. 2024, arXiv 2310.05615"
    formula = "sum over heads of mean -s+/t+ + mean_n s_n/t_n + beta (D/2 log t+ + 1/t+) - beta sum_n (log t_n + 1/t_n)"
    cost = "time O(heads B^2 D) per pair of names, memory O(heads B D)"
    use = (
        "views under many kinds of augmentation, whose likeness differs; watch that the loss does not run to -infinity"
    )
    fits = ("one modality",)
    sharpness = "1 / the pair's temperature, between min_temperature and max_temperature"
    ours = "from the text of the authors' code of 2.0, never run; its release of 2024 has no negatives"

    heads: Annotated[int, Ge(1)] = 3
    nearest: Annotated[int, Ge(1)] = 100
    beta: Annotated[float, Ge(0)] = 1e-4
    min_temperature: Annotated[float, Gt(0)] = 1e-5
    max_temperature: Annotated[float, Gt(0)] = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_temperature > self.max_temperature:
            raise ValueError(f"min_temperature {self.min_temperature} is above max_temperature {self.max_temperature}")

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        def network() -> nn.ModuleList:
            return nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim)])

        self.projections = nn.ModuleList([network() for _ in range(self.heads)])
        self.phi = network()

    def through(self, network: nn.ModuleList, x: Tensor) -> Tensor:
        """Two layers; with fewer columns by the first so many of theirs, as `dims` cuts any row."""
        w = x.shape[1]

        def cut(layer: nn.Linear) -> tuple[Tensor, Tensor]:
            if layer.in_features == w:
                return layer.weight.to(x), layer.bias.to(x)
            return layer.weight[:w, :w].to(x), layer.bias[:w].to(x)

        first, second = map(cut, network)  # type: ignore[arg-type]
        return functional.linear(functional.linear(x, *first).relu(), *second)

    def forward(self, z: Embeddings, *, present: dict[str, Tensor] | None = None) -> Tensor:
        require_two_inputs(z)
        if not hasattr(self, "phi"):
            raise ValueError("amcl has heads: call setup(names, dim) once before training")
        pairs = list(itertools.combinations(z, 2))
        rows: Sequence[Tensor | slice] = [slice(None)] * len(pairs)
        if present is not None:
            rows = chosen([present[a] & present[b] for a, b in pairs])
        terms = []
        for (a, b), both in zip(pairs, rows, strict=True):
            x, total = torch.cat([z[a][both], z[b][both]]), []
            if len(x) > 2:
                for head in self.projections:
                    u = unit(self.through(head, x))  # type: ignore[arg-type]
                    limits = self.min_temperature, self.max_temperature
                    total.append(adaptive(u, self.through(self.phi, u), *limits, self.nearest, self.beta))
                terms.append(torch.stack(total).sum())
        if len(terms) < len(pairs):
            self.log["skipped_pairs"] = len(pairs) - len(terms)
        return average(terms) if terms else zero_loss(z)
