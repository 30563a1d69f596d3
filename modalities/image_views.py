"""Random views of a batch of images: uint8 `[N, C, H, W]` in and out, each image's randomness from its own draws."""

import torch
from torch import Tensor
from torch.nn import functional as F

from clx.modalities.draws import Draws

LUMA = (0.299, 0.587, 0.114)
SMALL = 96
"""Below this side images are shifted by whole pixels and never blurred."""


def mild(x: Tensor, flip: bool, draws: Draws) -> Tensor:
    """Shift by up to an eighth with the border reflected; from 96 pixels on, a crop of 90 to 100 %."""
    if min(x.shape[-2:]) < SMALL:
        return shift(x, flip, draws)
    return resized_crop(x, (0.9, 1.0), flip, draws)


def strong(x: Tensor, flip: bool, draws: Draws, scale: tuple[float, float] = (0.2, 1.0)) -> Tensor:
    """The views of SimCLR: crop of a share of `scale`, colours (or brightness and contrast) jittered, grey, blur."""
    x = jitter(resized_crop(x, scale, flip, draws).float(), draws)
    if min(x.shape[-2:]) >= SMALL:
        x = blur(x, draws)
    return x.round_().clamp_(0, 255).byte()


def shift(x: Tensor, flip: bool, draws: Draws) -> Tensor:
    """Each image moved by up to an eighth of its side, its border reflected, and perhaps flipped."""
    n, c, height, width = x.shape
    rows, columns = _moved(height, draws), _moved(width, draws)
    if flip:
        columns = torch.where(_coin(0.5, draws)[:, None], width - 1 - columns, columns)
    at = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, -1)  # [N, 1, HW]
    return x.reshape(n, c, -1).gather(2, at.expand(-1, c, -1)).view_as(x)


def _moved(side: int, draws: Draws) -> Tensor:
    """Source positions `[N, side]` after a shift by whole pixels, reflected at the border."""
    reach = min(max(1, side // 8), side - 1)
    at = torch.arange(side) + draws.integers(2 * reach + 1, 1) - reach
    at = at.abs()
    return torch.where(at >= side, 2 * (side - 1) - at, at)


def resized_crop(x: Tensor, scale: tuple[float, float], flip: bool, draws: Draws) -> Tensor:
    """A crop of a random share of each image, its ratio of sides 3:4 to 4:3, resized to the image's size."""
    n, _, height, width = x.shape
    share = _uniform(*scale, draws).sqrt()
    stretch = (_uniform(-1, 1, draws) * 0.5 * torch.log(torch.tensor(4 / 3))).exp()
    h = (share * stretch * height).round().clamp(1, height).long()
    w = (share / stretch * width).round().clamp(1, width).long()
    top = (draws.rand() * (height - h + 1)).long()
    left = (draws.rand() * (width - w + 1)).long()
    mirrored = _coin(0.5 if flip else 0.0, draws).tolist()
    out = torch.empty_like(x)
    boxes = zip(top.tolist(), left.tolist(), h.tolist(), w.tolist(), mirrored, strict=True)
    for i, (y0, x0, dy, dx, mirror) in enumerate(boxes):
        crop = x[i : i + 1, :, y0 : y0 + dy, x0 : x0 + dx]
        crop = F.interpolate(crop, (height, width), mode="bilinear", antialias=True)
        out[i] = crop[0].flip(-1) if mirror else crop[0]
    return out


def jitter(x: Tensor, draws: Draws) -> Tensor:
    """Floats with brightness, contrast, saturation (0.6 to 1.4), hue (a tenth turn) varied in 80 %; 20 % grey.

    All are affine in the colour, so that together they are one matrix and one offset per image.
    """
    n, c, height, width = x.shape
    brightness, contrast, saturation = (_uniform(0.6, 1.4, draws)[:, None, None] for _ in range(3))
    turned = _hue(_uniform(-0.1, 0.1, draws))
    varied, greyed = _coin(0.8, draws)[:, None, None], _coin(0.2, draws)[:, None, None]
    same = torch.eye(c).expand(n, c, c)
    luma = torch.tensor(LUMA).expand(3, 3) if c == 3 else same
    colour = turned @ (luma + saturation * (same - luma)) if c == 3 else same
    colour = torch.where(varied, brightness * colour, same)
    contrast = torch.where(varied, contrast, 1.0)
    colour = torch.where(greyed, luma @ colour, colour)
    pixels = x.reshape(n, c, -1)
    middle = luma @ colour @ pixels.mean(2, keepdim=True)  # [N, C, 1], the grey that contrast turns about
    return (contrast * (colour @ pixels) + (1 - contrast) * middle).view(n, c, height, width)


def _hue(turn: Tensor) -> Tensor:
    """Rotations `[N, 3, 3]` of the colour by a share of a full turn, about the axis of greys."""
    angle = turn * 2 * torch.pi
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    grey = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    return grey + cos * (torch.eye(3) - grey) + sin * cross


def blur(x: Tensor, draws: Draws) -> Tensor:
    """Half of the images blurred by a Gaussian of 0.1 to 2 pixels at a side of 224, in proportion at others."""
    n, c, height, width = x.shape
    sigma = _uniform(0.1, 2.0, draws) * min(height, width) / 224
    reach = max(1, round(3 * 2.0 * min(height, width) / 224))
    offsets = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    kernel = torch.where(_coin(0.5, draws)[:, None], kernel, (offsets == 0).float())
    each = kernel.repeat_interleave(c, 0)[:, None]  # [N C, 1, K], one kernel per image and channel
    x = F.pad(x, (reach, reach, reach, reach), mode="reflect").flatten(0, 1)[None]
    x = F.conv2d(F.conv2d(x, each[:, :, :, None], groups=n * c), each[:, :, None, :], groups=n * c)
    return x.view(n, c, height, width)


def _uniform(low: float, high: float, draws: Draws) -> Tensor:
    return draws.rand() * (high - low) + low


def _coin(probability: float, draws: Draws) -> Tensor:
    return draws.rand() < probability
