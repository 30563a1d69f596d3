"""Encoders of time series: a small dilated TCN, and the architectures of tsai by name."""

import inspect
import warnings
from importlib import import_module

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clx.modalities.base import Encoder
from clx.modalities.sequence import Step, masked_pool

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
TransformerLSTMPlus and its like), that leave weights unused (mWDN), or that are no networks (MiniRocket).
"""


class TCN(Encoder):
    """A strided convolution, then dilated ones (1, 3, 9, ...), mean and maximum over time."""

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
        x = x * mask[..., None]
        for layer in self.layers:
            x, mask = layer(x, mask)
        return x, mask

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Series `[N, T, C]` and mask `[N, T]` -> `[N, width]`."""
        features: Tensor = self.out(masked_pool(*self.steps(x, mask)))
        return features

    def blocks(self) -> list[nn.Module]:
        """Each convolution, the part after pooling."""
        return [*self.layers, self.out]


class Tsai(Encoder):
    """An architecture of tsai with default settings; the layer that would give classes gives the features.

    These know no masks: every series is cut or zero-padded to `length` steps, so that a row's features do not
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
        if mask is not None:
            x = x * mask[..., None]
        x = F.pad(x[:, : self.length], (0, 0, 0, max(0, self.length - x.shape[1])))
        features: Tensor = self.model(x.transpose(1, 2))
        return features.mean(1) if features.ndim == 3 else features

    def blocks(self) -> list[nn.Module]:
        """The model's parts in their order, where they hold every parameter; else the model as one."""
        parts = [part for part in self.model.children() if any(True for _ in part.parameters())]
        held = sum(p.numel() for part in parts for p in part.parameters())
        return parts if held == sum(p.numel() for p in self.model.parameters()) else [self.model]
