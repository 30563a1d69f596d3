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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clx.losses.base import LOSSES
from clx.losses.infonce import clip
from clx.losses.primitives import tiles
from clx.losses.siglip import siglip
from clx.losses.symile import symile, symile_shuffled

Forward = Callable[[list[Tensor]], Tensor]
"""A loss of the embeddings `[B, D]` of every name."""
LIMIT = 120.0  # seconds of CPU time for the repeats of one comparison


@dataclass(frozen=True)
class Comparison:
    """One comparison: a loss, who it is compared with, and the size it is usually compared at."""

    loss: str
    peer: str  # package, or what the plain torch reference does
    batch: int
    width: int
    make: Callable[["Comparison"], tuple[Forward, Forward]]  # ours, theirs
    views: int = 2
    temperature: float = 0.1
    unit: bool = True  # the peer takes unit rows: give them, and time our formula without its normalisation
    label: str = ""


def bench_losses(
    names: Sequence[str] | None = None,
    batch: int | None = None,
    width: int | None = None,
    repeats: int = 9,
    memory: bool = True,
    keep: bool = False,
    seen: Callable[[dict[str, Any]], None] = lambda row: None,
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
        seen: is told each row as soon as it is measured; all together take minutes.

    Returns:
        One row per comparison: `loss`, `peer`, `batch`, `width`, `views`, `seconds`, `peer_seconds`, `speedup`,
        `mib`, `peer_mib`, `memory_ratio`, `value_error` (relative), `gradient_error` (relative 2-norm); or
        `loss`, `peer` and `skipped`, a reason.

    Raises:
        ValueError: for a name that has nothing to be compared with.
    """
    known = {b.loss for b in BOUTS}
    for name in names or ():
        if name not in known:
            raise ValueError(f"{name} has no peer to be compared with; these have: {', '.join(sorted(known))}")
    rows = []
    for b in BOUTS:
        if names is None or b.loss in names:
            rows.append(_compare(b, batch or b.batch, width or b.width, repeats, memory, keep))
            seen(rows[-1])
    return rows


def _compare(bout: Comparison, batch: int, width: int, repeats: int, memory: bool, keep: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"loss": bout.label or bout.loss, "peer": bout.peer, "batch": batch, "width": width}
    row["views"] = bout.views
    package = bout.peer.replace("-", "_")
    if " " not in bout.peer and importlib.util.find_spec(package) is None:
        return {**row, "skipped": f"{bout.peer} is not installed"}
    request = {"index": _place(bout), "batch": batch, "width": width, "keep": keep}
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
    bout = replace(BOUTS[asked["index"]], batch=asked["batch"], width=asked["width"])
    torch.set_num_threads(1)
    tiles.keep_limit = 1 << 60 if asked["keep"] else None
    print(json.dumps(_times(bout, asked["repeats"]) if "repeats" in asked else _peaks(bout)))


def _times(bout: Comparison, repeats: int) -> dict[str, Any]:
    ours, theirs = bout.make(bout)
    start = time.process_time()
    times: tuple[list[float], list[float]] = [], []
    value, grads = _step(ours, _inputs(bout))  # also warms up
    peer_value, peer_grads = _step(theirs, _inputs(bout))
    for done in range(repeats):
        if done >= 3 and time.process_time() - start > LIMIT:
            break
        for forward, taken in zip((ours, theirs), times, strict=True):
            inputs = _inputs(bout)
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


def _inputs(bout: Comparison) -> list[Tensor]:
    """Views that agree somewhat, as leaves."""
    g = torch.Generator().manual_seed(0)
    item = torch.randn(bout.batch, bout.width, generator=g)
    views = [item + torch.randn(bout.batch, bout.width, generator=g) for _ in range(bout.views)]
    if bout.unit:
        views = [torch.nn.functional.normalize(v, dim=1) for v in views]
    return [v.requires_grad_() for v in views]


def _place(bout: Comparison) -> int:
    return next(k for k, b in enumerate(BOUTS) if (b.loss, b.label) == (bout.loss, bout.label))


def _peaks(bout: Comparison) -> dict[str, float]:
    """The peak of each side in MiB."""
    small = replace(bout, batch=8)
    for forward in small.make(small):
        _step(forward, _inputs(small))  # libraries are loaded and their buffers made
    ours, theirs = (_peak(forward, bout) for forward in bout.make(bout))
    return {"mib": ours, "peer_mib": theirs, "memory_ratio": theirs / max(ours, 1e-9)}


def _peak(forward: Forward, bout: Comparison) -> float:
    inputs = _inputs(bout)
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


def _ours(bout: Comparison, options: dict[str, float] | None = None, **extras: Any) -> Forward:
    loss = LOSSES[bout.loss](temperature=bout.temperature, **(options or {}))
    return lambda views: loss({str(k): v for k, v in enumerate(views)}, **extras)


def _clip(bout: Comparison) -> tuple[Forward, Forward]:
    from open_clip.loss import ClipLoss

    peer, scale, t = ClipLoss(), torch.tensor(1 / bout.temperature), bout.temperature
    return lambda v: clip(v[0], v[1], t), lambda v: peer(v[0], v[1], scale)


def _siglip(bout: Comparison) -> tuple[Forward, Forward]:
    from open_clip.loss import SigLipLoss

    peer, scale, bias, t = SigLipLoss(), torch.tensor(1 / bout.temperature), torch.tensor(-10.0), bout.temperature
    return lambda v: siglip(v[0], v[1], t, -10.0), lambda v: peer(v[0], v[1], scale, bias)


def _siglip_chunked(bout: Comparison) -> tuple[Forward, Forward]:
    """Against what open_clip's `chunk_size=512` computes, in plain torch: its 3.3 release has no such option yet."""
    t, side = bout.temperature, 512

    def chunked(views: list[Tensor]) -> Tensor:
        x, y = views
        total = torch.zeros(())
        for start in range(0, len(y), side):
            part = y[start : start + side]
            labels = -torch.ones(len(x), len(part))
            labels[start : start + side].fill_diagonal_(1)
            total = total - torch.nn.functional.logsigmoid(labels * (x @ part.T / t - 10.0)).sum()
        return total / len(x)

    return lambda v: siglip(v[0], v[1], t, -10.0), chunked


def _nt_xent(bout: Comparison) -> tuple[Forward, Forward]:
    from lightly.loss import NTXentLoss

    peer = NTXentLoss(temperature=bout.temperature)
    return _ours(bout), lambda v: peer(v[0], v[1])


def _dcl(bout: Comparison) -> tuple[Forward, Forward]:
    from lightly.loss import DCLLoss

    peer = DCLLoss(temperature=bout.temperature)
    return _ours(bout), lambda v: peer(v[0], v[1])


def _supcon(bout: Comparison) -> tuple[Forward, Forward]:
    from pytorch_metric_learning.losses import SupConLoss

    labels = torch.arange(bout.batch) % max(2, bout.batch // 16)
    peer = SupConLoss(temperature=bout.temperature)
    return _ours(bout, labels=labels), lambda v: peer(v[0], labels)


def _symile(bout: Comparison) -> tuple[Forward, Forward]:
    from symile import Symile

    peer, scale = Symile(negative_sampling="n_squared"), torch.tensor(1 / bout.temperature)
    return lambda v: symile(v, bout.temperature), lambda v: peer(v, scale)


def _symile_shuffled(bout: Comparison) -> tuple[Forward, Forward]:
    from symile import Symile

    peer, scale = Symile(negative_sampling="n"), torch.tensor(1 / bout.temperature)

    def ours(views: list[Tensor]) -> Tensor:
        torch.manual_seed(0)  # both draw the same permutations in the same order
        orders = [[torch.randperm(bout.batch) for _ in views[1:]] for _ in views]
        return symile_shuffled(views, bout.temperature, orders)

    def theirs(views: list[Tensor]) -> Tensor:
        torch.manual_seed(0)
        value: Tensor = peer(views, scale)
        return value

    return ours, theirs


def _mv_infonce(bout: Comparison) -> tuple[Forward, Forward]:
    """Against tensors of all pairs, in the plain exponentials of the published formula."""

    def dense(views: list[Tensor]) -> Tensor:
        u = torch.nn.functional.normalize(torch.cat(views), dim=1)
        n, count = len(views[0]), len(views)
        e = (u @ u.T / bout.temperature).exp()
        others = e.masked_select(~torch.eye(len(u), dtype=torch.bool)).view(len(u), -1).sum(1)
        stacked = u.view(count, n, -1)
        products = (stacked[:, None] * stacked[None]).sum(-1) / bout.temperature  # [V, V, B]
        across = ~torch.eye(count, dtype=torch.bool)
        positive = products.exp().masked_select(across[:, :, None]).view(-1, n).sum(0)
        return -(positive / others.view(count, n).sum(0)).log().mean()

    return _ours(bout), dense


def _mv_dhel(bout: Comparison) -> tuple[Forward, Forward]:
    """Against tensors of all pairs, the views' sums multiplied as in the published formula."""

    def dense(views: list[Tensor]) -> Tensor:
        stacked = torch.nn.functional.normalize(torch.stack(views), dim=2)
        count, n = stacked.shape[:2]
        e = (stacked @ stacked.mT / bout.temperature).exp()
        within = e.masked_select(~torch.eye(n, dtype=torch.bool)).view(count, n, n - 1).sum(2)
        products = (stacked[:, None] * stacked[None]).sum(-1) / bout.temperature
        upper = torch.ones(count, count, dtype=torch.bool).triu(1)
        positive = products.exp().masked_select(upper[:, :, None]).view(-1, n).sum(0)
        return -(positive / within.prod(0)).log().mean()

    return _ours(bout), dense


def _rank_n_contrast(bout: Comparison) -> tuple[Forward, Forward]:
    """Against a loop over positives, each with its mask over all pairs."""
    targets = torch.rand(bout.batch, 1, generator=torch.Generator().manual_seed(1)) * 10

    def loop(views: list[Tensor]) -> Tensor:
        z, y = torch.cat(views), targets.repeat(len(views), 1)
        n = len(z)
        off = ~torch.eye(n, dtype=torch.bool)
        far = (y[:, None] - y[None]).abs().sum(-1).masked_select(off).view(n, n - 1)
        s = -(z[:, None] - z[None]).norm(dim=-1).masked_select(off).view(n, n - 1) / bout.temperature
        e = s.exp()
        total = torch.zeros(())
        for k in range(n - 1):
            mask = (far >= far[:, k : k + 1]).float()
            total = total - (s[:, k] - (mask * e).sum(1).log()).sum()
        return total / (n * (n - 1))

    return _ours(bout, targets=targets), loop


def _conr(bout: Comparison) -> tuple[Forward, Forward]:
    """Against tensors of all pairs, one mask or weight after the other; of one view a row is its own positive."""
    g = torch.Generator().manual_seed(1)
    targets = torch.rand(bout.batch, 1, generator=g) * 8
    predictions = targets + torch.randn(bout.batch, 1, generator=g) * 3

    def dense(views: list[Tensor]) -> Tensor:
        z = torch.nn.functional.normalize(views[0], dim=1)
        far, wrong = (targets - targets.T).abs(), (predictions - predictions.T).abs()
        positive = far <= 1
        negative = ~positive & (wrong <= 1)
        s = z @ z.T / bout.temperature
        denominator = (s.exp() * positive).sum(1) + (s.exp() * negative * (0.01 * far).exp()).sum(1)
        count = positive.sum(1)
        valid = (count > 0) & negative.any(1)
        log_share = (s - denominator.log()[:, None]) * positive
        return -(log_share.sum(1) / count.clamp(min=1))[valid].mean()

    return _ours(bout, {"window": 1.0, "pushing": 0.01}, targets=targets, predictions=predictions), dense


BOUTS = (
    Comparison("clip", "open_clip", 4096, 512, _clip),
    Comparison("siglip", "open_clip", 4096, 512, _siglip),
    Comparison("siglip", "chunked torch", 4096, 512, _siglip_chunked, label="siglip chunked"),
    Comparison("nt-xent", "lightly", 4096, 512, _nt_xent, unit=False),
    Comparison("dcl", "lightly", 4096, 512, _dcl, unit=False),
    Comparison("supcon", "pytorch-metric-learning", 4096, 512, _supcon, views=1, unit=False),
    Comparison("symile", "symile", 128, 128, _symile, views=3, label="symile all"),
    Comparison("symile", "symile", 1024, 512, _symile_shuffled, views=3, label="symile shuffled"),
    Comparison("mv-infonce", "dense torch", 1024, 128, _mv_infonce, views=4, temperature=0.5, unit=False),
    Comparison("mv-dhel", "dense torch", 256, 512, _mv_dhel, views=8, temperature=0.5, unit=False),
    Comparison("rank-n-contrast", "plain loop", 256, 512, _rank_n_contrast, temperature=2.0, unit=False),
    Comparison("conr", "dense torch", 1024, 512, _conr, views=1, unit=False),
)
