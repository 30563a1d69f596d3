"""Encoders of time series: a small strided TCN, TS2Vec's dilated one, and the architectures of tsai by name."""

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clx.modalities.base import Encoder, StepEncoder
from clx.modalities.sequence import ConvolvedSteps, Step

_FILES = {
    "ConvTranPlus": "ConvTranPlus",
    "FCN": "FCN",
    "FCNPlus": "FCNPlus",
    "InceptionTime": "InceptionTime",
    "InceptionTimePlus": "InceptionTimePlus",
    "MLP": "MLP",
    "OmniScaleCNN": "OmniScaleCNN",
    "PatchTST": "PatchTST",
    "RNNPlus": "RNNPlus LSTMPlus GRUPlus",
    "RNN_FCNPlus": "RNN_FCNPlus LSTM_FCNPlus GRU_FCNPlus",
    "ResCNN": "ResCNN",
    "ResNet": "ResNet",
    "ResNetPlus": "ResNetPlus",
    "TCN": "TCN",
    "TST": "TST",
    "TSTPlus": "TSTPlus",
    "TSiTPlus": "TSiTPlus",
    "XCM": "XCM",
    "XCMPlus": "XCMPlus",
    "XResNet1dPlus": "xresnet1d18plus xresnet1d34plus xresnet1d50plus",
    "XceptionTime": "XceptionTime",
    "XceptionTimePlus": "XceptionTimePlus",
    "gMLP": "gMLP",
}
TSAI = {name: file for file, names in _FILES.items() for name in names.split()}
"""tsai's architectures by name, with their file in `tsai.models`.

Left out are those whose rows depend on the rest of the batch even in evaluation (TSSequencerPlus, XCoordTime,
TransformerLSTMPlus and its like), and those that leave weights unused (mWDN).
"""


