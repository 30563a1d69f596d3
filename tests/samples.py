"""Cells, rows and files to test with."""

import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from clx.pipelines.data.manifest import Manifest


def png(seed: int) -> bytes:
    """A picture of noise, 8 x 8."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(256, size=(8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def wav(seed: int, samples: int = 4000) -> bytes:
    """A sound of noise, 8 kHz."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(np.random.default_rng(seed).integers(-999, 999, samples).astype("<i2").tobytes())
    return buffer.getvalue()


def manifest(**columns: list[Any]) -> Manifest:
    """Rows in memory, column by column."""
    table = pa.table(columns)
    return Manifest("t.csv", Path(), table, np.arange(len(table)))
