"""Encoders of speech and of voices whose weights come as packages; both hear sound at 16 kHz."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clx.modalities.encoder import StepEncoder
from clx.modalities.packaged import packaged_file, wants_weights
from clx.modalities.pretrained import first_line
from clx.modalities.sequence import masked_pool

SPEECH, VOICE = "openwakeword", "resemblyzer"
RATE = 16_000
HOP = 160
WIDTHS = ((24, 24, (2, 2)), (48, 48, (1, 2)), (72, 72, (2, 2)), (96, 96, (1, 2)), (96, 96, (2, 2)))
"""Of the five stages of `SpeechEmbedding`: channels, and by what its maps of time and frequency are pooled after it."""


class SpeechEmbedding(StepEncoder):
    """Google's speech embedding (Lin et al. 2020, arXiv 2002.01322) as openwakeword has it: 96 features of each
    775 ms, every 80 ms; their mean and maximum over time. Waveforms `[N, S]` at 16 kHz -> `[N, 192]`.

    It is convolutions all along, so that a recording's features are those of its windows; shorter ones are padded.
    """

    group_worth = 8000
    window, stride, n_fft = 76, 8, 512

    real: Tensor
    imaginary: Tensor
    mel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.width = 192
        for name, shape in (("real", (257, 1, 512)), ("imaginary", (257, 1, 512)), ("mel", (257, 32))):
            self.register_buffer(name, torch.zeros(shape))
        convs = [nn.Conv2d(1, 24, 3, padding=(0, 1), bias=False)]
        inputs = 24
        for number, (width, _, _) in enumerate(WIDTHS):
            for k in range(2 if number == 0 else 4):
                across = k % 2 == 0
                convs.append(nn.Conv2d(inputs, width, (1, 3) if across else (3, 1), padding=(0, int(across))))
                inputs = width
        self.convs = nn.ModuleList([*convs, nn.Conv2d(96, 96, (3, 1), bias=False)])
        self.scale = nn.Parameter(torch.ones(24))
        self.shift = nn.Parameter(torch.zeros(24))

    def frames(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The log-mel frames `[N, F, 32]` of waveforms, every 10 ms, as it was trained on, and how many each has."""
        least = self.n_fft + HOP * (self.window - 1)
        x = F.pad(x.float() * mask, (0, max(0, least - x.shape[1]))) * 32767
        count = (mask.sum(1).clamp(min=least) - self.n_fft) // HOP + 1
        parts = (F.conv1d(x[:, None], part, stride=HOP).square() for part in (self.real, self.imaginary))
        power = (next(parts) + next(parts)).transpose(1, 2) @ self.mel
        level = 10 * power.clamp(min=1e-10).log10()
        there = torch.arange(level.shape[1], device=x.device) < count[:, None]
        loudest = level.masked_fill(~there[..., None], -torch.inf).amax((1, 2), keepdim=True)
        return torch.maximum(level, loudest - 80) / 10 + 2, count

    def steps(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features `[N, T, 96]` every 80 ms and their mask `[N, T]`."""
        with torch.autocast(x.device.type, enabled=False):
            h, count = self.frames(x, torch.ones_like(x, dtype=torch.bool) if mask is None else mask)
        h = self.convs[0](h[:, None]).relu() * self.scale[:, None, None] + self.shift[:, None, None]
        h, at = limited(h), 1
        for number, (_, _, pooled) in enumerate(WIDTHS):
            for conv in self.convs[at : (at := at + (2 if number == 0 else 4))]:
                h = limited(conv(h))
            h = F.max_pool2d(h, pooled)
        h = self.convs[-1](h)[..., 0].transpose(1, 2)
        return h, torch.arange(h.shape[1], device=x.device) <= ((count - self.window) // self.stride)[:, None]

    def pool(self, h: Tensor, mask: Tensor) -> Tensor:
        return masked_pool(h, mask)

    def load(self, embedding: Path, frames: Path) -> None:
        """The weights of openwakeword's two ONNX files, in the order in which their convolutions stand."""
        import onnx
        from onnx.numpy_helper import to_array

        def arrays(path: Path) -> tuple[Any, dict[str, Tensor]]:
            graph = onnx.load(str(path)).graph
            return graph, {each.name: torch.from_numpy(to_array(each).copy()) for each in graph.initializer}

        _, front = arrays(frames)
        graph, known = arrays(embedding)
        state = {"real": front["0.stft.conv_real.weight"], "imaginary": front["0.stft.conv_imag.weight"]}
        state["mel"] = front["1.melW"]
        for number, node in enumerate(node for node in graph.node if node.op_type == "Conv"):
            for part, name in zip(("weight", "bias"), node.input[1:], strict=False):
                state[f"convs.{number}.{part}"] = known[name]
        norm = next(node for node in graph.node if node.op_type == "BatchNormalization")
        scale, shift, mean, variance = (known[name] for name in norm.input[1:])
        state["scale"] = scale / (variance + norm.attribute[0].f).sqrt()
        state["shift"] = shift - mean * state["scale"]
        self.load_state_dict(state)

    def blocks(self) -> list[nn.Module]:
        """Each convolution, the scale of the first with it."""
        first = nn.Module()
        first.conv, first.scale, first.shift = self.convs[0], self.scale, self.shift
        return [first, *self.convs[1:]]


def limited(h: Tensor) -> Tensor:
    """Leaky rectifier of slope 0.2, not below -0.4."""
    return F.leaky_relu(h, 0.2).clamp(min=-0.4)


class VoiceEncoder(StepEncoder):
    """Resemblyzer's speaker encoder (Wan et al. 2018, arXiv 1710.10467): an LSTM over mel frames of each 1.6 s, every
    0.77 s; the mean of the unit rows. Waveforms `[N, S]` at 16 kHz -> unit rows `[N, 256]`.

    Quiet recordings are raised to -30 dB. Unlike the library it does not cut silence out.
    """

    group_worth = 8000
    window, stride, n_fft = 160, 77, 400

    filters: Tensor
    hann: Tensor

    def __init__(self) -> None:
        from torchaudio.functional import melscale_fbanks

        super().__init__()
        self.width = 256
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        with torch.device("cpu"):
            filters = melscale_fbanks(201, 0.0, RATE / 2, 40, RATE, norm="slaney", mel_scale="slaney")
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("hann", torch.hann_window(self.n_fft), persistent=False)

    def steps(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Unit rows `[N, T, 256]` of each window, and which are there `[N, T]`."""
        mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        with torch.autocast(x.device.type, enabled=False):
            x, length = x.float() * mask, mask.sum(1)
            level = (x.square().sum(1) / length.clamp(min=1)).sqrt()
            x = x * (10**-1.5 / level.clamp(min=1e-8)).clamp(min=1)[:, None]
            frames = -(-(length + 1) // HOP)
            more = (frames - self.window + self.stride + 1).clamp(min=1)
            count = -(-more // self.stride)
            last = (count - 1) * self.stride * HOP  # a last window that is covered by less than three quarters goes
            count = count - ((count > 1) & ((length - last) < 0.75 * self.window * HOP)).long()
            longest = int(count.max())
            x = F.pad(x, (0, max(0, ((longest - 1) * self.stride + self.window) * HOP - x.shape[1])))
            spectrum = torch.stft(
                x, self.n_fft, HOP, window=self.hann, pad_mode="constant", return_complex=True
            )  # [N, 201, F]
            mel = (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2) @ self.filters
        windows = mel.unfold(1, self.window, self.stride)[:, :longest].transpose(2, 3)  # [N, T, 160, 40]
        _, (hidden, _) = self.lstm(windows.flatten(0, 1).contiguous())
        rows = F.normalize(self.linear(hidden[-1]).relu(), dim=1).view(len(x), longest, -1)
        return rows, torch.arange(longest, device=x.device) < count[:, None]

    def pool(self, h: Tensor, mask: Tensor) -> Tensor:
        return F.normalize((h * mask[..., None]).sum(1), dim=1)


def packaged_audio(name: str, sample_rate: int, pretrained: bool | str | None, load: bool) -> StepEncoder:
    """The encoder with its package's weights, or random ones. Raises `ValueError`."""
    if sample_rate != RATE:
        raise ValueError(f"{name} wants sample_rate {RATE}, not {sample_rate}")
    made = SpeechEmbedding() if name == SPEECH else VoiceEncoder()
    if not wants_weights(name, pretrained, load):
        return made
    file = packaged_file(name)
    try:
        if isinstance(made, SpeechEmbedding):
            made.load(file, file.with_name("melspectrogram.onnx"))
        else:
            from safetensors.torch import load_file

            made.load_state_dict(load_file(converted(file)))
    except ImportError:
        raise ValueError(f"{name} wants the library onnx to read its weights: pip install '.[{name}]'") from None
    except Exception as error:  # damaged and foreign files fail in many ways
        raise ValueError(f"{file} does not hold weights of {name}: {first_line(error)}") from error
    return made


CONVERT = """
import sys, torch
from safetensors.torch import save_file
state = torch.load(sys.argv[1], map_location="cpu", weights_only=True)["model_state"]
save_file({k: v.contiguous() for k, v in state.items() if k.startswith(("lstm.", "linear."))}, sys.argv[2])
"""


def converted(pickled: Path) -> Path:
    """The same weights as safetensors, made once, by a process of its own that loads weights only and no other
    object; they lie below `$CLX_CACHE/weights` (`~/.cache/clx` where not set)."""
    about = pickled.stat()
    cache = Path(os.environ.get("CLX_CACHE") or Path.home() / ".cache/clx") / "weights"
    path = cache / f"{VOICE}-{about.st_size}-{about.st_mtime_ns}.safetensors"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        done = subprocess.run(
            [sys.executable, "-c", CONVERT, str(pickled), str(unfinished)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ValueError((done.stderr.strip() or "the conversion ended").splitlines()[-1])
        os.replace(unfinished, path)
    return path
