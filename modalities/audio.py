"""Audio: wav, flac, ogg and mp3 files, or samples as numbers."""

import io
import math
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Interval, MultipleOf
from numpy.typing import NDArray
from torch import Tensor

from clx.modalities.audio_encoders import Bundle, MelCNN, MelTransformer, bundle_names
from clx.modalities.audio_packaged import SPEECH, VOICE, packaged_audio
from clx.modalities.base import CellError, Encoder, Input, Modality, Several, register, unknown_encoder
from clx.modalities.draws import Draws
from clx.modalities.files import foreign, missing_bytes, open_file, sound_in
from clx.modalities.resampling import resampled

LONGEST = (30.0, 120.0)
"""Seconds of a file that are read when it is not said: at least, and at most."""
CUT = 0.01
"""Share of the training recordings that may be cut by a length that follows from them."""
HIGHEST_RATE = 1_000_000
MOST_CHANNELS = 64
HIGHEST = 1e10
"""Largest sample value: far above any scale of integers, far below where the mean overflows."""
EXTENSIONS = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64"}


@register
@dataclass(kw_only=True)
class Audio(Modality):
    """Sound as one channel. A sample is a float waveform `[S]` at `sample_rate` Hz, in the range -1 to 1.

    A batch is `x` `[N, S]` with `mask` `[N, S]`, True where there is sound.
    """

    kind: ClassVar[str] = "audio"
    default_encoder: ClassVar[str] = "mel-cnn"
    takes_several: ClassVar[bool] = True
    files: ClassVar[bool] = True
    fit_rows: ClassVar[int] = 1000
    read_by: ClassVar[tuple[str, ...]] = ("sample_rate", "max_seconds")
    only_for: ClassVar[dict[str, tuple[str, ...]]] = {
        "layers": ("mel-transformer",),
        **dict.fromkeys(("mels", "width", "dropout"), ("mel-cnn", "mel-transformer")),
    }

    sample_rate: Annotated[int, Interval(ge=1000, le=192_000)] = 16_000
    """Hz, of what the encoder hears; numbers in place of a file are taken to have it already."""
    seconds: Annotated[float, Ge(0.02)] | None = None
    """Length the encoder hears: a random window of longer clips in training, the middle one otherwise; shorter
    ones are padded. Whole clips when not given."""
    max_seconds: Annotated[float, Gt(0)] | None = None
    """How many seconds of a file are read, from its beginning: one long recording must not fill the memory. At least
    30, and up to 120 so that at most 1 % of the training recordings are cut, when not given."""
    mels: Annotated[int, Interval(ge=8, le=256)] = 64
    """Frequency bands of the `mel-` encoders."""
    width: Annotated[int, Ge(32), MultipleOf(32)] = 128
    """Features of the `mel-` encoders."""
    layers: Annotated[int, Ge(1)] = 3
    """Layers of `mel-transformer`."""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """Dropout of the `mel-` encoders."""
    several: Several = "mean"
    """Of the recordings in a cell that is a list: the `mean` of their features, or `one` drawn for a row and epoch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._longest = LONGEST[0]

    def fit(self, cells: Iterable[Any]) -> None:
        """How many seconds are read, where it is not said, from the lengths of the recordings."""
        if self.max_seconds is None:
            lengths = sorted(length for cell in cells if (length := self._length(cell)) is not None)
            if lengths:
                most = lengths[math.ceil((1 - CUT) * len(lengths)) - 1]
                self._longest = float(min(max(LONGEST[0], math.ceil(most)), LONGEST[1]))

    def state(self) -> dict[str, Any]:
        """What `fit` found, where it is not the least."""
        return {"longest": self._longest} if self._longest != LONGEST[0] else {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` gave."""
        self._longest = state.get("longest", LONGEST[0])

    @property
    def longest(self) -> float:
        """Seconds of a file that are read."""
        return self.max_seconds or self._longest

    def understood(self) -> list[str]:
        if self._longest == LONGEST[0]:
            return []
        return [f"recordings are read up to {self._longest:g} seconds; max_seconds sets another length"]

    @property
    def limit(self) -> str:
        return f"{self.longest:g} seconds (max_seconds)"

    def cut(self, cell: Any) -> bool:
        length = self._length(cell)
        return length is not None and length > self.longest

    def _length(self, cell: Any) -> float | None:
        """Seconds of a recording, from its header alone; None where it cannot be read."""
        try:
            if not isinstance(cell, (str, Path, bytes)):
                return len(cell) / self.sample_rate
            frames, rate = sound_in(Path(cell) if isinstance(cell, str) else cell)
            return frames / rate
        except (CellError, RuntimeError, OSError, TypeError, ZeroDivisionError):
            return None

    def read(self, cell: Any) -> Tensor:
        """The waveform of a file (a path or its bytes), or of numbers `[S]` or `[S, channels]`."""
        if isinstance(cell, (str, Path, bytes)):
            wave, rate = _decode(Path(cell) if isinstance(cell, str) else cell, self.longest)
        else:
            wave, rate = _numbers(cell)[: round(self.longest * self.sample_rate)], self.sample_rate
        if len(wave) < 0.01 * rate:
            raise CellError(f"{len(wave)} sample{'s' * (len(wave) != 1)} is too short (0.01 s at least)")
        if not np.isfinite(wave).all():
            raise CellError("NaN or infinite samples")
        if np.abs(wave).max() > HIGHEST:
            raise CellError(f"samples of up to {np.abs(wave).max():.2g}: sound lies between -1 and 1")
        mono = torch.from_numpy(wave.mean(1) if wave.ndim == 2 else wave)
        if rate != self.sample_rate:
            mono = resampled(mono, rate, self.sample_rate)
        return mono

    def augment(self, samples: list[Tensor], draws: Draws) -> list[Tensor]:
        """Another window, level, tone colour and noise.

        Mild: window of `seconds` (else up to 50 ms cut from each end), +-6 dB, noise 15 to 40 dB below the
        clip, a tilt of the spectrum. Strong: up to a quarter cut from each end, +-12 dB, noise 0 to 30 dB
        below, a steeper tilt, a tenth of the clip silenced.
        """
        if self.augmentation == "none":
            return samples
        strong = self.augmentation == "strong"
        n = len(samples)
        start, end, gain, noise, tilt, hole = draws.rand(6).unbind(1)
        lengths = torch.tensor([len(sample) for sample in samples])
        window = self._window(lengths)
        spare = lengths - window
        edge = (lengths * 0.25 if strong else (lengths * 0.1).clamp_max(0.05 * self.sample_rate)) * (spare == 0)
        first = (start * torch.where(spare > 0, spare + 1, edge)).long()
        last = torch.where(spare > 0, first + window, lengths - (end * edge).long())
        ends = zip(samples, first.tolist(), last.tolist(), strict=True)
        kept = last - first
        x = torch.cat(
            [sample[a:b] for sample, a, b in ends]
        )  # end to end: clips of one batch may differ much in length
        owner = torch.repeat_interleave(kept)
        level = (torch.zeros(n).index_add_(0, owner, x.square()) / kept).sqrt()
        decibels = noise * (30 if strong else 25) + (0 if strong else 15)
        x = x + draws.noise(kept.tolist()) * (level * 10 ** (-decibels / 20))[owner]
        before = x.roll(1)
        before[kept.cumsum(0) - kept] = 0
        x = x + before * ((tilt * 2 - 1) * (0.6 if strong else 0.3))[owner]
        x *= (10 ** ((gain * 2 - 1) * (12 if strong else 6) / 20))[owner]
        views = list(x.split(kept.tolist()))
        if strong:
            for view, place in zip(views, hole.tolist(), strict=True):
                silent = int(place * 0.9 * len(view))
                view[silent : silent + len(view) // 10] = 0
        return views

    def collate(self, samples: Sequence[Tensor]) -> Input:
        """`x` `[N, S]` and `mask` `[N, S]`; every row has `seconds` when they are given."""
        lengths = torch.tensor([len(sample) for sample in samples])
        window = self._window(lengths)
        first = ((lengths - window) // 2).tolist()
        cut = [s[a : a + w] for s, a, w in zip(samples, first, window.tolist(), strict=True)]
        x, mask = _pad(cut, 0 if self.seconds is None else round(self.seconds * self.sample_rate))
        return {"x": x, "mask": mask}

    def _window(self, lengths: Tensor) -> Tensor:
        """How many samples of each clip `[N]` the encoder hears."""
        return lengths if self.seconds is None else lengths.clamp_max(round(self.seconds * self.sample_rate))

    def build_encoder(self, load: bool = True) -> Encoder:
        """The encoder by its name; without `load` the architecture alone, for weights that come from a run."""
        family, _, name = self.encoder.partition(":")
        if family == "torchaudio" and self.encoder in self.family(family):
            return Bundle(name, self.sample_rate, self.weights if load else None)
        if self.encoder in (SPEECH, VOICE):
            return packaged_audio(self.encoder, self.sample_rate, self.pretrained, load)
        if self.encoder not in ("mel-cnn", "mel-transformer"):
            raise unknown_encoder(type(self), self.encoder)
        if self.weights and load:
            raise ValueError(f"encoder `{self.encoder}` has no pretrained weights")
        if self.encoder == "mel-cnn":
            return MelCNN(self.sample_rate, self.mels, self.width, self.dropout)
        return MelTransformer(self.sample_rate, self.mels, self.width, self.layers, self.dropout)

    @classmethod
    def encoders(cls) -> dict[str, str]:
        """Names with a description."""
        return {
            "mel-cnn": "log-mel and four convolutions over time; `mels`, `width`, `dropout`",
            "mel-transformer": "log-mel and self-attention; `mels`, `width`, `layers`, `dropout`",
            SPEECH: "what is said, 96 features every 80 ms; weights from a package, NON-COMMERCIAL (CC BY-NC-SA 4.0)",
            VOICE: "whose voice it is; weights from a package",
            "torchaudio:NAME": "wav2vec2, HuBERT or WavLM; `pretrained`: true (download) or a file",
        }

    @classmethod
    def family(cls, prefix: str) -> list[str]:
        """Full names of torchaudio's bundles."""
        return [f"torchaudio:{name}" for name in bundle_names()] if prefix == "torchaudio" else []


def _decode(source: Path | bytes, max_seconds: float) -> tuple[NDArray[np.float32], int]:
    """The first `max_seconds` of a file, `[S, channels]`, and its rate in Hz."""
    import soundfile

    if source == b"":
        raise CellError("zero bytes")
    with _Bytes(source) if isinstance(source, bytes) else open_file(source, sys.maxsize) as raw:
        size = raw.seek(0, io.SEEK_END)
        raw.seek(0)
        if missing := missing_bytes(raw, size):
            raise CellError(f"truncated WAV: {missing} bytes are missing")
        try:
            with soundfile.SoundFile(raw if isinstance(source, bytes) else _rewound(raw), closefd=False) as file:
                if file.samplerate > HIGHEST_RATE or file.channels > MOST_CHANNELS:
                    raise CellError(f"{file.samplerate} Hz and {file.channels} channels: no recording has so many")
                wanted = min(file.frames, round(max_seconds * file.samplerate))
                wave = file.read(wanted, dtype="float32", always_2d=True)
                if len(wave) < wanted:
                    raise CellError(f"truncated {file.format}: {len(wave)} of {wanted} samples")
                return wave, int(file.samplerate)
        except soundfile.LibsndfileError as error:
            raw.seek(0)
            if (known := foreign(raw.read(512))) is not None:
                raise CellError(known) from error
            suffix = source.suffix.lower() if isinstance(source, Path) else ""
            if suffix and suffix not in EXTENSIONS:
                raise CellError(f"unknown extension {suffix}") from error
            reason = error.error_string.rstrip(".").removeprefix("Error : ").lower()
            raise CellError(f"not readable as audio: {reason}"[:88]) from error


class _Bytes(io.BytesIO):
    """A damaged header may make libsndfile seek before the beginning: it goes to the beginning, without a traceback."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OSError):
            return super().seek(0)


def _rewound(raw: BinaryIO) -> int:
    """The number of the open file, at its beginning, so that libsndfile reads it without calling Python."""
    os.lseek(raw.fileno(), 0, os.SEEK_SET)
    return raw.fileno()


def _numbers(cell: Any) -> NDArray[np.float32]:
    """Samples from an array or a list; integers are scaled by their type's range."""
    try:
        wave = np.asarray(cell)
        scale = -np.iinfo(wave.dtype).min if wave.dtype in (np.int16, np.int32) else 1  # what files are divided by
        wave = np.ascontiguousarray(wave, dtype=np.float32) / np.float32(scale)
    except (TypeError, ValueError) as error:
        raise CellError("not a list of numbers") from error
    if wave.ndim not in (1, 2):
        raise CellError(f"samples of {wave.ndim} dimensions: 1, or 2 with channels last, are understood")
    return wave


def _pad(waves: Sequence[Tensor], at_least: int = 0) -> tuple[Tensor, Tensor]:
    """`[N, S]`, zero after each end, and its mask."""
    x = torch.zeros(len(waves), max(at_least, *(len(wave) for wave in waves), 0))
    for row, wave in zip(x, waves, strict=True):
        row[: len(wave)] = wave
    return x, torch.arange(x.shape[1]) < torch.tensor([len(wave) for wave in waves])[:, None]
