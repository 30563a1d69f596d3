"""Parts of encoders for sequences of any length with a mask: the result of a row never depends on its padding."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clx.modalities.base import StepEncoder

HEAD_WIDTH = 32


class Step(nn.Module):
    """Convolution over time, normalised per step, so that the result of a row never depends on the other rows."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation)
        self.norm = nn.LayerNorm(outputs)
        self.stride = stride
        self.residual = inputs == outputs and stride == 1

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`[N, T, C]` and `[N, T]` in and out; T shrinks by the stride."""
        if self.stride > 1:  # a step of the output is there if any of its own steps is
            mask = F.max_pool1d(mask.float(), self.stride, ceil_mode=True).bool()
        y = F.relu(self.norm(self.conv(x.transpose(1, 2)).transpose(1, 2)))
        return (x + y if self.residual else y) * mask[..., None], mask


class ConvolvedSteps(StepEncoder):
    """Convolutions over time, each a `Step`; mean and maximum over time, and a layer after that."""

    group_worth = 256

    layers: nn.ModuleList
    out: nn.Module

    def convolved(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`[N, T, C]` and `[N, T]` through all convolutions."""
        for layer in self.layers:
            x, mask = layer(x, mask)
        return x, mask

    def pool(self, h: Tensor, mask: Tensor) -> Tensor:
        features: Tensor = self.out(masked_pool(h, mask))
        return features

    def blocks(self) -> list[nn.Module]:
        """Each convolution, the part after pooling."""
        return [*self.layers, self.out]


class Layer(nn.Module):
    """Attention and a feed-forward part, each added to its input `[N, T, width]`."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, mask: Tensor, weights: list[Tensor] | None = None) -> Tensor:
        """`[N, T, width]` -> the same; nothing is read where `mask` `[N, T]` is False. The attention weights
        `[N, heads, T, T]` are put into `weights`, where that is given."""
        q, k, v = self.qkv(self.norm(h)).unflatten(2, (3, self.heads, HEAD_WIDTH)).permute(2, 0, 3, 1, 4)
        if weights is None:
            read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])  # [N, heads, T, d]
        else:
            logits = (q @ k.mT / math.sqrt(HEAD_WIDTH)).masked_fill(~mask[:, None, None, :], -math.inf)
            weights.append(logits.softmax(3))
            read = weights[-1] @ v
        h = h + self.dropout(self.out(read.transpose(1, 2).flatten(2)))
        out: Tensor = h + self.dropout(self.feed(h))
        return out


def masked_pool(x: Tensor, mask: Tensor) -> Tensor:
    """Mean and maximum `[N, 2 C]` over the real steps of `x` `[N, T, C]`; a row needs at least one."""
    mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return torch.cat([mean, x.masked_fill(~mask[..., None], -torch.inf).amax(1)], 1)


def mean_over(h: Tensor, mask: Tensor) -> Tensor:
    """Mean `[N, C]` over the real steps of `h` `[N, T, C]`."""
    weight = mask[:, :, None].to(h.dtype)
    return (h * weight).sum(1) / weight.sum(1).clamp(min=1)


def positions(length: int, width: int, device: torch.device) -> Tensor:
    """Sines and cosines `[length, width]` of geometrically spaced periods; no longest length."""
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10000.0) / width))
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)
