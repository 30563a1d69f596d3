"""A digest of a model's weights."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def fingerprint(module: nn.Module) -> str:
    """A digest of all weights: equal for equal models, wherever they came from."""
    digest = hashlib.blake2b(digest_size=16)
    add_weights(digest, module.state_dict())
    return digest.hexdigest()


def add_weights(digest: Any, state: Mapping[str, Tensor]) -> None:
    """Names, types, shapes and values of tensors, in the order of their names."""
    for name, value in sorted(state.items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy())
