"""Each timed loss beside an installed peer or plainly written torch, on the same inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clx.losses.base import LOSSES
from clx.losses.infonce import clip
from clx.losses.siglip import siglip
from clx.losses.symile import symile, symile_shuffled
from clx.pipelines.experiments.bench_heads import HEADS
from clx.pipelines.experiments.bench_pairs import PAIRS
from clx.pipelines.experiments.bench_plain import DENSE, both
from clx.pipelines.experiments.bench_views import VIEWS

PLAIN = DENSE | VIEWS | PAIRS | HEADS

Forward = Callable[[list[Tensor]], Tensor]
"""A loss of the embeddings `[B, D]` of every name."""


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


def _ours(comparison: Comparison, options: dict[str, float] | None = None, **extras: Any) -> Forward:
    loss = LOSSES[comparison.loss](temperature=comparison.temperature, **(options or {}))
    return lambda views: loss({str(k): v for k, v in enumerate(views)}, **extras)


def _clip(comparison: Comparison) -> tuple[Forward, Forward]:
    from open_clip.loss import ClipLoss

    peer, scale, t = ClipLoss(), torch.tensor(1 / comparison.temperature), comparison.temperature
    return lambda v: clip(v[0], v[1], t), lambda v: peer(v[0], v[1], scale)


def _siglip(comparison: Comparison) -> tuple[Forward, Forward]:
    from open_clip.loss import SigLipLoss

    peer, scale, bias, t = (
        SigLipLoss(),
        torch.tensor(1 / comparison.temperature),
        torch.tensor(-10.0),
        comparison.temperature,
    )
    return lambda v: siglip(v[0], v[1], t, -10.0), lambda v: peer(v[0], v[1], scale, bias)


def _siglip_chunked(comparison: Comparison) -> tuple[Forward, Forward]:
    """Against what open_clip's `chunk_size=512` computes, in plain torch: its 3.3 release has no such option yet."""
    t, side = comparison.temperature, 512

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


def _nt_xent(comparison: Comparison) -> tuple[Forward, Forward]:
    from lightly.loss import NTXentLoss

    peer = NTXentLoss(temperature=comparison.temperature)
    return _ours(comparison), lambda v: peer(v[0], v[1])


def _dcl(comparison: Comparison) -> tuple[Forward, Forward]:
    from lightly.loss import DCLLoss

    peer = DCLLoss(temperature=comparison.temperature)
    return _ours(comparison), lambda v: peer(v[0], v[1])


