"""WhitenedCSE: contrast among rows that are whitened by the batch, in shuffled groups of channels."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from clx.losses.base import Embeddings, Tempered, register, require_two_inputs, zero_loss
from clx.losses.infonce import infonce
from clx.losses.primitives.autograd import first_order_only, without_autocast
from clx.losses.primitives.draws import permutation
from clx.losses.primitives.functional import unit
from clx.losses.primitives.masks import chosen


def inverse_roots(c: Tensor, eps: float) -> Tensor:
    """(C + e I)^(-1/2) of symmetric `[G, d, d]`, e the `eps`-th part of the mean of the variances."""
    return _InverseRoots.apply(c, eps)  # type: ignore[no-any-return, no-untyped-call]


class _InverseRoots(Function):
    """With divided differences of l^(-1/2), which unlike the gradient of eigenvectors is finite for equal l."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, c: Tensor, eps: float) -> Tensor:
        spoiled = ~c.isfinite().all(2).all(1)
        one = torch.eye(c.shape[1], dtype=c.dtype, device=c.device)
        values, vectors = torch.linalg.eigh(torch.where(spoiled[:, None, None], one, c))  # which refuses NaN
        values = torch.where(spoiled[:, None], torch.nan, values)
        mean = values.mean(1, keepdim=True)
        roots = (values.clamp(min=0) + eps * mean).clamp(min=torch.finfo(c.dtype).tiny ** 0.5).sqrt()
        ctx.save_for_backward(roots, vectors)
        ctx.eps = eps
        result: Tensor = (vectors / roots[:, None]) @ vectors.mT
        return result

    @staticmethod
    @first_order_only
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        roots, vectors = ctx.saved_tensors
        inner = vectors.mT @ g @ vectors
        a, b = roots[:, :, None], roots[:, None]
        inner = -inner / (a * b * (a + b))
        share = ctx.eps / roots.shape[1] * inner.diagonal(dim1=1, dim2=2).sum(1)  # of e, to all variances alike
        inner = inner + torch.diag_embed(share[:, None].expand_as(roots))
        return vectors @ inner @ vectors.mT, None


def grouped(x: Tensor, order: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Centred channels in groups, in this order `[D]`, and their covariances: `[G, N, size]` and `[G, size, size]`.

    The last group is filled up with zeros.
    """
    centred = functional.pad((x - x.mean(0))[:, order], (0, -x.shape[1] % size))
    groups = centred.unflatten(1, (-1, size)).transpose(0, 1)
    return groups, groups.mT @ groups / len(x)


def ungrouped(groups: Tensor, order: Tensor) -> Tensor:
    """Groups of channels `[G, N, size]` as rows `[N, D]` again."""
    flat = groups.transpose(0, 1).flatten(1)[:, : len(order)]
    return flat[:, order.argsort()]


@register("whitened")
@dataclass(eq=False, kw_only=True)
class Whitened(Tempered):
    """InfoNCE from the whitened first of two names to several whitenings of the second, over all pairs.

    Channels are dealt into groups at random, for each whitening anew, and each group is whitened by the batch (ZCA).

    Example:
        >>> x = torch.tensor([[3.0, 1, 0, 1], [1, 3, 1, 0], [3, 1, 1, 0], [1, 3, 0, 1]])
        >>> value = Whitened(channels=2)({"text/0": x, "text/1": x}, generator=torch.Generator().manual_seed(0))
        >>> round(value.item(), 1)  # rows that were near each other lie apart
        0.0
    """

    family = "softmax"
    paper = "Zhuo et al. 2023, arXiv 2305.17746 (WhitenedCSE)"
    formula = "mean_k InfoNCE(W x, W_k y): in each group of channels W z = (cov + e)^(-1/2) (z - mean)"
    cost = "time O(B^2 D + B D channels + D channels^2) a whitening, memory O(B D)"
    use = "texts or views whose embeddings fill few directions; batches several times the channels of a group"
    fits = ("one modality",)
    ours = (
        "the gradient passes the whitening, which the published code cuts by accident; eps keeps small batches finite"
    )

    host_reads = 1  # whether the eigenvalues were found

    temperature: Annotated[float, Gt(0)] = 0.05
    channels: Annotated[int, Ge(1)] = 6  # of a group; 128 groups of 768 in the paper's code
    shuffles: Annotated[int, Ge(1)] = 2
    eps: Annotated[float, Gt(0)] = 1e-3

    def forward(
        self,
        z: Embeddings,
        *,
        present: dict[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        require_two_inputs(z)
        pairs = list(itertools.combinations(z, 2))
        rows: Sequence[Tensor | slice] = [slice(None)] * len(pairs)
        if present is not None:
            rows = chosen([present[a] & present[b] for a, b in pairs])
        parts, orders = [], []
        for (a, b), both in zip(pairs, rows, strict=True):
            x, y = z[a][both], z[b][both]
            if len(x) > 1:
                for each in (x, *[y] * self.shuffles):
                    orders.append(permutation(each.shape[1], each, generator))
                    parts.append(grouped(each, orders[-1], min(self.channels, each.shape[1])))
        skipped = len(pairs) - len(parts) // (1 + self.shuffles)
        if skipped:
            self.log["skipped_pairs"] = skipped
        if not parts:
            return zero_loss(z)
        covariances = [covariance for _, covariance in parts]
        roots = inverse_roots(torch.cat(covariances), self.eps).split([len(c) for c in covariances])
        white = [unit(ungrouped(x @ w, order)) for (x, _), w, order in zip(parts, roots, orders, strict=True)]
        terms = []
        for first in range(0, len(white), 1 + self.shuffles):
            x, *others = white[first : first + 1 + self.shuffles]
            terms += [infonce(x, y, self.tau) for y in others]
        return torch.stack(terms).mean()
