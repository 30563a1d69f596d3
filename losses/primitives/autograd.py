"""What custom autograd functions share: precision, autocast, the temperature and its gradient."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Method = TypeVar("Method", bound=Callable[..., Any])


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def without_autocast(method: Method) -> Method:
    """Run a method of a Function with autocast off, so that all it computes has the precision of its inputs."""

    @functools.wraps(method)
    def inner(ctx: Any, *args: Any) -> Any:
        device = "cpu"
        for a in reversed(args):
            if isinstance(a, Tensor):
                device = a.device.type
                break
        if not torch.is_autocast_enabled(device):  # entering takes longer than asking
            return method(ctx, *args)
        with torch.autocast(device, enabled=False):
            return method(ctx, *args)

    return inner  # type: ignore[return-value]


def first_order_only(method: Method) -> Method:
    """`once_differentiable`, applied only where a graph of the gradient is built: else it costs time for nothing."""
    guarded = once_differentiable(method)

    @functools.wraps(method)
    def inner(ctx: Any, *args: Any) -> Any:
        return guarded(ctx, *args) if torch.is_grad_enabled() else method(ctx, *args)

    return inner  # type: ignore[return-value]


def inverse_temperature(temperature: Tensor | float) -> float:
    """1 / temperature as a number, and NaN for an infinite temperature too, so that the loss becomes NaN.

    On CPU a number is the faster: the matrix product takes it as a factor, a tensor would need another pass over the
    logits. Where the temperature may be on a GPU, `tile_scale` does not wait for it.
    """
    scale = 1 / float(temperature)
    return scale if scale and math.isfinite(scale) else math.nan


def tile_scale(temperature: Tensor | float) -> Tensor | float:
    """As `inverse_temperature`, but of a temperature on a GPU a scalar tensor there: to look at it would be to wait."""
    if not isinstance(temperature, Tensor) or temperature.is_cpu:
        return inverse_temperature(temperature)
    temperature = temperature.detach()
    scale = (temperature + 0 * temperature).reciprocal()
    return scale + 0 * scale


def nan_unless_finite(temperature: Tensor | float) -> Tensor | float:
    """The temperature, but NaN if it is infinite; for formulas that divide by it themselves."""
    if isinstance(temperature, Tensor) and not temperature.is_cpu:
        return temperature + 0 * temperature.detach()  # does not wait for the device
    if math.isfinite(temperature.item() if isinstance(temperature, Tensor) else temperature):
        return temperature
    return temperature * math.nan


def sum_dtype(x: Tensor) -> torch.dtype:
    """The type for long sums on the device of `x`: float64, or float32 on Apple's GPUs, which have no float64."""
    return torch.float32 if x.is_mps else torch.float64


def temperature_gradient(dx: Tensor, x: Tensor, scale: Tensor | float) -> Tensor:
    """Gradient of the temperature, -sum(dx * x) / temperature: the logits depend on x / temperature only."""
    per_row: Tensor = torch.linalg.vecdot(dx, x)
    return per_row.sum(dtype=sum_dtype(x)).mul(-scale).to(x.dtype)


class _WithGradients(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, count: int, *both: Tensor) -> Tensor:
        ctx.save_for_backward(*both[count:])
        return value.clone()

    @staticmethod
    @first_order_only
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        needs = ctx.needs_input_grad[2:]
        return (
            None,
            None,
            *(g * x if need else None for x, need in zip(gradients, needs, strict=False)),
            *(None for _ in gradients),
        )


def with_gradients(value: Tensor, tensors: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """`value` `[]`, whose gradients with respect to these tensors are as given."""
    return _WithGradients.apply(value, len(tensors), *tensors, *gradients)  # type: ignore[no-any-return, no-untyped-call]
