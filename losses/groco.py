"""GroCo: positives and the nearest negatives pass a differentiable sorting network, and all positives should win."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from clx.losses.base import Embeddings, Loss, register, require_two_inputs, zero_loss
from clx.losses.primitives.blocks import by_blocks
from clx.losses.primitives.functional import unit
from clx.losses.primitives.masks import chosen


def places(x: Tensor, steepness: float) -> Tensor:
    """How likely each number is to end at each place of an ascending order: `[N, n]` -> `[N, n, n]`, number by place.

    An odd-even network: n layers compare neighbours, of which b passes a by 1/2 + arctan(steepness (b - a)) / pi.

    Reference:
        Petersen et al. 2022, arXiv 2203.09630.
    """
    n = x.shape[1]
    shares = torch.eye(n, dtype=x.dtype, device=x.device).expand(len(x), n, n)
    for layer in range(n):
        first = layer % 2
        pairs = (n - first) // 2
        head, tail = slice(0, first), slice(first + 2 * pairs, n)
        a, b = x[:, first : tail.start].unflatten(1, (pairs, 2)).unbind(2)
        keep = torch.atan(steepness * (b - a)) / math.pi + 0.5
        low, high = b.lerp(a, keep), a.lerp(b, keep)
        x = torch.cat([x[:, head], torch.stack([low, high], 2).flatten(1), x[:, tail]], 1)
        a, b = shares[:, :, first : tail.start].unflatten(2, (pairs, 2)).unbind(3)
        keep = keep[:, None]
        swapped = torch.stack([b.lerp(a, keep), a.lerp(b, keep)], 3).flatten(2)
        shares = torch.cat([shares[:, :, head], swapped, shares[:, :, tail]], 2)
    return shares


def group_ordering(sorted_negatives: Tensor, positives: Tensor, steepness: float) -> Tensor:
    """Cross-entropy of the places of K negatives `[N, K]`, ascending, and P positives `[N, P]`: sum over rows.

    mean_k -log P(k ends among the last P, if it is a positive, else among the first K)
    """
    count = sorted_negatives.shape[1]
    shares = places(torch.cat([sorted_negatives, positives.sort(1).values], 1), steepness)
    positive = torch.arange(shares.shape[1], device=shares.device) >= count
    right = torch.where(positive, shares[:, :, count:].sum(2), shares[:, :, :count].sum(2))
    return -right.clamp(min=torch.finfo(right.dtype).tiny).log().mean(1).sum()


def groco(
    x: Tensor, own: Tensor, among: Tensor, positives: Sequence[Tensor], nearest: int = 10, steepness: float = 1.0
) -> Tensor:
    """GroCo of one view: each row should have its positives before its nearest rows of the same view; sum over rows.

    Args:
        x: `[N, D]`, the anchors, unit rows.
        own: `[N]`, the row of `among` that each is.
        among: `[M, D]`, unit rows of the view, M >= 2.
        positives: other views `[N, D]` of the same items, unit rows.
        nearest: negatives that are sorted; M - 1 where there are no more.
        steepness: of the network's comparisons.

    Reference:
        Shvetsova et al. 2023, arXiv 2301.02009.
    """

    def terms(s: Tensor, rows: slice, similar: Tensor) -> tuple[Tensor]:
        others = torch.arange(len(among), device=s.device) != own[rows, None]
        found = s.masked_fill(~others, -math.inf).topk(min(nearest, len(among) - 1), dim=1).values
        return (group_ordering(found.flip(1), similar[rows], steepness),)

    return by_blocks(terms, x, among, torch.stack([torch.linalg.vecdot(x, p) for p in positives], 1))[0]


@register("groco")
@dataclass(eq=False, kw_only=True)
class GroCo(Loss):
    """Group ordering constraints: all positives of a row before its nearest negatives, mean over views.

    An item with one view alone is a negative only. By default the rows that an anchor is compared with do not learn.

    Example:
        >>> x = torch.eye(4)
        >>> loss = GroCo(steepness=10)
        >>> round(loss({"image/0": x, "image/1": x}).item(), 3)
        0.033
        >>> round(loss({"image/0": x, "image/1": x.roll(1, 0)}).item(), 3)  # the positive is as far as any other
        0.429
    """

    family = "multi-view"
    paper = "Shvetsova et al. 2023, arXiv 2301.02009"
    formula = "mean_vik -log P(k ends among the positives if it is one, else among the nearest negatives)"
    cost = "time O(V B^2 D + V B K^3), memory O(V B D), K the nearest negatives and positives"
    use = "nearest neighbours matter more than the scale of distances: only the order is taught, and only at its border"
    fits = ("one modality",)
    sharpness = "steepness, of differences of cosines within an arctangent"

    nearest: Annotated[int, Ge(1)] = 10
    steepness: Annotated[float, Gt(0)] = 1.0
    stop_gradient: bool = True

    def forward(self, z: Embeddings, *, present: dict[str, Tensor] | None = None) -> Tensor:
        require_two_inputs(z)
        size = len(next(iter(z.values())))
        groups, rows = self.groups(z, present)
        there = {name: slice(None) for name in z} if present is None else dict(zip(z, rows[len(groups) :], strict=True))
        every = torch.arange(size, device=next(iter(z.values())).device)
        total, count = [], 0
        for (name, others), anchors in zip(groups, rows, strict=False):
            among = unit(z[name][there[name]])
            if not len(anchors) or len(among) < 2:
                continue
            place = torch.zeros_like(every).index_copy_(0, every[there[name]], every[: len(among)])
            positives = [unit(z[other][anchors]) for other in others]
            own = place[anchors]
            x = among[own]
            if self.stop_gradient:
                among, positives = among.detach(), [each.detach() for each in positives]
            total.append(groco(x, own, among, positives, self.nearest, self.steepness))
            count += len(anchors)
        return torch.stack(total).sum() / count if total else zero_loss(z)

    def groups(
        self, z: Embeddings, present: dict[str, Tensor] | None
    ) -> tuple[list[tuple[str, tuple[str, ...]]], list[Tensor]]:
        """Views with the others that their anchors have besides, and the rows of these; then the rows of each view."""
        if present is None:
            every = torch.arange(len(next(iter(z.values()))), device=next(iter(z.values())).device)
            return [(name, tuple(n for n in z if n != name)) for name in z], [every] * len(z)
        found, masks = [], []
        for size in range(1, len(z)):
            for name in z:
                for others in itertools.combinations([n for n in z if n != name], size):
                    has = [present[n] if n in (name, *others) else ~present[n] for n in z]
                    found.append((name, others))
                    masks.append(torch.stack(has).all(0))
        return found, chosen([*masks, *(present[n] for n in z)])
