"""A small encoder that learns, over the steps of another one, which may be frozen."""

import itertools

import torch
from torch import Tensor, nn

from clx.modalities.encoder import StepEncoder
from clx.modalities.options import StepOptions
from clx.modalities.sequence import ConvolvedSteps, Step


class OverSteps(ConvolvedSteps):
    """Steps of another encoder, each normalised by itself, through convolutions; their mean and maximum, and a layer.

    A step is what that encoder makes of it as if it were all there is (`StepEncoder.states`). In training, random ends
    are cut off, random steps are hidden, and noise is added, all drawn from torch's own stream.
    """

    def __init__(self, inner: StepEncoder, options: StepOptions) -> None:
        super().__init__()
        self.inner = inner
        self.width = width = options.get("width", 128)
        self.crop, self.mask, self.noise = options.get("crop", 0.0), options.get("mask", 0.0), options.get("noise", 0.0)
        self.group_worth, self.fixed, self.timed = inner.group_worth, inner.fixed, inner.timed
        sizes = [inner.width] + [width] * options.get("layers", 2)
        self.norm = nn.LayerNorm(inner.width, elementwise_affine=False)
        self.layers = nn.ModuleList(Step(a, b, 3, 1, 2**i) for i, (a, b) in enumerate(itertools.pairwise(sizes)))
        self.out = nn.Sequential(nn.Dropout(options.get("dropout", 0.0)), nn.Linear(2 * width, width), nn.ReLU())

    def at_view(self, number: int) -> None:
        self.inner.at_view(number)

    def floats(self, x: Tensor) -> Tensor:
        return self.inner.floats(x)

    def single(self, x: Tensor, mask: Tensor | None = None, **more: Tensor) -> tuple[Tensor, Tensor]:
        """What the other encoder makes of each step `[N, T, C]`, and the mask `[N, T]`."""
        h, mask = self.inner.steps(x, mask, **more)
        alone = h.flatten(0, 1)[:, None]
        found = self.inner.pool(alone, mask.new_ones(alone.shape[:2])).unflatten(0, mask.shape)
        return torch.where(mask[..., None], found, 0), mask

    def steps(self, x: Tensor, mask: Tensor | None = None, **more: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[N, T, width]` and their mask."""
        return self.over(*self.single(x, mask, **more))

    def over(self, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """As `steps`, of what `single` gives."""
        h, mask = self.varied(self.norm(h), mask)
        return self.convolved(h * mask[..., None], mask)

    def varied(self, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised steps `[N, T, C]` and their mask, in training a random variation of them."""
        if not self.training:
            return h, mask
        if self.crop:
            ends = torch.rand(2, len(h), device=h.device) * self.crop / 2
            first, last = (ends * mask.sum(1)).long()
            place = mask.cumsum(1)  # from 1 on
            mask = mask & (place > first[:, None]) & (place <= (place[:, -1] - last)[:, None])
        if self.mask:
            h = h * (torch.rand(mask.shape, device=h.device) >= self.mask)[..., None]
        return (h + self.noise * torch.randn_like(h) if self.noise else h), mask

    def forward(self, x: Tensor, mask: Tensor | None = None, **more: Tensor) -> Tensor:
        """An input of the other encoder -> `[N, width]`."""
        return self.pool(*self.steps(x, mask, **more))

    def blocks(self) -> list[nn.Module]:
        """The blocks of the other encoder, each convolution, the part after pooling."""
        return [*self.inner.blocks(), *super().blocks()]
