"""Batch norms that take the statistics of the rows of all ranks, forward and backward, on any device."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clx.losses.primitives.autograd import at_least_float32
from clx.pipelines.system.process_group import Group


def share_norms(model: nn.Module, group: Group) -> None:
    """Make every batch norm of a model, or of a part of one, count the rows of all ranks while it trains.

    Each forward in training is one all-gather of 2 C + 1 numbers for C channels, each backward one all-reduce of 2 C.
    All ranks have to call it, with no rows if need be.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.forward = _Forward(module, group)  # type: ignore[method-assign, assignment]


def trains_norms(module: nn.Module) -> bool:
    """Whether a part of a model has batch norms that take statistics of the rows of all ranks now."""
    return any(part.training for part in shared_norms(module))


def shared_norms(module: nn.Module) -> list[nn.Module]:
    """Batch norms, of a part of a model, that count the rows of all ranks while they train."""
    return [part for part in module.modules() if isinstance(vars(part).get("forward"), _Forward)]


class _Forward:
    """The forward of one batch norm in place of its own; a copy of the module keeps the old one's only for use."""

    def __init__(self, norm: _BatchNorm, group: Group) -> None:
        self.norm, self.group = norm, group

    def __call__(self, x: Tensor) -> Tensor:
        if not self.norm.training:
            return type(self.norm).forward(self.norm, x)
        return normalised(x, self.norm, self.group)


def normalised(x: Tensor, norm: _BatchNorm, group: Group) -> Tensor:
    """What `norm` makes of this rank's rows `x` `[N, C, ...]`, in training; the running statistics move, too.

    Where all ranks together have one value a channel, the running statistics are used, as they are.
    """
    values = at_least_float32(x).transpose(0, 1).flatten(1)  # [C, M]
    mean, square, count = _statistics(values.detach(), group)
    known = norm.running_mean is not None
    enough = count > 1
    if known:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        with torch.no_grad():
            norm.num_batches_tracked.add_(enough.long())
            momentum = norm.momentum if norm.momentum is not None else 1 / norm.num_batches_tracked.clamp(min=1)
            share = enough.to(norm.running_mean.dtype) * momentum
            before, spread = norm.running_mean.clone(), norm.running_var.clone()
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
            norm.running_var.lerp_((square / (count - 1).clamp(min=1)).to(norm.running_var.dtype), share)
        mean = torch.where(enough, mean, before)
        variance = torch.where(enough, square / count.clamp(min=1), spread)
    else:
        variance = square / count.clamp(min=1)
    inverse = (variance + norm.eps).rsqrt()
    unit: Tensor = _Standardised.apply(values, mean, inverse, count, enough, group)  # type: ignore[no-untyped-call]
    if norm.affine:
        unit = unit * norm.weight[:, None] + norm.bias[:, None]
    found: Tensor = unit.unflatten(1, (x.shape[0], *x.shape[2:])).transpose(0, 1).to(x.dtype)
    return found


def _statistics(values: Tensor, group: Group) -> tuple[Tensor, Tensor, Tensor]:
    """Of the values `[C, M]` of all ranks, the mean `[C]`, the sum of squares about it `[C]` and the count `[]`.

    Each rank's squares are about its own mean, so that nothing cancels (Chan et al. 1983, equation 1.5).
    """
    here = values.shape[1]
    mean = values.sum(1) / max(1, here)
    square = (values - mean[:, None]).square().sum(1)
    mine = torch.cat([mean, square, mean.new_full((1,), here)])
    everyone = group.gathered(mine[None], [1] * group.size)  # [R, 2 C + 1]
    means, squares = everyone[:, :-1].unflatten(1, (2, -1)).unbind(1)
    counts = everyone[:, -1:]
    count = counts.sum()
    total = (counts * means).sum(0) / count.clamp(min=1)
    return total, (squares + counts * (means - total).square()).sum(0), count


class _Standardised(torch.autograd.Function):
    """(x - mean) / deviation of values `[C, M]`, whose statistics `[C]` are those of all ranks."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, mean: Tensor, inverse: Tensor, count: Tensor, enough: Tensor, group: Group
    ) -> Tensor:
        unit = (values - mean[:, None]) * inverse[:, None]
        ctx.save_for_backward(unit, inverse, count, enough)
        ctx.group = group
        return unit

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        unit, inverse, count, enough = ctx.saved_tensors
        sums = ctx.group.sum(torch.stack([gradient.sum(1), (gradient * unit).sum(1)]))
        ours, along = (sums / count.clamp(min=1) * enough)[:, :, None]  # none where the statistics are constants
        return inverse[:, None] * (gradient - ours - unit * along), None, None, None, None, None
