"""Activation checkpointing: layers keep only what enters them, and are computed again when their gradient is asked for.

The same gradients, dropout included, for about a third more time (Chen et al. 2016, arXiv 1604.06174).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clx.modalities.sequence import Layer


class Recomputed(Layer):
    """A `Layer` that keeps what enters it alone. An existing layer becomes one, under its own names."""

    def forward(self, h: Tensor, mask: Tensor, weights: list[Tensor] | None = None) -> Tensor:
        """`[N, T, width]` -> the same; weights that are asked for are kept, and so is the layer."""
        if weights is not None or not (self.training and torch.is_grad_enabled()):
            return super().forward(h, mask, weights)
        kept: Tensor = checkpoint(super().forward, h, mask, use_reentrant=False)
        return kept


def recompute(encoder: nn.Module) -> None:
    """Let an encoder keep little for its gradient, in place, by its library's own means where it is of one.

    Raises `ValueError` for one that has none, and for batch norms: computed twice, they would count each row twice.
    """
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in encoder.modules()):
        raise ValueError("checkpointing: the encoder has batch norms, whose statistics would count each row twice")
    parts: list[Any] = list(encoder.modules())
    layers = [part for part in parts if type(part) is Layer]
    switches = [part for part in parts if isinstance(getattr(part, "grad_checkpointing", None), bool)]
    models = [part for part in parts if getattr(part, "supports_gradient_checkpointing", False)]
    for layer in layers:
        layer.__class__ = Recomputed
    for part in switches:  # of open_clip and timm
        part.grad_checkpointing = True
    for model in models[:1]:  # of transformers; it tells its own parts
        model.config.use_cache = False
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if not (layers or switches or models):
        raise ValueError(
            "checkpointing: the encoder has no layers that can be computed again; open_clip:, timm:, hf: and the "
            "small transformers do"
        )
