"""Encoders of sound: a log-mel front end with a CNN or a transformer behind it, and torchaudio's bundles."""

import math
import pickle
import socket
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clx.modalities.base import Encoder, StepEncoder
from clx.modalities.pretrained import cut_at, first_line, local_file
from clx.modalities.sequence import ConvolvedSteps, Layer, Step, masked_pool, positions

SPECTRUM = 1 << 24
"""Bytes of complex spectra at a time on a CPU."""


class LogMel(nn.Module):
    """Waveforms `[N, S]` with mask `[N, S]` -> `[N, T, mels]` every 10 ms and their mask `[N, T]`.

    In float32 whatever autocast says. Each clip is floored 80 dB below its loudest cell and brought to mean 0
    and deviation 1, so that the level of a recording does not matter. On a CPU few clips at a time: larger spectra
    leave the caches, and the memory for them is fetched anew for each.
    """

    filters: Tensor
    window: Tensor

    def __init__(self, sample_rate: int, mels: int) -> None:
        from torchaudio.functional import melscale_fbanks

        super().__init__()
        self.hop = max(1, round(0.010 * sample_rate))
        window = 2 ** max(6, round(math.log2(0.032 * sample_rate)))
        self.n_fft = window
        while 2 * sample_rate / self.n_fft > _narrowest_mel(sample_rate, mels):  # some filter would be empty
            self.n_fft *= 2
        with torch.device("cpu"):  # the filters are looked at, which a meta device cannot
            filters = melscale_fbanks(self.n_fft // 2 + 1, 0.0, sample_rate / 2, mels, sample_rate)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(window), persistent=False)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if x.device.type != "cpu" or torch.compiler.is_compiling():  # there the batch may be of any size
            return self._levels(x, mask)
        clips = max(1, SPECTRUM * self.hop // (4 * self.n_fft * max(1, x.shape[1])))
        parts = [self._levels(*both) for both in zip(x.split(clips), mask.split(clips), strict=True)]
        return torch.cat([level for level, _ in parts]), torch.cat([real for _, real in parts])

    def _levels(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.stft(
                x.float() * mask,
                self.n_fft,
                self.hop,
                win_length=len(self.window),
                window=self.window,
                pad_mode="constant",
                return_complex=True,
            )
            power = (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2) @ self.filters
            centres = torch.arange(power.shape[1], device=x.device) * self.hop
            real = centres <= mask.sum(1, keepdim=True)
            keep = real[..., None].float()
            peak = (power * keep).amax((1, 2), keepdim=True)
            level = torch.maximum(power, (peak * 1e-8).clamp_min(1e-10)).log()
            cells = keep.sum((1, 2), keepdim=True) * level.shape[2]
            level = (level - (level * keep).sum((1, 2), keepdim=True) / cells) * keep
            return level * (level.square().sum((1, 2), keepdim=True) / cells + 1e-5).rsqrt(), real


def _narrowest_mel(sample_rate: int, mels: int) -> float:
    """Width in Hz, foot to foot, of the lowest and so narrowest triangle of a mel filter bank."""
    step = math.log10(1 + sample_rate / 1400) / (mels + 1)
    return 700 * (10 ** (2 * step) - 1)


class MelCNN(ConvolvedSteps):
    """Four convolutions over log-mel frames, mean and maximum over time: waveforms `[N, S]` -> `[N, width]`."""

    group_worth = 8000

    def __init__(self, sample_rate: int, mels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.mel = LogMel(sample_rate, mels)
        narrow = max(8, 3 * width // 4)
        self.layers = nn.ModuleList(
            [
                Step(mels, narrow, 5, 2),
                Step(narrow, narrow, 3, 1),
                Step(narrow, width, 3, 2),
                Step(width, width, 3, 1),
            ]
        )
        self.out = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * width, width), nn.ReLU())

    def steps(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features `[N, T, width]` every 40 ms and their mask `[N, T]`."""
        x, mask = self.mel(x, torch.ones_like(x, dtype=torch.bool) if mask is None else mask)
        return self.convolved(x, mask)


class MelTransformer(StepEncoder):
    """Two strided convolutions over log-mel frames, then self-attention; mean and maximum over time.

    Waveforms `[N, S]` -> `[N, width]`.
    """

    group_worth = 8000

    def __init__(self, sample_rate: int, mels: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.mel = LogMel(sample_rate, mels)
        self.stem = nn.ModuleList([Step(mels, width, 5, 2), Step(width, width, 3, 2)])
        self.layers = nn.ModuleList(Layer(width, dropout) for _ in range(layers))
        self.out = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, width))

    def steps(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features `[N, T, width]` every 40 ms and their mask `[N, T]`."""
        x, mask = self.mel(x, torch.ones_like(x, dtype=torch.bool) if mask is None else mask)
        for block in self.stem:
            x, mask = block(x, mask)
        x = x + positions(x.shape[1], self.width, x.device)
        for layer in self.layers:
            x = layer(x, mask)
        return x, mask

    def pool(self, h: Tensor, mask: Tensor) -> Tensor:
        features: Tensor = self.out(masked_pool(h, mask))
        return features

    def blocks(self) -> list[nn.Module]:
        """The two convolutions, each layer, the part after pooling."""
        return [*self.stem, *self.layers, self.out]


class Bundle(Encoder):
    """A wav2vec2-family model of torchaudio: its last layer, averaged over time; waveforms `[N, S]` -> `[N, width]`.

    These models do not support padding (some normalise over time, WavLM takes no lengths), so rows of one length run
    together and nothing is ever padded: fix `seconds` to keep a batch whole.
    """

    def __init__(self, name: str, sample_rate: int, pretrained: str | None) -> None:
        from torchaudio import models, pipelines

        super().__init__()
        bundle = getattr(pipelines, name)
        if bundle.sample_rate != sample_rate:
            raise ValueError(f"torchaudio:{name} wants sample_rate {bundle.sample_rate:.0f}, not {sample_rate}")
        # Without weights a bundle offers no way to its architecture but these two fields.
        build = models.wavlm_model if bundle._model_type == "WavLM" else models.wav2vec2_model
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`?torch.nn.utils.weight_norm", FutureWarning)
            self.model = build(**{**bundle._params, "aux_num_out": None, "encoder_layer_drop": 0.0})
        self.standardise = bool(bundle._normalize_waveform)
        self.width = int(bundle._params["encoder_embed_dim"])
        if pretrained is not None:
            self._load(bundle, name, pretrained)

    def _load(self, bundle: Any, name: str, pretrained: str) -> None:
        path = None if pretrained == "true" else local_file(pretrained)
        if path is None and pretrained != "true":
            raise ValueError(f"torchaudio:{name} has no weights {pretrained!r}: give a file or `true`")
        patience = socket.getdefaulttimeout()
        socket.setdefaulttimeout(10)  # the download has no time limit of its own
        try:
            if path is None:
                weights = bundle._get_state_dict({"progress": False})
            else:
                weights = torch.load(path, map_location="cpu", weights_only=True)
            weights = {key: value for key, value in weights.items() if not key.startswith("aux.")}
            self.model.load_state_dict(weights)
        except OSError as error:
            raise ValueError(f"the weights of torchaudio:{name} cannot be fetched: {first_line(error)}") from error
        except (RuntimeError, AttributeError, pickle.UnpicklingError) as error:
            reason = first_line(error).rstrip(":")
            raise ValueError(f"{pretrained} does not hold weights of torchaudio:{name}: {reason}") from error
        finally:
            socket.setdefaulttimeout(patience)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Waveforms and mask `[N, S]` -> `[N, width]`."""
        lengths = torch.full(x.shape[:1], x.shape[1], device=x.device) if mask is None else mask.sum(1)
        features = x.new_zeros(len(x), self.width)
        for length in lengths.unique().tolist():
            rows = lengths == length
            waves = x[rows, :length]
            if self.standardise:
                waves = F.layer_norm(waves, waves.shape[1:])
            waves = F.pad(waves, (0, max(0, 400 - length)))  # 25 ms, what one frame sees
            features = features.masked_scatter(rows[:, None], self.model(waves)[0].mean(1).to(features.dtype))
        return features

    def blocks(self) -> list[nn.Module]:
        """Convolutions, then each transformer layer, the last norm with the last."""
        return cut_at(self, r"transformer\.layers", r"^$")


def bundle_names() -> list[str]:
    """Bundles of this torchaudio that are built like wav2vec2."""
    from torchaudio import pipelines

    return [name for name in dir(pipelines) if isinstance(getattr(pipelines, name), pipelines.Wav2Vec2Bundle)]
