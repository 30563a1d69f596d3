"""A head that tells labels by prototypes: how near an embedding is to vectors of each label."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from clx.losses.primitives.autograd import at_least_float32


class PrototypeHead(nn.Module):
    """`[N, D]` to `[N, K]`: a linear layer of the cosines with `each` prototypes of every label, `rows` `[K each, D]`,
    those of one label side by side. At first a label's score is the sum of the cosines with its own."""

    def __init__(self, dim: int, outputs: int, each: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(outputs * each, dim) / dim**0.5)
        self.last = nn.Linear(outputs * each, outputs)
        self.out_features = outputs
        with torch.no_grad():
            self.last.weight.copy_(torch.eye(outputs).repeat_interleave(each, 1))
            self.last.bias.zero_()

    def forward(self, z: Tensor) -> Tensor:
        rows = normalize(at_least_float32(self.rows), dim=1)
        found: Tensor = self.last((normalize(at_least_float32(z), dim=1) @ rows.T).to(self.last.weight.dtype))
        return found
