"""Buffers as they were before a step, so that a step that is not taken leaves none of them changed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class KeptBuffers:
    """Copies of the buffers of modules: running statistics of batch norms, queues, and others that a step may change.

    Before a step those are copied, in one operation, that have changed since they were copied last: most buffers are
    constants. Of running statistics nothing tells whether they changed.
    """

    def __init__(self, *modules: nn.Module) -> None:
        every = [(f"{place}.{name}", b) for place, each in enumerate(modules) for name, b in each.named_buffers()]
        named = {name: b for name, b in every if not name.endswith("num_batches_tracked")}
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


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Buffers end as they began: an encoder that runs once more is not to count that in its batch norms."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    yield
    with torch.no_grad():
        for buffer, kept in before:
            buffer.copy_(kept)


@contextmanager
def undone_if_raised(module: nn.Module) -> Iterator[None]:
    """Buffers, and what losses remember, are as before when the block ends in an error."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    remembering = [m for m in module.modules() if type(m).get_extra_state is not nn.Module.get_extra_state]
    remembered = [(m, m.get_extra_state().clone()) for m in remembering]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for buffer, kept in before:
                buffer.copy_(kept)
        for part, state in remembered:
            part.set_extra_state(state)
        raise
