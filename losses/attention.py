"""Two views of a text should be read alike: mutual information of their attention weights."""

import itertools
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from clx.losses.base import Embeddings, Loss, register, zero_loss
from clx.losses.primitives.draws import uniform
from clx.losses.primitives.masks import mean_where

CLOSEST = 1 - 1e-6
"""The squared correlation of weights above which two views are alike: 6.9 nats."""


def attention_information(x: Tensor, y: Tensor, there: Tensor) -> Tensor:
    """Mutual information in nats, `[R]`, of R pairs of vectors, as if their logarithms were jointly normal.

    I = -1/2 log(1 - rho^2), rho the correlation of log x and log y

    Args:
        x, y: `[R, S]`, positive where `there` `[R, S]`; the others do not count.

    Returns:
        From 0 to 6.9, where rho^2 is 1 - 1e-6; above it is constant. 0 for fewer than two different numbers.

    Reference:
        Klein and Nabi 2023, miCSE, arXiv 2211.04928.
    """
    count = there.sum(1, keepdim=True).clamp(min=1)
    a, b = (torch.where(there, torch.where(there, each, 1).log(), 0) for each in (x, y))
    a, b = (torch.where(there, each - each.sum(1, keepdim=True) / count, 0) for each in (a, b))
    spread = a.square().sum(1) * b.square().sum(1)
    flat = spread <= torch.finfo(spread.dtype).tiny
    rho2 = torch.where(flat, 0, (a * b).sum(1).square() / torch.where(flat, 1, spread))
    return -0.5 * torch.log1p(-rho2.clamp(max=CLOSEST))


@register("attention")
@dataclass(eq=False, kw_only=True)
class Attention(Loss):
    """Minus the mutual information of the attention weights of two views of the same tokens, averaged over heads, rows
    and pairs of views.

    Of each head, odd and even layers are taken by themselves, `samples` weights of each that are drawn; all with 0.

    Example:
        >>> weights = torch.rand(2, 9, 2, 1, generator=torch.Generator().manual_seed(0))  # 3 x 3 tokens, 2 layers
        >>> other, there = weights.flip(1), torch.ones(2, 9, dtype=torch.bool)
        >>> z = {"text/0": torch.zeros(2, 4), "text/1": torch.zeros(2, 4)}
        >>> loss = Attention(samples=0)
        >>> round(loss(z, attention={"text/0": (weights, there), "text/1": (weights, there)}).item(), 2)
        -6.9
        >>> loss(z, attention={"text/0": (weights, there), "text/1": (other, there)}).item() > -1
        True
    """

    family = "inner states"
    paper = "miCSE, Klein and Nabi 2023, arXiv 2211.04928"
    formula = "-mean over rows and heads of -1/2 log(1 - rho^2), rho the correlation of log attention of two views"
    cost = "time and memory O(V B T^2 L H) for T tokens, L layers, H heads"
    use = "beside infonce on two views by dropout, where texts are few"
    ours = (
        "the published code counts padding among the tokens and gives views that are equal the constant 100; here only "
        "real tokens count, so that its factor, the squared share of weights above 0, is 1, and equal views 6.9 nats"
    )
    fits = ("one modality",)

    compares_embeddings = False

    first: Annotated[int, Ge(1)] = 1
    last: Annotated[int, Ge(1)] | None = None
    samples: Annotated[int, Ge(0)] = 150

    def layers_of(self, depth: int) -> slice:
        """Which of so many layers it looks at. Raises `ValueError` where there are none."""
        last = depth if self.last is None else self.last
        if not self.first <= last <= depth:
            raise ValueError(f"first: {self.first} and last: {last} name no layers of an encoder that has {depth}")
        return slice(self.first - 1, last)

    def forward(
        self,
        z: Embeddings,
        *,
        attention: dict[str, tuple[Tensor, Tensor]],
        generator: torch.Generator | None = None,
        present: dict[str, Tensor] | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        terms, counts = [], []
        for a, b in itertools.combinations([name for name in z if name in attention], 2):
            (x, here), (y, there) = attention[a], attention[b]
            pairs = min(x.shape[1], y.shape[1])
            real = here[:, :pairs] & there[:, :pairs]
            if present is not None:
                real = real & (present[a] & present[b])[:, None]
            used = self.layers_of(x.shape[2])
            x, y = x[:, :pairs, used], y[:, :pairs, used]
            for odd in range(min(2, x.shape[2])):
                found, known = self.information(x[:, :, odd::2], y[:, :, odd::2], real, generator)
                by_row = None if weights is None else weights[:, None].expand_as(found)
                terms.append(-mean_where(known, found, by_row))
                counts.append(known.any())
        none = zero_loss(z)  # embeddings have a gradient, of 0
        return none + torch.stack(terms).sum() / torch.stack(counts).sum().clamp(min=1) if terms else none

    def information(
        self, x: Tensor, y: Tensor, real: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Of weights `[B, P, L, H]`, the information `[B, H]`, and of which rows and heads it is known."""
        a, b = (each.permute(0, 3, 1, 2).flatten(2) for each in (x, y))  # [B, H, P L]
        counted = ~((a <= 0) | (b <= 0)) & real.repeat_interleave(x.shape[2], 1)[:, None]
        size = a.shape[2]
        if self.samples and self.samples < size:
            draw = uniform((len(a), a.shape[1], size), a, generator).masked_fill(~counted, 2)
            kept = draw.topk(self.samples, largest=False).indices
            a, b, counted = (each.gather(2, kept) for each in (a, b, counted))
        found = attention_information(a.flatten(0, 1), b.flatten(0, 1), counted.flatten(0, 1))
        return found.view(a.shape[:2]), counted.sum(2) > 2
