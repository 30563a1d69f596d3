"""Hidden states of each layer of an encoder, and the attention weights between steps, as one tensor each."""

from collections.abc import Collection

import torch
from torch import Tensor

from clx.modalities.base import Input, StepEncoder
from clx.modalities.sequence import mean_over

DEEP = ("layers", "attention")
"""What only encoders that are `layered` have."""


def deep_states(encoder: StepEncoder, value: Input, asked: Collection[str]) -> tuple[Tensor, ...]:
    """Features `[N, width]` of N rows, those of each step by itself with their mask, and what is asked with a mask.

    `layers` are `[N, L, C]`: means over steps of what enters the first layer and of what each layer gives; their mask
    `[N, L]` is True. `attention` is `[N, P, (L - 1) heads]`: the weights of the pairs of steps, in the order of
    `pairs_by_step`; their mask `[N, P]` says where both steps are real, and the weights of other pairs are 0.
    """
    found = encoder.inside(attention="attention" in asked, **value)
    mask, made = found.mask, list(encoder.parts(found.last, found.mask))
    if "layers" in asked:
        layers = torch.stack([mean_over(h, mask) for h in found.layers], 1)
        made += [layers, mask.new_ones(layers.shape[:2])]
    if "attention" in asked:
        order = pairs_by_step(mask.shape[1], mask.device)
        real = (mask[:, :, None] & mask[:, None]).flatten(1)[:, order]
        weights = torch.cat(found.attention, 1).flatten(2)[..., order].mT
        made += [torch.where(real[..., None], weights, 0), real]
    return tuple(made)


def no_states(encoder: StepEncoder, name: str, like: Tensor) -> tuple[Tensor, Tensor]:
    """As `deep_states` has it under this name, for `[N, ...]` rows without any: zeros of one layer, or pair."""
    layers, heads = encoder.depth
    rows = len(like)
    shape = (rows, layers, encoder.width) if name == "layers" else (rows, 1, (layers - 1) * heads)
    return like.new_zeros(shape), torch.zeros(shape[:2], dtype=torch.bool, device=like.device)


def pairs_by_step(steps: int, device: torch.device) -> Tensor:
    """The numbers `[steps^2]` of the cells of a square, row by row, in the order of the later of their two steps: so
    the pairs of a shorter text are the first ones of a longer text's."""
    step = torch.arange(steps, device=device)
    return torch.maximum(step[:, None], step).flatten().argsort(stable=True)
