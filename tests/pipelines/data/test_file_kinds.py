"""What files are by their first bytes, beside what the decoders make of them."""

import io

import numpy as np
import pytest
import soundfile
from PIL import Image

from clx.pipelines.data.file_kinds import kind_of_bytes, kinds_of, looked_at, why_unread_bytes


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF"])
def test_images(kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind)
    assert kind_of_bytes(buffer.getvalue()) == "image"


@pytest.mark.parametrize("rate", [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000])
def test_mp3_frames_of_every_version(rate: int) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(rate // 2), rate, format="MP3")
    assert buffer.getvalue()[0] == 0xFF  # no ID3 before the first frame
    assert kind_of_bytes(buffer.getvalue()) == "audio"


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "AIFF", "AU", "CAF", "W64", "RF64", "VOC", "NIST"])
def test_sound(kind: str) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(4000), 8000, format=kind)
    assert kind_of_bytes(buffer.getvalue()) == "audio"


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"",
            b"a",
            b"a,b\n1,2\n",
            b"\xff\xfea\0,\0b\0",
            b"\xff\xff\xff\xff",
            b"\xff\xf1\x50\x80",
            b"P",
            b"BM but words",
        ),
        *(b"FORM of words", b"RIFF1234AVI ", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"PAR1"),
    ],
)
def test_neither(content: bytes) -> None:
    assert kind_of_bytes(content) is None


def test_what_is_not_read_is_named() -> None:
    assert str(why_unread_bytes(b"\0\0\0\x18ftypheix\0\0\0\0mif1")).startswith("HEIC is not read")
    assert str(why_unread_bytes(b"\xff\xf1\x50\x80")).startswith("AAC is not read")
    assert why_unread_bytes(b"a,b\n") is None


def test_of_many_files_alike_few_are_opened(tmp_path, monkeypatch) -> None:
    from clx.pipelines.data import file_kinds

    names = [f"{i}" for i in range(1000)]
    for name in names:
        (tmp_path / name).write_bytes(b"\xff\xd8\xff\xe0")
    opened = []
    before = file_kinds.head_of
    monkeypatch.setattr(file_kinds, "head_of", lambda path: opened.append(path) or before(path))
    assert kinds_of(str(tmp_path), names) == dict.fromkeys(names, "image")
    assert len(opened) <= 67
    (tmp_path / "0").write_bytes(b"words")  # among those that are looked at: all are
    assert kinds_of(str(tmp_path), names) == dict.fromkeys(names[1:], "image")
    assert looked_at(str(tmp_path / "0")) == (None, None)
