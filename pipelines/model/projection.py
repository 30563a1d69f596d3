"""Projection heads, from what an encoder tells to the shared space, and noise on embeddings in training."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clx.modalities.base import Modality
from clx.pipelines.model.batch_norm import BatchNorm


def projection(modality: Modality, width: int, embed_dim: int) -> nn.Module:
    """The head of a modality, from features `[N, width]` to embeddings `[N, embed_dim]`. Raises `ValueError`."""
    made = _head(modality.head, width, embed_dim)
    if modality.head_dropout:
        made.register_forward_pre_hook(partial(_dropped, modality.head_dropout))
    return Noisy(made, modality.noise) if modality.noise else made


def _dropped(rate: float, head: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
    """What a head is called with, in training without a share of it; weights keep their names, as of any head."""
    return (F.dropout(given[0], rate, head.training),)


def _head(kind: str, width: int, embed_dim: int) -> nn.Module:
    if kind in ("none", "norm"):
        if width != embed_dim:
            raise ValueError(f"head {kind} needs embed_dim {width}, the width of the features; it is {embed_dim}")
        return nn.Identity() if kind == "none" else nn.RMSNorm(width, 1e-6, elementwise_affine=False)
    if kind == "linear":
        return nn.Linear(width, embed_dim, bias=False)
    return nn.Sequential(
        nn.Linear(width, width, bias=False),
        BatchNorm(width),
        nn.ReLU(),
        nn.Linear(width, embed_dim, bias=False),
        BatchNorm(embed_dim, affine=False),
    )


class Noisy(nn.Module):
    """A head, to whose embeddings training adds random vectors of any direction: z + rate |z| n / |n|, n normal.

    The angle to the embedding itself is then mostly near arctan(rate), whatever its length and width. No gradient goes
    by way of |z|.

    Reference:
        Yu et al. 2022, XSimGCL, arXiv 2209.02544, eq. 5 on unit vectors; there in the embedding's orthant.
    """

    def __init__(self, head: nn.Module, rate: float) -> None:
        super().__init__()
        self.head = head
        self.rate = rate

    def forward(self, features: Tensor) -> Tensor:
        """Features `[N, W]` -> embeddings `[N, D]`, in evaluation those of the head."""
        z: Tensor = self.head(features)
        if not self.training:
            return z
        length: Tensor = self.rate * torch.linalg.vector_norm(z.detach(), dim=-1, keepdim=True)
        return z + length * F.normalize(torch.randn_like(z), dim=-1)