def _supcon(comparison: Comparison) -> tuple[Forward, Forward]:
    from pytorch_metric_learning.losses import SupConLoss

    labels = torch.arange(comparison.batch) % max(2, comparison.batch // 16)
    peer = SupConLoss(temperature=comparison.temperature)
    return _ours(comparison, labels=labels), lambda v: peer(v[0], labels)


def _symile(comparison: Comparison) -> tuple[Forward, Forward]:
    from symile import Symile

    peer, scale = Symile(negative_sampling="n_squared"), torch.tensor(1 / comparison.temperature)
    return lambda v: symile(v, comparison.temperature), lambda v: peer(v, scale)


def _symile_shuffled(comparison: Comparison) -> tuple[Forward, Forward]:
    from symile import Symile

    peer, scale = Symile(negative_sampling="n"), torch.tensor(1 / comparison.temperature)

    def ours(views: list[Tensor]) -> Tensor:
        torch.manual_seed(0)  # both draw the same permutations in the same order
        orders = [[torch.randperm(comparison.batch) for _ in views[1:]] for _ in views]
        return symile_shuffled(views, comparison.temperature, orders)

    def theirs(views: list[Tensor]) -> Tensor:
        torch.manual_seed(0)
        value: Tensor = peer(views, scale)
        return value

    return ours, theirs


def _mv_infonce(comparison: Comparison) -> tuple[Forward, Forward]:
    """Against tensors of all pairs, in the plain exponentials of the published formula."""

    def dense(views: list[Tensor]) -> Tensor:
        u = torch.nn.functional.normalize(torch.cat(views), dim=1)
        n, count = len(views[0]), len(views)
        e = (u @ u.T / comparison.temperature).exp()
        others = e.masked_select(~torch.eye(len(u), dtype=torch.bool)).view(len(u), -1).sum(1)
        stacked = u.view(count, n, -1)
        products = (stacked[:, None] * stacked[None]).sum(-1) / comparison.temperature  # [V, V, B]
        across = ~torch.eye(count, dtype=torch.bool)
        positive = products.exp().masked_select(across[:, :, None]).view(-1, n).sum(0)
        return -(positive / others.view(count, n).sum(0)).log().mean()

    return _ours(comparison), dense


def _mv_dhel(comparison: Comparison) -> tuple[Forward, Forward]:
    """Against tensors of all pairs, the views' sums multiplied as in the published formula."""

    def dense(views: list[Tensor]) -> Tensor:
        stacked = torch.nn.functional.normalize(torch.stack(views), dim=2)
        count, n = stacked.shape[:2]
        e = (stacked @ stacked.mT / comparison.temperature).exp()
        within = e.masked_select(~torch.eye(n, dtype=torch.bool)).view(count, n, n - 1).sum(2)
        products = (stacked[:, None] * stacked[None]).sum(-1) / comparison.temperature
        upper = torch.ones(count, count, dtype=torch.bool).triu(1)
        positive = products.exp().masked_select(upper[:, :, None]).view(-1, n).sum(0)
        return -(positive / within.prod(0)).log().mean()

    return _ours(comparison), dense


def _rank_n_contrast(comparison: Comparison) -> tuple[Forward, Forward]:
    """Against a loop over positives, each with its mask over all pairs."""
    targets = torch.rand(comparison.batch, 1, generator=torch.Generator().manual_seed(1)) * 10

    def loop(views: list[Tensor]) -> Tensor:
        z, y = torch.cat(views), targets.repeat(len(views), 1)
        n = len(z)
        off = ~torch.eye(n, dtype=torch.bool)
        far = (y[:, None] - y[None]).abs().sum(-1).masked_select(off).view(n, n - 1)
        s = -(z[:, None] - z[None]).norm(dim=-1).masked_select(off).view(n, n - 1) / comparison.temperature
        e = s.exp()
        total = torch.zeros(())
        for k in range(n - 1):
            mask = (far >= far[:, k : k + 1]).float()
            total = total - (s[:, k] - (mask * e).sum(1).log()).sum()
        return total / (n * (n - 1))

    return _ours(comparison, targets=targets), loop


def _conr(comparison: Comparison) -> tuple[Forward, Forward]:
    """Against tensors of all pairs, one mask or weight after the other; of one view a row is its own positive."""
    g = torch.Generator().manual_seed(1)
    targets = torch.rand(comparison.batch, 1, generator=g) * 8
    predictions = targets + torch.randn(comparison.batch, 1, generator=g) * 3

    def dense(views: list[Tensor]) -> Tensor:
        z = torch.nn.functional.normalize(views[0], dim=1)
        far, wrong = (targets - targets.T).abs(), (predictions - predictions.T).abs()
        positive = far <= 1
        negative = ~positive & (wrong <= 1)
        s = z @ z.T / comparison.temperature
        denominator = (s.exp() * positive).sum(1) + (s.exp() * negative * (0.01 * far).exp()).sum(1)
        count = positive.sum(1)
        valid = (count > 0) & negative.any(1)
        log_share = (s - denominator.log()[:, None]) * positive
        return -(log_share.sum(1) / count.clamp(min=1))[valid].mean()

    return _ours(comparison, {"window": 1.0, "pushing": 0.01}, targets=targets, predictions=predictions), dense


def _plain(comparison: Comparison) -> tuple[Forward, Forward]:
    dense = PLAIN[comparison.label or comparison.loss]
    return both(LOSSES[comparison.loss](**dense.options), dense, comparison.batch, comparison.width)


COMPARISONS = (
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
    *(
        Comparison(name.split()[0], "plain torch", dense.batch, 128, _plain, dense.views, unit=False, label=name)
        for name, dense in PLAIN.items()
    ),
)
