"""Networks that make views: trained by a criterion of their own, beside the objective."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

EVERY, RATE = 2, 5.0
"""Of so many steps one trains them, at so many times the learning rate."""


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Buffers end as they began: an encoder that runs once more is not to count that in its batch norms."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    yield
    with torch.no_grad():
        for buffer, kept in before:
            buffer.copy_(kept)
