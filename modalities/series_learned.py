"""Views of time series that are learned: AutoTCL's mask and transform."""

import math

import torch
from torch import Tensor, nn

from clx.modalities.base import Input, LearnedView
from clx.modalities.series_encoders import Dilated

WIDTH, LAYERS = 128, 3
LOWEST, HIGHEST, TEMPERATURE = -0.1, 1.1, 2 / 3  # of the hard concrete distribution, as in its paper
OPEN = 1.0  # logit of the mask at the start
LIMIT = 2.5  # of that logit, either way: no step is hidden or shown for certain, else there is nothing to learn by


class AutoTCL(LearnedView):
    """v = g(x) h(x) x at every step: a random mask h hides what does not matter, a gain g above 0, and so without
    loss, transforms the rest. Both follow from the series by one small network.

    The mask is drawn from a hard concrete distribution (Louizos et al. 2018, arXiv 1712.01312): mostly 0 or 1, yet
    with a gradient. The gain is between 1/e and e. Zheng et al. 2024, arXiv 2402.10434.
    """

    def __init__(self, channels: int, values: int, sparsity: float) -> None:
        """`channels`: of the input; those behind the first `values` tell where there is a gap, and know no gain."""
        super().__init__(sparsity)
        self.values = values
        self.network = Dilated(channels, WIDTH, LAYERS, 0.0)
        self.out = nn.Linear(WIDTH, 2)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Input, Tensor]:
        h, _ = self.network.steps(x, mask)
        logit, gain = self.out(h).float().unbind(-1)
        logit = LIMIT * ((logit + OPEN) / LIMIT).tanh()
        draw = torch.rand_like(logit).clamp(1e-6, 1 - 1e-6).logit()
        stretched = ((draw + logit) / TEMPERATURE).sigmoid() * (HIGHEST - LOWEST) + LOWEST
        kept = stretched.clamp(0, 1)[..., None]
        gain = gain.tanh().exp()[..., None]
        v = torch.cat([x[..., : self.values] * kept * gain, x[..., self.values :] * kept], -1)
        probability = (logit - TEMPERATURE * math.log(-LOWEST / HIGHEST)).sigmoid()
        return {"x": v.to(x.dtype), "mask": mask}, probability
