"""What learns, in groups of one rate and one weight decay."""

from typing import Any

from torch import nn

from clx.pipelines.model.towers import Embedder
from clx.pipelines.system.errors import BadInput
from clx.pipelines.training import augmenters


def parameter_groups(
    model: Embedder, objective: nn.Module, decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Weight decay for matrices; none for vectors, scalars, what the objective learns and what makes views.

    Each group has one rate: its `faster` times that of the step. With `layer_decay` below 1 an encoder's blocks learn
    slower the further they are from the head. Raises `BadInput` where there is nothing to learn.
    """
    views = model.augmenters()
    others, factors = {id(p) for p in views}, factors_of_blocks(model, layer_decay)
    learned = [p for p in model.parameters() if p.requires_grad and id(p) not in others]
    groups: list[dict[str, Any]] = []
    for factor in sorted({factors.get(id(p), 1.0) for p in learned} | {1.0}, reverse=True):
        here = [p for p in learned if factors.get(id(p), 1.0) == factor]
        bare = [p for p in here if p.ndim < 2]
        bare += [p for p in objective.parameters() if p.requires_grad and factor == 1.0]
        pace = {} if factor == 1.0 else {"faster": factor}
        groups.append({"params": [p for p in here if p.ndim >= 2], "weight_decay": decay, **pace})
        groups.append({"params": bare, "weight_decay": 0.0, **pace})
    groups.append({"params": views, "weight_decay": 0.0, "faster": augmenters.RATE})
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise BadInput(
            "nothing to learn: encoders are frozen, heads are none and the objective learns nothing; give a modality a "
            "head (head: linear), thaw its encoder (freeze: false) or learn its temperature (learn_temperature: true)"
        )
    return groups


def factors_of_blocks(model: Embedder, layer_decay: float) -> dict[int, float]:
    """By the `id` of an encoder's parameter, `layer_decay` to the power of its block's place before the head, 1 for the
    last block. Heads are not among them: they learn at the whole rate."""
    factors: dict[int, float] = {}
    for name in model.towers if layer_decay < 1 else ():
        for place, block in enumerate(reversed(model.tower(name).encoder.blocks()), 1):
            factors |= {id(p): layer_decay**place for p in block.parameters()}
    return factors
