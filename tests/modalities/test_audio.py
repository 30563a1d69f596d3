"""Reading sound, what augmentation may change, and the encoders of it."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from clx.modalities import audio_encoders
from clx.modalities.audio import Audio
from clx.modalities.audio_encoders import Bundle, LogMel
from clx.modalities.base import CellError
from clx.modalities.draws import Draws

RATE = 8000
TONE = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE).astype(np.float32) / 2


def written(form: str, wave: Any = TONE, rate: int = RATE) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, wave, rate, format=form)
    return stream.getvalue()


def pitch(wave: torch.Tensor, rate: int) -> float:
    return float(torch.fft.rfft(wave).abs().argmax()) * rate / len(wave)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_file_and_its_bytes_read_alike(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"tone.{form.lower()}"
    path.write_bytes(written(form))
    modality = Audio(sample_rate=RATE)
    wave = modality.read(path)
    assert torch.equal(wave, modality.read(path.read_bytes()))
    assert abs(pitch(wave[:RATE], RATE) - 440) < 10
    assert wave.abs().max() == pytest.approx(0.5, abs=0.05)


def test_two_channels_become_one_and_the_rate_the_wanted_one() -> None:
    stereo = np.stack([TONE, np.zeros_like(TONE)], 1)
    wave = Audio(sample_rate=16_000).read(written("WAV", stereo))
    assert wave.shape == (16_000,)
    assert abs(pitch(wave, 16_000) - 440) < 2
    assert wave[100:-100].abs().max() == pytest.approx(0.25, abs=0.01)


def test_numbers_are_samples() -> None:
    modality = Audio(sample_rate=RATE)
    torch.testing.assert_close(modality.read(TONE.tolist()), torch.from_numpy(TONE))
    integers = (TONE * 32767).astype(np.int16)
    torch.testing.assert_close(modality.read(integers), torch.from_numpy(TONE), atol=1e-4, rtol=0)
    file = io.BytesIO()
    soundfile.write(file, integers, RATE, format="WAV", subtype="PCM_16")
    assert torch.equal(modality.read(integers), modality.read(file.getvalue()))


def test_only_the_beginning_of_a_long_file_is_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.flac", np.tile(TONE, 60), RATE)
    assert len(Audio(sample_rate=RATE, max_seconds=2).read(tmp_path / "long.flac")) == 2 * RATE


BAD = {
    "zero bytes": b"",
    "truncated WAV: 8000 bytes are missing": written("WAV")[:-8000],
    "not readable as audio: flac decoder lost sync": written("FLAC")[:-3000],
    r"1 sample is too short": written("WAV", TONE[:1]),
    "not readable as audio": b"this is no sound",
    "NaN or infinite": [float("nan")] * 1000,
    "not a list of numbers": ["a", "b"],
    "3 dimensions": np.zeros((200, 2, 2)),
}


@pytest.mark.parametrize("reason", BAD)
def test_unreadable_sound_says_why(reason: str) -> None:
    with pytest.raises(CellError, match=reason):
        Audio(sample_rate=RATE).read(BAD[reason])


def test_a_path_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("nothing")
    with pytest.raises(CellError, match=r"^unknown extension \.xyz$"):
        Audio().read(tmp_path / "a.xyz")
    with pytest.raises(CellError, match="^no such file$"):
        Audio().read(tmp_path / "b.wav")


def test_a_wav_written_to_a_pipe_is_whole() -> None:
    content = bytearray(written("WAV"))
    content[40:44] = b"\xff\xff\xff\xff"
    assert len(Audio(sample_rate=RATE).read(bytes(content))) == RATE


def test_seconds_crop_in_the_middle_or_pad() -> None:
    modality = Audio(sample_rate=RATE, seconds=0.5)
    ramp, short = torch.arange(RATE).float(), torch.ones(1000)
    batch = modality.collate([ramp, short])
    assert torch.equal(batch["x"][0], ramp[2000:6000])
    assert batch["mask"].sum(1).tolist() == [4000, 1000]
    assert modality.collate([short])["x"].shape == (1, 4000)
    windows = {len(view) for view in modality.augment([ramp] * 8, Draws.seeded(0, 8))}
    assert windows == {4000}
    quiet = Audio(sample_rate=RATE, seconds=0.5, augmentation="none")
    assert torch.equal(quiet.collate(quiet.augment([ramp], Draws.seeded(0, 1)))["x"][0], ramp[2000:6000])


def test_mild_augmentation_keeps_the_sound() -> None:
    for view in Audio(sample_rate=RATE).augment([torch.from_numpy(TONE)] * 20, Draws.seeded(0, 20)):
        assert len(view) >= 0.89 * RATE
        assert abs(pitch(view, RATE) - 440) < 2


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("mels", [40, 64, 128])
def test_no_mel_filter_is_empty(rate: int, mels: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (LogMel(rate, mels).filters.amax(0) > 0).all()


@pytest.mark.parametrize(("rate", "seconds"), [(8000, 0.2), (48_000, 10.0)])
@pytest.mark.parametrize("encoder", ["mel-cnn", "mel-transformer"])
def test_from_a_click_to_ten_seconds(encoder: str, rate: int, seconds: float) -> None:
    net = Audio(encoder=encoder, sample_rate=rate, width=32).build_encoder().eval()
    wave = torch.randn(1, round(rate * seconds), generator=generator())
    assert net(wave).isfinite().all()
    assert net(torch.zeros_like(wave)).isfinite().all(), "silence"
    torch.testing.assert_close(net(wave), net(wave * 0.01), rtol=0, atol=1e-2)


def test_half_precision_leaves_the_spectrum_alone() -> None:
    net = Audio(sample_rate=RATE, width=32).build_encoder().eval()
    wave = torch.randn(2, RATE, generator=generator())
    with torch.autocast("cpu", torch.bfloat16):
        assert net.mel(wave, torch.ones(2, RATE, dtype=torch.bool))[0].dtype == torch.float32  # type: ignore[operator]
        assert net(wave).isfinite().all()


@pytest.mark.parametrize("encoder", ["mel-cnn", "mel-transformer"])
def test_padding_changes_nothing(encoder: str) -> None:
    modality = Audio(encoder=encoder, sample_rate=RATE, width=32, dropout=0)
    net = modality.build_encoder().train()
    short, long = torch.randn(1501, generator=generator()), torch.randn(9000, generator=generator(1)) * 50
    together = net(**modality.collate([short, long]))[0]
    torch.testing.assert_close(together, net(short[None])[0], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def small_bundles() -> Any:
    """torchaudio's bundles with two narrow layers, so that a test can build them."""
    from torchaudio import pipelines

    small = {"encoder_num_layers": 2, "encoder_embed_dim": 32, "encoder_num_heads": 2, "encoder_ff_interm_features": 32}
    before = {name: getattr(pipelines, name)._params for name in ("WAV2VEC2_BASE", "HUBERT_LARGE", "WAVLM_BASE")}
    for name, params in before.items():
        getattr(pipelines, name)._params = params | small
    yield list(before)
    for name, params in before.items():
        getattr(pipelines, name)._params = params


