"""Fracast, an encoder of time series whose weights and code come as a package."""

import json

import torch
from torch import Tensor

from clx.modalities.encoder import Encoder
from clx.modalities.packaged import packaged_file, wants_weights
from clx.modalities.pretrained import first_line

FRACAST = "fracast"


class Fracast(Encoder):
    """The encoder of Fracast-0, trained to forecast: one causal convolution at dilations 1, 2, 4 to 512, over each
    channel alone. Series `[N, T, C]` -> `[N, 128 C]`: of each channel the mean over time and the last step.

    It sees the last 2048 steps of a series, each channel brought to 0..1 by its own least and greatest value, so that
    level and scale do not matter; shorter ones are filled up in front, so that all cost the same.
    """

    def __init__(self, channels: int, pretrained: bool | str | None, load: bool) -> None:
        """Raises `ValueError` where the package is not installed, or another than is known."""
        super().__init__()
        load = wants_weights(FRACAST, pretrained, load)
        file = packaged_file(FRACAST)
        try:
            from fracast._core.model import build_from_cfg

            core, _ = build_from_cfg(json.loads(file.with_name("config.json").read_text("utf-8")))
            if load:
                from safetensors.torch import load_file

                own = {name: value for name, value in load_file(file).items() if name.startswith("core.")}
                core.load_state_dict({name.removeprefix("core."): value for name, value in own.items()})
        except Exception as error:  # damaged and foreign files fail in many ways
            raise ValueError(f"{file} does not hold the encoder of {FRACAST}: {first_line(error)}") from error
        self.core, self.channels, self.window = core, channels, int(core.W)
        self.width = 2 * int(core.d) * channels

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Series `[N, T, C]` and mask `[N, T]` -> `[N, 128 C]`."""
        mask = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        with torch.autocast(x.device.type, enabled=False):  # its periodogram wants float32
            values, there = self._at_the_end(x.float(), mask)
            real = there[..., None]
            least = values.masked_fill(~real, torch.inf).amin(1, keepdim=True)
            most = values.masked_fill(~real, -torch.inf).amax(1, keepdim=True)
            scaled = ((values - least) / (most - least).clamp(min=1e-5)).masked_fill(~real, 0)
            seen = there.repeat_interleave(self.channels, 0)
            h = self.core(scaled.transpose(1, 2).flatten(0, 1)[:, None], seen[:, None], seen[:, None].float())
            mean = (h * seen[..., None]).sum(1) / seen.sum(1, keepdim=True)
        return torch.cat([mean, h[:, -1]], 1).view(len(x), self.width)

    def _at_the_end(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`[N, 2048, C]` with the last step of each series last, and which steps are there `[N, 2048]`."""
        length = mask.shape[1] - mask.flip(1).byte().argmax(1)
        place = torch.arange(self.window, device=x.device) - self.window + length[:, None]
        at = place.clamp(min=0)
        return x.gather(1, at[..., None].expand(-1, -1, x.shape[2])), mask.gather(1, at) & (place >= 0)
