"""Buffers as they were before a step, so that a step that is not taken leaves none of them changed."""

import torch
from torch import nn


class KeptBuffers:
    """Copies of a model's floating buffers: running statistics of batch norms, and others that a step may change.

    Before a step those are copied, in one operation, that have changed since they were copied last: most buffers are
    constants. Of running statistics nothing tells whether they changed.
    """

    def __init__(self, model: nn.Module) -> None:
        named = {name: b for name, b in model.named_buffers() if b.is_floating_point()}
        self.buffers, self.copies = list(named.values()), [buffer.clone() for buffer in named.values()]
        self.running = ["running_" in name for name in named]
        self.versions = [buffer._version for buffer in self.buffers]

    def changed(self) -> list[int]:
        """Numbers of the buffers that may differ from their copies."""
        each = zip(self.buffers, self.versions, self.running, strict=True)
        return [n for n, (buffer, version, running) in enumerate(each) if running or buffer._version != version]

    @torch.no_grad()
    def keep(self) -> None:
        """Copy what has changed."""
        if changed := self.changed():
            torch._foreach_copy_([self.copies[n] for n in changed], [self.buffers[n] for n in changed])
            self.versions = [buffer._version for buffer in self.buffers]

    @torch.no_grad()
    def restore(self) -> None:
        """Put all back as they were at `keep`."""
        for n in self.changed():
            self.buffers[n].copy_(self.copies[n])
