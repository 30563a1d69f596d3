"""What an encoder is given as flat numbers of one scale, which decoders are to say."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from clx.modalities.audio import Audio
from clx.modalities.audio_encoders import LogMel
from clx.modalities.base import Input, Modality
from clx.modalities.image import Image
from clx.modalities.series import Series
from clx.modalities.table import Table
from clx.modalities.text import Text
from clx.modalities.text_vocabulary import parts_of, vocabulary

SIDE = 32
"""Pixels that an image is shrunk to, at most, on each side."""
BANDS, FRAME = 20, 4
"""Mel bands of a recording, and how many steps of 10 ms are averaged."""


def width_of(modality: Modality) -> int:
    """How many numbers `originals` gives of each row. Raises `ValueError` where that is not the same for all rows."""
    if modality.pair is not None:
        raise ValueError("pairs of cells are not decoded: give each column an input of its own")
    if modality.freeze and not modality.unlocked:
        raise ValueError("with freeze: true nothing would be learned from what a decoder says")
    if isinstance(modality, Table):
        return max(1, modality.numeric_columns + sum(modality.category_counts))  # none of one that is not fitted
    if isinstance(modality, Image):
        high, wide = shrunk(modality.preprocessing.size)
        return modality.channels * high * wide
    if isinstance(modality, Series):
        return int(modality.state()["length"]) * modality.channels
    if isinstance(modality, Text):
        vocabulary(modality)
        return modality.room
    if isinstance(modality, Audio):
        return BANDS * frames_of(modality)
    raise ValueError(f"{modality.kind} has no decoder: tables, images, series, texts and recordings have")


def tokens_of(modality: Modality) -> int | None:
    """How many tokens there are, of a modality whose `originals` are numbers of tokens; None of others."""
    return vocabulary(modality).size if isinstance(modality, Text) else None


def originals(modality: Modality, value: Input) -> Tensor:
    """Collated rows as `[N, P]` floats, NaN where a number is missing.

    Of a table the scaled numbers and 0 or 1 for each known category; of an image its pixels by channel, of mean 0 and
    deviation 1 as the encoder takes them, averaged to 32 x 32 at most; of a series its channels at each step of the
    longest one; of a text the numbers of its tokens, without those that a tokenizer adds; of a recording its log-mel
    spectrum, of mean 0 and deviation 1, in bands every 40 ms.
    """
    x = value["x"]
    if isinstance(modality, Text):
        numbers = x.float().masked_fill(~parts_of(vocabulary(modality), value), torch.nan)
        return functional.pad(numbers, (0, modality.room - x.shape[1]), value=torch.nan)
    if isinstance(modality, Table):
        return of_table(x, modality.numeric_columns, modality.category_counts)
    if isinstance(modality, Image):
        if x.dtype == torch.uint8:
            mean, std = (x.new_tensor(v, dtype=torch.float32)[:, None, None] for v in normal(modality))
            x = (x.float() / 255 - mean) / std
        return functional.adaptive_avg_pool2d(x, shrunk((x.shape[2], x.shape[3]))).flatten(1)
    if isinstance(modality, Audio):
        return of_audio(x, value["mask"], modality.sample_rate, frames_of(modality))
    assert isinstance(modality, Series)
    longest = int(modality.state()["length"])
    x = x[:, :longest, : modality.channels].float().masked_fill(~value["mask"][:, :longest, None], torch.nan)
    return functional.pad(x, (0, 0, 0, longest - x.shape[1]), value=torch.nan).flatten(1)


def frames_of(audio: Audio) -> int:
    """How many frames of 40 ms a recording has, at most."""
    samples = round((audio.longest if audio.seconds is None else audio.seconds) * audio.sample_rate)
    return -(-(1 + samples // log_mel(audio.sample_rate).hop) // FRAME)


def of_audio(x: Tensor, mask: Tensor, sample_rate: int, frames: int) -> Tensor:
    """Waves `[N, S]` with their mask as `[N, frames BANDS]`, NaN behind their ends."""
    level, real = log_mel(sample_rate).to(x.device)(x, mask)
    level, real = level[:, : frames * FRAME], real[:, : frames * FRAME]
    missing = frames * FRAME - level.shape[1]
    parts = functional.pad(level, (0, 0, 0, missing)).unflatten(1, (frames, FRAME)).sum(2)
    count = functional.pad(real, (0, missing)).unflatten(1, (frames, FRAME)).sum(2)
    means: Tensor = parts / count[..., None]  # 0 / 0 where there is nothing
    return means.flatten(1)


@cache
def log_mel(sample_rate: int) -> LogMel:
    return LogMel(sample_rate, BANDS)


def of_table(x: Tensor, k: int, sizes: list[int]) -> Tensor:
    """Rows `[N, 2 k + C]` (numbers, missing flags, category numbers) as `[N, k + sum(sizes)]`."""
    parts = [x[:, :k].masked_fill(x[:, k : 2 * k] > 0, torch.nan)]
    for place, size in enumerate(sizes, 2 * k):
        code = x[:, place].long()
        one = functional.one_hot((code - 2).clamp(min=0), size).to(x.dtype)
        one = torch.where((code == 1)[:, None], 0, one)  # none of those that are known
        parts.append(one.masked_fill((code == 0)[:, None], torch.nan))
    return torch.cat(parts, 1)


def shrunk(size: tuple[int, int]) -> tuple[int, int]:
    return min(size[0], SIDE), min(size[1], SIDE)


def normal(image: Image) -> tuple[list[float], list[float]]:
    """Mean and deviation of the pixels' channels."""
    known = image.preprocessing
    return list(known.mean), list(known.std)
