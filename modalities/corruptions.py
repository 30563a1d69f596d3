"""Damage of test samples by name, in five severities: noise, blur, typos, missing cells and their like.

Unlike views, which training draws from mild to strong, all samples of a severity are damaged alike: what is drawn is
where, and of which sign. After the common corruptions of Hendrycks & Dietterich 2019, arXiv 1903.12261, which have five
severities as well. Shares of an image's side hold at every size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clx.modalities import text_words
from clx.modalities.base import Modality
from clx.modalities.draws import Draws
from clx.modalities.series import Series
from clx.modalities.series_views import Stack, changed, cutout, jitter, time_mask, time_warp
from clx.modalities.table import Table
from clx.modalities.text_prompts import Prompt

Change = Callable[[Sequence[Any], float, Draws, Modality], list[Any]]


@dataclass(frozen=True)
class Corruption:
    """What is done to the samples of a modality, how strongly at severity 1 to 5, and what that strength means."""

    change: Change
    strengths: tuple[float, float, float, float, float]
    about: str


def corrupted(modality: Modality, name: str, severity: int, samples: Sequence[Any], draws: Draws) -> list[Any]:
    """The samples, as `read` gives them, damaged; each by its own draws, whatever else is in the batch."""
    corruption = CORRUPTIONS[modality.kind][name]
    return corruption.change(samples, corruption.strengths[severity - 1], draws, modality) if samples else []


# images: uint8 [C, H, W], all of one size


def _on_pixels(change: Callable[[Tensor, float, Draws], Tensor]) -> Change:
    def on_images(samples: Sequence[Tensor], s: float, draws: Draws, modality: Modality) -> list[Tensor]:
        return list(change(torch.stack([*samples]).float(), s, draws).round().clamp(0, 255).byte())

    return on_images


def _image_noise(x: Tensor, s: float, draws: Draws) -> Tensor:
    return x + 255 * s * draws.noise([x[0].numel()] * len(x)).view_as(x)


def _image_blur(x: Tensor, s: float, draws: Draws) -> Tensor:
    sigma = s * min(x.shape[-2:])
    reach = min(max(1, round(3 * sigma)), min(x.shape[-2:]) - 1)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    flat = F.pad(x, (reach, reach, reach, reach), mode="reflect").flatten(0, 1)[:, None]
    return F.conv2d(F.conv2d(flat, kernel[None, None, :, None]), kernel[None, None, None, :]).view_as(x)


def _image_dark(x: Tensor, s: float, draws: Draws) -> Tensor:
    return x * (1 - s)


def _image_flat(x: Tensor, s: float, draws: Draws) -> Tensor:
    middle = x.mean((1, 2, 3), keepdim=True)
    return middle + (x - middle) * (1 - s)


def _image_shift(x: Tensor, s: float, draws: Draws) -> Tensor:
    height, width = x.shape[-2:]
    signs = 2 * draws.integers(2, 2) - 1
    rows, columns = (
        _reflected(torch.arange(side) - sign[:, None] * round(s * side), side)
        for side, sign in ((height, signs[:, 0]), (width, signs[:, 1]))
    )
    at = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)[:, None]
    return x.flatten(2).gather(2, at.expand(-1, x.shape[1], -1)).view_as(x)


def _reflected(at: Tensor, side: int) -> Tensor:
    """Places within 0 to `side` - 1, the border being a mirror."""
    at = at.abs()
    return torch.where(at >= side, 2 * (side - 1) - at, at).clamp(0, side - 1)


def _image_occluded(x: Tensor, s: float, draws: Draws) -> Tensor:
    height, width = x.shape[-2:]
    high, wide = (max(1, round(s**0.5 * side)) for side in (height, width))
    place = draws.rand(2)
    top, left = (
        (place[:, k] * (side - size + 1)).long() for k, (side, size) in enumerate([(height, high), (width, wide)])
    )
    rows, columns = torch.arange(height) - top[:, None], torch.arange(width) - left[:, None]
    hidden = ((rows >= 0) & (rows < high))[:, :, None] & ((columns >= 0) & (columns < wide))[:, None, :]
    return x.masked_fill(hidden[:, None], 127)


# sounds: [S], of any length


def _audio_noise(samples: Sequence[Tensor], s: float, draws: Draws, modality: Modality) -> list[Tensor]:
    noise = draws.noise([*map(len, samples)]).split([*map(len, samples)])
    return [x + x.square().mean().sqrt() * 10 ** (-s / 20) * n for x, n in zip(samples, noise, strict=True)]


def _audio_quiet(samples: Sequence[Tensor], s: float, draws: Draws, modality: Modality) -> list[Tensor]:
    return [x * 10 ** (-s / 20) for x in samples]


def _audio_shift(samples: Sequence[Tensor], s: float, draws: Draws, modality: Modality) -> list[Tensor]:
    return [torch.cat([x.new_zeros(n := round(s * len(x))), x[: len(x) - n]]) for x in samples]


def _audio_occluded(samples: Sequence[Tensor], s: float, draws: Draws, modality: Modality) -> list[Tensor]:
    found = []
    for x, place in zip(samples, draws.rand().tolist(), strict=True):
        width = round(s * len(x))
        start = int(place * (len(x) - width + 1))
        found.append(torch.cat([x[:start], x.new_zeros(width), x[start + width :]]))
    return found


# series: [T, C], NaN in steps that are left out


def _on_series(change: Callable[[Stack, float, Draws], Stack]) -> Change:
    def on_series(samples: Sequence[Tensor], s: float, draws: Draws, modality: Modality) -> list[Tensor]:
        assert isinstance(modality, Series)
        return changed(samples, [(change, s)], modality.gaps == "indicate", draws)

    return on_series


def _series_shift(stack: Stack, s: float, draws: Draws) -> Stack:
    signs = 2 * draws.integers(2, stack.x.shape[2]) - 1
    return stack._replace(x=stack.x + s * signs[:, None] * stack.deviation())


# texts


def _on_words(change: Callable[[Sequence[text_words.Words], float, Draws], list[text_words.Words]]) -> Change:
    def on_texts(samples: Sequence[Prompt], s: float, draws: Draws, modality: Modality) -> list[Prompt]:
        words = change([text_words.words_of(sample.text) for sample in samples], s, draws)
        return [one._replace(text=text_words.text_of(each)) for one, each in zip(samples, words, strict=True)]

    return on_texts


# tables: numbers, their flags of absence, codes of categories


def _table_noise(samples: Sequence[Tensor], s: float, draws: Draws, modality: Modality) -> list[Tensor]:
    assert isinstance(modality, Table)
    x, k = torch.stack([*samples]), modality.numeric_columns
    x[:, :k] += s * draws.randn(k) * modality.deviations * (x[:, k : 2 * k] == 0)
    return list(x)


def _table_missing(samples: Sequence[Tensor], s: float, draws: Draws, modality: Modality) -> list[Tensor]:
    assert isinstance(modality, Table)
    x, k = torch.stack([*samples]), modality.numeric_columns
    gone = draws.rand(x.shape[1] - k) < s
    numbers, categories = gone[:, :k], gone[:, k:]
    return list(
        torch.cat([x[:, :k] * ~numbers, x[:, k : 2 * k].masked_fill(numbers, 1), x[:, 2 * k :] * ~categories], 1)
    )


CORRUPTIONS: dict[str, dict[str, Corruption]] = {
    "image": {
        "noise": Corruption(_on_pixels(_image_noise), (0.04, 0.08, 0.12, 0.18, 0.26), "deviation, of black to white"),
        "blur": Corruption(_on_pixels(_image_blur), (0.01, 0.015, 0.02, 0.03, 0.04), "sigma, as a share of the side"),
        "darken": Corruption(_on_pixels(_image_dark), (0.3, 0.5, 0.65, 0.8, 0.9), "share of the light that is lost"),
        "contrast": Corruption(
            _on_pixels(_image_flat), (0.4, 0.6, 0.75, 0.85, 0.92), "share of the contrast that is lost"
        ),
        "shift": Corruption(_on_pixels(_image_shift), (0.04, 0.08, 0.12, 0.18, 0.25), "share of the side, both ways"),
        "occlude": Corruption(_on_pixels(_image_occluded), (0.05, 0.1, 0.2, 0.3, 0.45), "share of the area made grey"),
    },
    "audio": {
        "noise": Corruption(_audio_noise, (30, 20, 10, 5, 0), "decibels by which white noise is below the sound"),
        "quiet": Corruption(_audio_quiet, (6, 12, 18, 24, 30), "decibels"),
        "shift": Corruption(_audio_shift, (0.05, 0.1, 0.15, 0.2, 0.3), "share of the clip by which it comes later"),
        "occlude": Corruption(
            _audio_occluded, (0.1, 0.2, 0.3, 0.4, 0.5), "share of the clip, one stretch, made silent"
        ),
    },
    "series": {
        "noise": Corruption(_on_series(jitter), (0.1, 0.2, 0.4, 0.7, 1.0), "deviations of the channel"),
        "shift": Corruption(_on_series(_series_shift), (0.25, 0.5, 1.0, 1.5, 2.0), "deviations, up or down by channel"),
        "missing": Corruption(_on_series(time_mask), (0.1, 0.2, 0.3, 0.5, 0.7), "share of steps that become the mean"),
        "occlude": Corruption(
            _on_series(cutout), (0.1, 0.2, 0.3, 0.4, 0.5), "share of one stretch that becomes the mean"
        ),
        "warp": Corruption(_on_series(time_warp), (0.1, 0.2, 0.4, 0.7, 1.0), "time runs by up to exp of it"),
    },
    "text": {
        "typos": Corruption(_on_words(text_words.typos), (0.05, 0.1, 0.2, 0.35, 0.5), "share of words with one"),
        "delete": Corruption(_on_words(text_words.delete), (0.1, 0.2, 0.3, 0.4, 0.5), "share of words left out"),
        "reorder": Corruption(
            _on_words(text_words.reorder), (0.2, 0.4, 0.6, 0.8, 1.0), "share of words that change places"
        ),
    },
    "table": {
        "noise": Corruption(_table_noise, (0.1, 0.25, 0.5, 0.75, 1.0), "deviations of each number"),
        "missing": Corruption(_table_missing, (0.1, 0.2, 0.3, 0.5, 0.7), "share of cells that are emptied"),
    },
}
"""By kind and name."""