@pytest.mark.parametrize("name", ["WAV2VEC2_BASE", "HUBERT_LARGE", "WAVLM_BASE"])
def test_bundles_pad_nothing_and_reload(name: str, small_bundles: Any, tmp_path: Path) -> None:
    modality = Audio(encoder=f"torchaudio:{name}")
    net = modality.build_encoder().eval()
    assert isinstance(net, Bundle)
    waves = [torch.randn(n, generator=generator(n)) for n in (4000, 300, 6000)]
    together = net(**modality.collate(waves))
    torch.testing.assert_close(together, torch.cat([net(wave[None]) for wave in waves]), rtol=1e-4, atol=1e-5)
    held = {id(p) for block in net.blocks() for p in block.parameters()}
    assert held == {id(p) for p in net.parameters()}
    assert len(net.blocks()) >= 3
    path = tmp_path / "weights.pt"
    torch.save(net.model.state_dict(), path)
    again = Audio(encoder=f"torchaudio:{name}", pretrained=str(path)).build_encoder().eval()
    torch.testing.assert_close(again(waves[0][None]), together[:1], rtol=1e-4, atol=1e-5)


def test_bundles_refuse_in_one_line(small_bundles: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = "torchaudio:WAV2VEC2_BASE"
    (tmp_path / "bad.pt").write_text("no weights")

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.urlopen", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("wants sample_rate 16000, not 8000", {"encoder": base, "sample_rate": 8000}),
        ("no checkpoint file", {"encoder": base, "pretrained": "missing.pt"}),
        ("give a file or `true`", {"encoder": base, "pretrained": "laion"}),
        ("does not hold weights", {"encoder": base, "pretrained": str(tmp_path / "bad.pt")}),
        ("cannot be fetched: no network", {"encoder": base, "pretrained": True}),
        ("nearest is 'torchaudio:WAV2VEC2_BASE'", {"encoder": "torchaudio:WAV2VEC_BASE"}),
        ("has no pretrained weights", {"encoder": "mel-cnn", "pretrained": "x"}),
    ]
    for reason, config in wrong:
        with pytest.raises(ValueError, match=reason) as error:
            Audio(**config).build_encoder()
        assert "\n" not in str(error.value)


def test_length_follows_from_the_training_recordings() -> None:
    """One cell in a hundred may be cut; a minute is read whole, an hour is not."""
    audio = Audio(sample_rate=1000)
    assert (audio.longest, audio.state()) == (30, {})
    minute, long = np.zeros(60_500, np.float32), np.zeros(200_000, np.float32)
    audio.fit([minute] * 100 + [long])
    assert audio.longest == 61
    assert [audio.cut(cell) for cell in (minute, long)] == [False, True]
    assert len(audio.read(minute)) == 60_500
    again = Audio(sample_rate=1000)
    again.load_state(audio.state())
    assert again.longest == 61
    audio.fit([long])
    assert audio.longest == 120
    assert len(audio.read(long)) == 120_000
    given = Audio(sample_rate=1000, max_seconds=2)
    given.fit([long])
    assert (given.longest, given.state()) == (2, {})


def test_spectra_of_clips_at_a_time_are_those_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, mask = torch.randn(5, 4000), torch.arange(4000) < torch.tensor([[4000], [900], [4000], [2500], [3000]])
    front, levels, seen = LogMel(8000, 16), LogMel._levels, list[int]()
    whole = front(x, mask)
    monkeypatch.setattr(audio_encoders, "SPECTRUM", 1)
    monkeypatch.setattr(LogMel, "_levels", lambda self, x, mask: seen.append(len(x)) or levels(self, x, mask))
    for a, b in zip(front(x, mask), whole, strict=True):
        torch.testing.assert_close(a, b)
    assert seen == [1] * 5
