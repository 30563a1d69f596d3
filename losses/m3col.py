"""M3CoL: rows of one modality are mixed and look for both of their partners in the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from clx.losses.base import Embeddings, Tempered, register, require_two_inputs, zero_loss
from clx.losses.primitives.blocks import similarities
from clx.losses.primitives.draws import beta, permutation, uniform
from clx.losses.primitives.functional import paired_similarity, unit
from clx.losses.primitives.masks import chosen
from clx.losses.primitives.streaming import cross
from clx.losses.primitives.tiles import is_small


def mixed_contrast(
    mixed: Tensor, other: Tensor, partner: Tensor, share: Tensor, temperature: Tensor | float, both_ways: bool = True
) -> Tensor:
    """Cross-entropy of mixed rows over the rows of the other modality, whose own counts `share` and the partner's the
    rest; with `both_ways` its mean with that of the transposed logits and targets, whose rows need not sum to 1.

    Args:
        mixed, other: `[B, D]`; row i of `mixed` is `share` of row i and the rest of row `partner[i]`.
        partner: `[B]` int64, a permutation.
        share: `[B]` in [0, 1].
        temperature: positive.
    """
    x, y = unit(mixed), unit(other)
    mass = share.scatter_add(0, partner, 1 - share)  # of each column
    if both_ways and is_small(x, len(x)):
        s = similarities(x, y) / temperature
        hits = (s.diagonal() * share).sum() + (s.gather(1, partner[:, None])[:, 0] * (1 - share)).sum()
        return (s.logsumexp(1).sum() + mass @ s.logsumexp(0) - 2 * hits) / (2 * len(x))
    over_columns, over_rows = cross(x, y, temperature)
    hit = paired_similarity(x, y[partner].lerp(y, share[:, None]), temperature)
    loss = (over_columns - hit).mean()
    if not both_ways:
        return loss
    return (loss + (mass * over_rows - hit).mean()) / 2


def soft_clip(predicting: Tensor, telling: Tensor, temperature: Tensor | float) -> Tensor:
    """CLIP whose targets are how alike the rows of `telling` `[B, D]` are to each other, softmax over t: S.

    The mean of the cross-entropies with S of the logits of `predicting` `[B, D]` over `telling`, and of these over
    `predicting`. S has a gradient. Sum_j S_ij x_i.y_j is x_i times what attention of `telling` to itself gives row i,
    so for more rows than a tile S is built by torch at most.
    """
    x, y = unit(predicting), unit(telling)
    if is_small(x, len(x)):
        s = x @ y.T / temperature
        return (s.logsumexp(1) + s.logsumexp(0) - ((y @ y.T / temperature).softmax(1) * (s + s.T)).sum(1)).mean() / 2
    over_columns, over_rows = cross(x, y, temperature)
    scale = torch.as_tensor(1 / temperature, dtype=y.dtype, device=y.device)
    query = (y * scale)[None, None]
    values = torch.cat([y, x], 1)[None, None]
    seen = torch.nn.functional.scaled_dot_product_attention(query, y[None, None], values, scale=1.0)[0, 0]
    of_telling, of_predicting = seen.chunk(2, 1)
    hit = paired_similarity(x, of_telling, temperature) + paired_similarity(y, of_predicting, temperature)
    return (over_columns + over_rows - hit).mean() / 2


@register("m3col")
@dataclass(eq=False, kw_only=True)
class M3CoL(Tempered):
    """Contrast of mixed rows in the first part of a run, and soft CLIP afterwards.

    Two names each look at the other; of more, each at the next one, round in a ring, and their losses are summed. What
    is mixed are embeddings, as the authors' code does with the outputs of its encoders. In validation it is soft CLIP.

    Example:
        >>> import torch
        >>> z = {"image": torch.eye(4), "text": torch.eye(4)}
        >>> loss = M3CoL(temperature=0.5)
        >>> round(loss(z, progress=0.5).item(), 3)  # soft CLIP, of both names
        0.018
        >>> loss(z, progress=0.1, generator=torch.Generator().manual_seed(0)).item() > 0.5  # mixed rows
        True
    """

    family = "mixtures"
    paper = "Kumar et al. 2024, arXiv 2409.17777"
    formula = (
        "sum over names, x mixed with a permutation of itself: 1/2 [CE(x y^T / t, T) + CE(y x^T / t, T^T)], "
        "T_ii = b, T_i,perm(i) = 1 - b; later soft CLIP: targets softmax(y y^T / t)"
    )
    cost = "time O(V B^2 D), memory O(B D); soft CLIP O(B^2) where torch's attention builds its matrix, as on the CPU"
    fits = ("pairs", "several modalities")
    sharpness = "1 / temperature of mixed rows, and 1 / soft_temperature afterwards, of the targets, too"
    use = "classes share traits across pairs; beside a cross-entropy of each input and of all (weight 0.1 in the paper)"

    temperature: Annotated[float, Gt(0)] = 0.1
    soft_temperature: Annotated[float, Gt(0)] = 0.125
    mixed: Annotated[float, Ge(0), Le(1)] = 0.33  # share of the steps
    alpha: Annotated[float, Gt(0)] = 0.15  # of Beta(alpha, alpha)
    select: Annotated[float, Ge(0), Le(1)] = 0.5  # chance of a row to be mixed

    def forward(
        self,
        z: Embeddings,
        *,
        present: dict[str, Tensor] | None = None,
        progress: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        require_two_inputs(z)
        names = list(z)
        if present is not None:
            anywhere = torch.stack([present[name].any() for name in names]).tolist()
            names = [name for name, some in zip(names, anywhere, strict=True) if some]
        ring = [(name, names[(k + 1) % len(names)]) for k, name in enumerate(names) if len(names) > 1]
        rows: Sequence[Tensor | slice] = [slice(None)] * len(ring)
        if present is not None and ring:
            rows = chosen([present[a] & present[b] for a, b in ring])
        terms = []
        for (a, b), both in zip(ring, rows, strict=True):
            x, y = z[a][both], z[b][both]
            if len(x) < 2:
                self.count("skipped_pairs", 1)
            elif progress < self.mixed:
                terms.append(self.of_mixed(x, y, generator))
            else:
                terms.append(soft_clip(x, y, self.soft_temperature))
        return torch.stack(terms).sum() if terms else zero_loss(z)

    def of_mixed(self, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        """`mixed_contrast` of some rows of `x` `[B, D]`, drawn at random, with others."""
        partner = permutation(len(x), x, generator)
        share = beta(self.alpha, self.alpha, (len(x),), x, generator)
        share = torch.where(uniform((len(x),), x, generator) < self.select, share, 1)
        return mixed_contrast(x[partner].lerp(x, share[:, None]), y, partner, share, self.tau)