class TCN(ConvolvedSteps):
    """A strided convolution, then dilated ones (1, 3, 9, ...), mean and maximum over time.

    Series `[N, T, C]` -> `[N, width]`.
    """

    def __init__(self, channels: int, length: int, width: int, layers: int, dropout: float) -> None:
        """`length`: of the longest training series; from 64 steps on, every 2nd to 16th is kept."""
        super().__init__()
        self.width = width
        stride = min(16, 2 ** max(0, (length // 32).bit_length() - 1))
        hidden = width // 2
        steps = [Step(channels, hidden, 2 * stride + 1, stride)]
        steps += [Step(hidden, hidden, 3, 1, 3**i) for i in range(layers)]
        self.layers = nn.ModuleList(steps)
        self.out = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * hidden, width), nn.ReLU())

    def steps(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features `[N, T / stride, width / 2]` and their mask."""
        mask = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        return self.convolved(x * mask[..., None], mask)


class Dilated(StepEncoder):
    """TS2Vec's encoder: a linear map of each step, then residual blocks of two convolutions of dilation 1, 2, 4, ...

    Every step keeps its features `[N, T, width]`; those of a series `[N, width]` are their maximum over time, or those
    of its last step.
    """

    group_worth = 256

    def __init__(
        self, channels: int, width: int, layers: int, dropout: float, pool: Literal["max", "last"] = "max"
    ) -> None:
        super().__init__()
        self.width = width
        self.pooled = pool
        hidden = max(8, width // 4)
        self.input = nn.Linear(channels, hidden)
        sizes = [hidden] * (layers + 1) + [width]
        self.layers = nn.ModuleList(Residual(sizes[i], sizes[i + 1], 2**i) for i in range(layers + 1))
        self.dropout = nn.Dropout(dropout)

    def steps(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features `[N, T, width]` and their mask."""
        mask = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        real = mask[:, None]
        h = self.input(x).transpose(1, 2) * real
        for layer in self.layers:
            h = layer(h, real)
        return self.dropout(h.transpose(1, 2)), mask

    def pool(self, h: Tensor, mask: Tensor) -> Tensor:
        if self.pooled == "last":
            return last_step(h, mask)[:, 0]
        return h.masked_fill(~mask[..., None], -torch.inf).amax(1)

    def blocks(self) -> list[nn.Module]:
        """The input map, each residual block."""
        return [self.input, *self.layers]


class Residual(nn.Module):
    """Two dilated convolutions, each after a GELU, added to their input `[N, C, T]`."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(inputs, outputs, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv1d(outputs, outputs, 3, padding=dilation, dilation=dilation)
        self.past = nn.Identity() if inputs == outputs else nn.Conv1d(inputs, outputs, 1)

    def forward(self, h: Tensor, real: Tensor) -> Tensor:
        """`[N, C, T]` and `[N, 1, T]`, True where there is a step; features are 0 elsewhere."""
        y = dilated(self.first, F.gelu(h)) * real
        y = dilated(self.second, F.gelu(y))
        out: Tensor = (y + self.past(h)) * real
        return out


def dilated(layer: nn.Conv1d, h: Tensor) -> Tensor:
    """`layer`, three taps wide, on `[N, C, T]`; in a series shorter than its reach only the middle one counts."""
    if torch.compiler.is_compiling() or layer.dilation[0] < h.shape[2]:  # a graph is to hold for any length
        return layer(h)  # type: ignore[no-any-return]
    return F.conv1d(h, layer.weight[:, :, 1:2], layer.bias)


def last_step(h: Tensor, mask: Tensor) -> Tensor:
    """The last step `[N, 1, C]` of `h` `[N, T, C]` where `mask` `[N, T]` is True."""
    last = mask.shape[1] - 1 - mask.flip(1).byte().argmax(1)
    return h[torch.arange(len(h), device=h.device), last][:, None]


class Tsai(Encoder):
    """An architecture of tsai with default settings; the layer that would give classes gives the features `[N, width]`.

    These take no masks: every series is cut or zero-padded to `length` steps, so that a row's features do not
    depend on its neighbours. PatchTST sees each channel alone; its features are the mean over channels.
    """

    def __init__(self, name: str, channels: int, length: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.length = length
        with warnings.catch_warnings():  # tsai and fastai use much that torch calls deprecated
            warnings.simplefilter("ignore")
            architecture = getattr(import_module(f"tsai.models.{TSAI[name]}"), name)
            options = {"c_in": channels, "c_out": width}
            if "seq_len" in inspect.signature(architecture).parameters or TSAI[name] == "XResNet1dPlus":
                options["seq_len"] = length
            if name == "PatchTST":
                options |= {"pred_dim": width, "revin": False}
            self.model = architecture(**options)
        for part, parameter in self.model.named_parameters():
            if part.endswith(("cls_token", "revin_layer.weight", "revin_layer.bias")):  # tsai leaves them unused
                parameter.requires_grad = False

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Series `[N, T, C]` and mask `[N, T]` -> `[N, width]`."""
        features: Tensor = self.model(_to_length(x, mask, self.length))
        return features.mean(1) if features.ndim == 3 else features

    def blocks(self) -> list[nn.Module]:
        """The model's parts in their order, where they hold every parameter; else the model as one."""
        parts = [part for part in self.model.children() if any(True for _ in part.parameters())]
        held = sum(p.numel() for part in parts for p in part.parameters())
        return parts if held == sum(p.numel() for p in self.model.parameters()) else [self.model]


class MiniRocket(Encoder):
    """Features `[N, width]`, 0 to 1: the share of time in which a fixed random convolution exceeds a fitted bias.

    Nothing in it learns by gradient.

    Dempster et al. 2021, arXiv 2012.08791, as tsai has it. As with `Tsai`, series are cut or zero-padded.
    """

    def __init__(self, channels: int, length: int, width: int, biases: list[list[float]] | None = None) -> None:
        """`biases`: what `fit` returned for these sizes; random weights do not exist."""
        super().__init__()
        from tsai.models.MINIROCKET_Pytorch import MiniRocketFeatures

        if width % 84:
            near = max(1, round(width / 84)) * 84
            raise ValueError(f"minirocket has a multiple of 84 features: set width to {near}, or 9996 as in its paper")
        self.width = width
        self.length = max(length, 10)  # a kernel has 9 steps
        with _numpy_random_kept():
            self.features = MiniRocketFeatures(channels, self.length, width, random_state=0)
        for i, values in enumerate(biases or []):
            self.features.get_buffer(f"biases_{i}").copy_(torch.tensor(values).view(84, -1))
        self.features.prefit.fill_(biases is not None)

    @torch.no_grad()
    def fit(self, x: Tensor, mask: Tensor) -> list[list[float]]:
        """Biases by dilation from training series `[N, T, C]`: quantiles of what the kernels give on them."""
        with _numpy_random_kept():
            self.features.fit(_to_length(x, mask, self.length))
        count = self.features.num_dilations
        return [self.features.get_buffer(f"biases_{i}").flatten().tolist() for i in range(count)]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Series `[N, T, C]` and mask `[N, T]` -> `[N, width]`, each 0 to 1."""
        features: Tensor = self.features(_to_length(x, mask, self.length))
        return features


def _to_length(x: Tensor, mask: Tensor | None, length: int) -> Tensor:
    """`[N, T, C]` cut or zero-padded to `[N, C, length]`."""
    if mask is not None:
        x = x * mask[..., None]
    return F.pad(x[:, :length], (0, 0, 0, max(0, length - x.shape[1]))).transpose(1, 2)


@contextmanager
def _numpy_random_kept() -> Iterator[None]:
    """tsai seeds numpy's global stream, which is the run's own."""
    state = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(state)
