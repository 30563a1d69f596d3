"""Averages of a model's weights over the steps of training."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from clx.pipelines.system.process_group import of_this_rank


class Averaged(nn.Module):
    """An exponential moving average of a module, in `module`, buffers included; the first is the module itself.

    As torch's `AveragedModel`, which makes the host wait for a GPU: it copies its count of updates there every time.
    """

    n_averaged: Tensor
    """`[]` int64, on the CPU: updates so far."""

    def __init__(self, model: nn.Module, decay: float, shared: Iterable[Tensor] = ()) -> None:
        """`shared` are tensors of the model that the average has in common with it."""
        super().__init__()
        self.module, self.decay = copy.deepcopy(model, {id(each): each for each in shared}), decay
        self.register_buffer("n_averaged", torch.tensor(0))

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in what the module is now."""
        every = zip(tensors_of(self.module), tensors_of(model), strict=True)
        pairs = [(of_this_rank(ours.detach()), of_this_rank(now.detach())) for ours, now in every if ours is not now]
        if self.n_averaged == 0:
            for ours, now in pairs:
                ours.copy_(now)
        else:
            floats = [pair for pair in pairs if pair[0].is_floating_point()]
            torch._foreach_lerp_([ours for ours, _ in floats], [now for _, now in floats], 1 - self.decay)
            for ours, now in pairs:
                if not ours.is_floating_point():
                    ours.copy_(ours * self.decay + now * (1 - self.decay))
        self.n_averaged += 1


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers themselves."""
    return [*module.parameters(), *module.buffers()]


def averaged(model: nn.Module, objective: nn.Module, decay: float) -> Averaged:
    """The average of model and objective. What losses remember in buffers is no average: both have the same."""
    return Averaged(nn.ModuleDict({"model": model, "objective": objective}), decay, objective.buffers())
