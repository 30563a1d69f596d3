"""What a person sees of a sample."""

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clx.modalities.audio import Audio
from clx.modalities.image import Image as Image_
from clx.modalities.series import Series
from clx.modalities.table import Table
from clx.modalities.text import Text
from clx.pipelines.report.previews import preview


def picture(uri: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_preview_of_a_sound() -> None:
    rate = 8000
    time = np.arange(rate) / rate
    wave = np.sin(2 * np.pi * 1000 * time) * (time > 0.5)
    found = preview(Audio(sample_rate=rate), torch.from_numpy(wave.astype(np.float32)))
    assert found["seconds"] == 1.0
    quiet, loud = found["wave"][:30], found["wave"][34:]
    assert max(quiet) == 0
    assert min(loud) >= 90
    assert max(loud) == 99
    dark = picture(found["spectrum"]).astype(int)[..., :3].mean(2)  # rows from 4000 Hz down to 0
    band = dark[:, 40].argmin()
    assert band == pytest.approx(dark.shape[0] * 0.75, abs=2)
    assert dark[:, 5].min() > 200


def test_preview_of_a_series_leaves_out_what_tells_of_gaps() -> None:
    values = torch.stack([torch.linspace(0, 1, 300), torch.zeros(300), torch.ones(300), torch.ones(300)], 1)
    found = preview(Series(gaps="indicate"), values)
    assert (found["steps"], found["channels"]) == (300, 2)
    up, flat = found["curves"]
    assert (up[0], up[-1], set(flat)) == (0, 99, {0})
    assert up == sorted(up)


def test_preview_of_a_series_shows_steps_without_values_as_holes() -> None:
    values = torch.arange(10.0)[:, None]
    values[[0, 1, 5]] = torch.nan
    found = preview(Series(gaps="mask"), values)["curves"]
    assert found == [[None, None, 0, 14, 28, None, 57, 71, 85, 99]]


def test_preview_of_an_image_a_text_and_a_table() -> None:
    pixels = torch.zeros(3, 200, 100, dtype=torch.uint8)
    pixels[0] = 255
    seen = picture(preview(Image_(), pixels)["image"])
    assert seen.shape == (64, 32, 3)
    assert seen[30, 15, 0] > 230
    assert len(preview(Text(), "x" * 1000)["text"]) == 240
    cells = {f"c{k}": k / 3 for k in range(20)} | {"c1": None}
    found = preview(Table(), None, cells)
    assert found["cells"][:3] == [["c0", "0"], ["c1", ""], ["c2", "0.6667"]]
    assert found["more"] == 4
