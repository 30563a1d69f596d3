"""python peak_memory.py '{"CASE": [VIEWS, BATCH, WIDTH]}' prints `["CASE", MIB]` for each case, a line each: the peak
memory of a step above the level before it, in a process of its own."""

import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from clx.losses.base import LOSSES


def status(field: str) -> int:
    """A figure of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def peak(loss: Callable[..., Tensor], views: int, batch: int, width: int) -> float:
    """Of forward and backward, in MiB."""
    leaves = [torch.randn(batch, width).requires_grad_() for _ in range(views)]
    gc.collect()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins again
    grads = torch.autograd.grad(loss(*leaves), leaves)
    highest = status("VmHWM")
    assert all(g.isfinite().all() for g in grads)
    return (highest - before) / 1024


def loss_of(case: str) -> Callable[..., Tensor]:
    """The loss of any number of views; `NAME, every pair` is SupReMix with a window that takes all."""
    name, _, rest = case.partition(", ")
    loss = LOSSES[name](**({"window": 100.0} if rest else {}))

    def of_views(*views: Tensor) -> Tensor:
        size = len(views[0])
        extras = {
            "labels": torch.arange(size) % max(2, size // 16),
            "targets": torch.linspace(0, 1, size)[:, None] if rest else torch.randn(size, 1),
        }
        z = {str(number): view for number, view in enumerate(views)}
        value: Tensor = loss(z, **{key: extras[key] for key in loss.required()})
        return value

    return of_views


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case, (views, batch, width) in json.loads(sys.argv[1]).items():
        child = os.fork()
        if not child:
            # loads libraries; enough rows for symile's tiled form, which 16 no longer take
            peak(loss_of(case), views, 64, width)
            print(json.dumps([case, peak(loss_of(case), views, batch, width)]), flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(1)
