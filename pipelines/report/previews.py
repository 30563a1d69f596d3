"""What a person sees of a sample: a thumbnail, a waveform with its spectrogram, curves, words, or a table's cells.

Everything is small and JSON: a page shows a thousand of them.
"""

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clx.modalities.base import Modality
from clx.modalities.text import Prompt

SIDE = 64
"""Pixels of a thumbnail's longer side."""
WAVE, FRAMES, BANDS = 64, 56, 32
CURVES, STEPS = 4, 80
LETTERS, CELLS = 240, 16
KINDS = ("image", "audio", "series", "text")
"""Kinds whose samples can be looked at; a table is looked at as its cells."""

Preview = dict[str, Any]


def preview(modality: Modality, sample: Any, cell: Any = None) -> Preview:
    """A sample, or both of a pair, as read or varied; of a table its `cell`, since its sample is numbers."""
    if isinstance(sample, list):  # several of one row: texts one after the other, of the others the first
        texts = Prompt(" / ".join(str(one) for one in sample)) if modality.kind == "text" else sample[0]
        return _alone(modality, texts, cell)
    if modality.pair is None:
        return _alone(modality, sample, cell)
    cells = (None, None) if cell is None else cell
    return {"pair": [_alone(modality, *one) for one in zip(sample, cells, strict=True)]}


def _alone(modality: Modality, sample: Any, cell: Any) -> Preview:
    if modality.kind == "image":
        return {"image": _picture(sample)}
    if modality.kind == "audio":
        return _sound(sample.numpy(), int(getattr(modality, "sample_rate", 16_000)))
    if modality.kind == "series":
        indicated = getattr(modality, "gaps", "") == "indicate"
        return _curves(sample[:, : sample.shape[1] // 2] if indicated else sample)
    if modality.kind == "table":
        cells = [[name, _short(value)] for name, value in cell.items()]
        return {"cells": cells[:CELLS], "more": max(0, len(cells) - CELLS)}
    text = str(sample)
    return {"text": text if len(text) <= LETTERS else text[: LETTERS - 3] + "..."}


def _short(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:60]


def _uri(picture: Any) -> str:
    """A Pillow image as a data address."""
    held = io.BytesIO()
    picture.save(held, "WEBP", quality=70, method=2)
    return "data:image/webp;base64," + base64.b64encode(held.getvalue()).decode()


def _picture(pixels: Tensor) -> str:
    """uint8 `[C, H, W]` as a thumbnail."""
    from PIL import Image

    array = pixels.permute(1, 2, 0).numpy()
    picture = Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array))
    picture.thumbnail((SIDE, SIDE))
    return _uri(picture)


def _sound(wave: NDArray[np.float32], rate: int) -> Preview:
    """The envelope of a waveform `[S]`, 0 to 99, and its spectrogram: 50 dB down from the loudest, up to rate / 2."""
    from PIL import Image

    edges = np.linspace(0, len(wave), min(WAVE, len(wave)) + 1).astype(int)
    peaks = np.maximum.reduceat(np.abs(wave), edges[:-1])
    window = min(len(wave), max(64, int(0.032 * rate)))
    starts = np.linspace(0, len(wave) - window, FRAMES).astype(int)
    frames = wave[starts[:, None] + np.arange(window)] * np.hanning(window)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2  # [FRAMES, window // 2 + 1]
    bands = np.add.reduceat(power, np.linspace(0, power.shape[1], BANDS, endpoint=False).astype(int), axis=1)
    level = 10 * np.log10(np.maximum(bands, 1e-12))
    shade = np.clip((level.max() - level) / 50, 0, 1) * 255  # loud is black
    picture = Image.fromarray(np.ascontiguousarray(shade.T[::-1].astype(np.uint8)))
    loudest = max(float(peaks.max()), 1e-9)
    return {
        "wave": (peaks / loudest * 99).astype(int).tolist(),
        "spectrum": _uri(picture),
        "seconds": round(len(wave) / rate, 2),
    }


def _curves(values: Tensor) -> Preview:
    """The first channels of a series `[T, C]`, each 0 to 99 over all of them together; None where it is NaN."""
    shown = values[:, :CURVES].numpy().astype(np.float64)
    at = np.linspace(0, len(shown) - 1, min(STEPS, len(shown))).round().astype(int)
    low, high = np.nanmin(shown), np.nanmax(shown)
    scaled = ((shown[at] - low) / (high - low or 1) * 99).T
    curves = [[None if np.isnan(v) else round(v) for v in line] for line in scaled.tolist()]
    return {"curves": curves, "steps": len(values), "channels": values.shape[1]}
