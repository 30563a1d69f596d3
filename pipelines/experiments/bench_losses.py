"""Losses timed against the installed peers on the same inputs."""

import gc
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clx.losses.primitives import tiles
from clx.pipelines.experiments.bench_peers import COMPARISONS, Comparison, Forward

LIMIT = 120.0  # seconds of CPU time for the repeats of one comparison


def bench_losses(
    names: Sequence[str] | None = None,
    batch: int | None = None,
    width: int | None = None,
    repeats: int = 9,
    memory: bool = True,
    keep: bool = False,
    measured: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """Compare losses with peers, forward and backward in float32 on one thread of the CPU.

    Every comparison has a fresh process, in which both sides run alternately; times are medians of CPU time. (In
    a process that has run long, the allocator keeps blocks of the sizes in use and a peer gets faster.) Memory is
    the peak of resident memory above the inputs, gradients included, in a fresh process too.

    Args:
        names: losses; all that have a peer by default.
        batch, width: in place of the size each loss is usually compared at.
        repeats: timed runs of each side, fewer where `LIMIT` seconds of CPU time are used up before, but three.
        memory: measure it; Linux only.
        keep: keep the tiles of the forward pass for backward, whatever they need.
        measured: is told each row as soon as it is measured; all together take minutes.

    Returns:
        One row per comparison: `loss`, `peer`, `batch`, `width`, `views`, `seconds`, `peer_seconds`, `speedup`,
        `mib`, `peer_mib`, `memory_ratio`, `value_error` (relative), `gradient_error` (relative 2-norm); or
        `loss`, `peer` and `skipped`, a reason.

    Raises:
        ValueError: for a name that has nothing to be compared with.
    """
    known = {b.loss for b in COMPARISONS}
    for name in names or ():
        if name not in known:
            raise ValueError(f"{name} has no peer to be compared with; these have: {', '.join(sorted(known))}")
    rows = []
    for b in COMPARISONS:
        if names is None or b.loss in names:
            rows.append(_compare(b, batch or b.batch, width or b.width, repeats, memory, keep))
            measured(rows[-1])
    return rows


def _compare(comparison: Comparison, batch: int, width: int, repeats: int, memory: bool, keep: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "loss": comparison.label or comparison.loss,
        "peer": comparison.peer,
        "batch": batch,
        "width": width,
    }
    row["views"] = comparison.views
    package = comparison.peer.replace("-", "_")
    if " " not in comparison.peer and importlib.util.find_spec(package) is None:
        return {**row, "skipped": f"{comparison.peer} is not installed"}
    request = {"index": _place(comparison), "batch": batch, "width": width, "keep": keep}
    times = _apart({**request, "repeats": repeats})
    if isinstance(times, str):
        return {**row, "skipped": times}
    row |= times
    if memory and not Path("/proc/self/clear_refs").exists():
        row["memory"] = "measured on Linux only"
    elif memory:
        peaks = _apart(request)
        row |= {"memory": f"not measured: {peaks}"} if isinstance(peaks, str) else peaks
    return row


def _apart(request: dict[str, Any]) -> dict[str, Any] | str:
    """What `_measure` prints in a process that does nothing else, or why it failed.

    For memory the allocator there returns freed blocks at once.
    """
    code = "import sys; from clx.pipelines.experiments.bench_losses import _measure; _measure(sys.argv[1])"
    memory = {} if "repeats" in request else {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(request)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **memory},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measure(request: str) -> None:
    """Print the times of a comparison as JSON, or its memory where no repeats are asked for."""
    asked = json.loads(request)
    comparison = replace(COMPARISONS[asked["index"]], batch=asked["batch"], width=asked["width"])
    torch.set_num_threads(1)
    tiles.keep_limit = 1 << 60 if asked["keep"] else None
    print(json.dumps(_times(comparison, asked["repeats"]) if "repeats" in asked else _peaks(comparison)))


def _times(comparison: Comparison, repeats: int) -> dict[str, Any]:
    ours, theirs = comparison.make(comparison)
    start = time.process_time()
    times: tuple[list[float], list[float]] = [], []
    value, grads = _step(ours, _inputs(comparison))  # also warms up
    peer_value, peer_grads = _step(theirs, _inputs(comparison))
    for done in range(repeats):
        if done >= 3 and time.process_time() - start > LIMIT:
            break
        for forward, taken in zip((ours, theirs), times, strict=True):
            inputs = _inputs(comparison)
            before = time.process_time()
            _step(forward, inputs)
            taken.append(time.process_time() - before)
    seconds, peer_seconds = map(statistics.median, times)
    ours_flat, theirs_flat = torch.cat(grads), torch.cat(peer_grads)
    return {
        "seconds": seconds,
        "peer_seconds": peer_seconds,
        "speedup": peer_seconds / seconds,
        "runs": len(times[0]),
        "value_error": abs(float(value - peer_value)) / max(abs(float(peer_value)), 1e-12),
        "gradient_error": float((ours_flat - theirs_flat).norm() / theirs_flat.norm()),
    }


def _step(forward: Forward, inputs: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    value = forward(inputs)
    return value.detach(), torch.autograd.grad(value, inputs)


def _inputs(comparison: Comparison) -> list[Tensor]:
    """Views that agree somewhat, as leaves."""
    g = torch.Generator().manual_seed(0)
    item = torch.randn(comparison.batch, comparison.width, generator=g)
    views = [item + torch.randn(comparison.batch, comparison.width, generator=g) for _ in range(comparison.views)]
    if comparison.unit:
        views = [torch.nn.functional.normalize(v, dim=1) for v in views]
    return [v.requires_grad_() for v in views]


def _place(comparison: Comparison) -> int:
    return next(k for k, b in enumerate(COMPARISONS) if (b.loss, b.label) == (comparison.loss, comparison.label))


def _peaks(comparison: Comparison) -> dict[str, float]:
    """The peak of each side in MiB."""
    small = replace(comparison, batch=8)
    for forward in small.make(small):
        _step(forward, _inputs(small))  # libraries are loaded and their buffers made
    ours, theirs = (_peak(forward, comparison) for forward in comparison.make(comparison))
    return {"mib": ours, "peer_mib": theirs, "memory_ratio": theirs / max(ours, 1e-9)}


def _peak(forward: Forward, comparison: Comparison) -> float:
    inputs = _inputs(comparison)
    gc.collect()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    kept = _step(forward, inputs)
    peak = _status("VmHWM")
    del kept
    return (peak - before) / 1024


def _status(field: str) -> int:
    """A field of this process's memory in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
