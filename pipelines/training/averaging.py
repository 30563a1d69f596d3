"""Averages of a model's weights over the steps of training."""

import torch
from torch import nn


def averaged(model: nn.Module, objective: nn.Module, decay: float) -> "torch.optim.swa_utils.AveragedModel":
    """An exponential moving average of model and objective, buffers included."""
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    both = nn.ModuleDict({"model": model, "objective": objective})
    return AveragedModel(both, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
