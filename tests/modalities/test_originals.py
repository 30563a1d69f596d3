"""What a decoder is to say of an input."""

import numpy as np
import pytest
import torch

from clx.modalities.audio import Audio
from clx.modalities.base import Modality
from clx.modalities.image import Image
from clx.modalities.originals import originals, tokens_of, width_of
from clx.modalities.series import Series
from clx.modalities.table import Table
from clx.modalities.text import Text


def test_of_a_table_its_numbers_and_known_categories() -> None:
    table = Table(columns=["size", "colour"], scale="none")
    table.fit([{"size": 1, "colour": "red"}, {"size": 3, "colour": "green"}, {"size": 2, "colour": "red"}])
    rows = [
        {"size": 2, "colour": "red"},
        {"size": None, "colour": "green"},
        {"size": 5, "colour": "mauve"},
        {"size": 1},
    ]
    found = originals(table, table.collate([table.read(row) for row in rows]))
    none = torch.nan
    expected = torch.tensor([[2.0, 1, 0], [none, 0, 1], [5, 0, 0], [1, none, none]])
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert width_of(table) == 3


def test_of_an_image_its_pixels_as_the_encoder_takes_them() -> None:
    image = Image(size=8, channels=1)
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    found = originals(image, image.collate([image.read(pixels)]))
    assert torch.allclose(found, ((torch.arange(64.0) / 255 - 0.5) / 0.25)[None])
    encoder = image.build_encoder()
    again = originals(image, {"x": encoder.floats(torch.from_numpy(pixels)[None, None])})  # mixed ones come as floats
    assert torch.allclose(found, again, atol=1e-6)
    large = Image(size=64, channels=3)
    value = large.collate([large.read(np.full((64, 64, 3), 255, dtype=np.uint8))])
    assert originals(large, value).shape == (1, width_of(large)) == (1, 3 * 32 * 32)
    assert torch.allclose(originals(large, value), torch.tensor(2.0))


def test_of_a_series_each_step_of_the_longest() -> None:
    series = Series(scale="none", gaps="mask")
    series.fit([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0]])
    found = originals(series, series.collate([series.read([5.0, float("nan"), 7.0]), series.read([1.0] * 6)]))
    none = torch.nan
    expected = torch.tensor([[5.0, none, 7, none], [1, 1, 1, 1]])
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert width_of(series) == 4


def test_of_a_recording_its_spectrum() -> None:
    audio = Audio(sample_rate=8000, seconds=0.4)
    wave = torch.sin(torch.arange(1600) * 2 * torch.pi * 1000 / 8000)  # 0.2 s of 1 kHz
    found = originals(audio, audio.collate([audio.read(wave.numpy())])).view(-1, 20)
    assert width_of(audio) == found.numel() == 11 * 20
    assert not found[:6].isnan().any()
    assert found[6:].isnan().all()
    assert (found[1:5].argmax(1) == found[1].argmax()).all()
    assert found[1:5].amax() > 2
    assert found[1:5, -3:].amax() < 0


def test_of_a_text_its_tokens() -> None:
    text = Text(max_length=6)
    found = originals(text, text.collate([text.read("ab"), text.read("abcdefgh")]))
    none = torch.nan
    torch.testing.assert_close(
        found, torch.tensor([[98.0, 99, none, none, none, none], [98, 99, 100, 101, 102, 103]]), equal_nan=True
    )
    assert (width_of(text), tokens_of(text)) == (6, 257)
    words = Text(encoder="hf:minilm", max_length=8)
    (row,) = originals(words, words.collate([words.read("to be")]))
    assert row.isnan().sum() == 8 - 2  # without [CLS] and [SEP]
    assert row[1:3].tolist() == words.numbers_of("to be")


@pytest.mark.parametrize(
    ("modality", "said"),
    [
        (Text(encoder="wordllama"), "tokens of wordllama are not said or guessed: those of transformer and hf:NAME"),
        (Image(freeze=True), "freeze: true"),
        (Image(pair="other"), "pairs"),
    ],
)
def test_what_cannot_be_decoded_says_why(modality: Modality, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        width_of(modality)
