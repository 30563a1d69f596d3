"""The network between an embedding and the target that it is to predict: SimSiam, BYOL, MoCo v3, BECLR."""

import torch
from torch import Tensor, nn


class Norm(nn.BatchNorm1d):
    """Batch norm that takes the running statistics for one row, of which there are none, and none for no rows."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) < 2:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


class Predictor(nn.Sequential):
    """`[N, D]` to `[N, D]` through one hidden layer with batch norm.

    It belongs to the loss, not to a tower: the second model has none, and neither has the finished run. Embeddings of
    the width that `dims` asks for, below D, are filled up with zeros, and as many columns are given back.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(nn.Linear(dim, hidden, bias=False), Norm(hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[1]
        whole = torch.nn.functional.pad(x, (0, self.dim - width)) if width < self.dim else x
        found: Tensor = super().forward(whole)  # type: ignore[no-untyped-call]
        return found[:, :width]
