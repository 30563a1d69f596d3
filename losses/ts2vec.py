"""TS2Vec: contrast between time steps and between series, at every scale of time."""

import itertools
from dataclasses import dataclass
from itertools import repeat
from typing import Annotated, Any

import torch
from annotated_types import Ge, Interval
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from clx.losses.base import Embeddings, Loss, Steps, register, require_two_inputs, zero_loss
from clx.losses.primitives.autograd import first_order_only, without_autocast

most_logits = 1 << 24  # kept for backward; with more, they are computed again in backward


def ts2vec(x: Tensor, y: Tensor, mask: Tensor | None = None, alpha: float = 0.5, temporal_unit: int = 0) -> Tensor:
    """Hierarchical contrast of two views that show the same time steps.

    mean over levels d of alpha instance(x, y) + (1 - alpha) [d >= temporal_unit] temporal(x, y), where each level
    is the maximum over pairs of neighbouring steps of the one before, down to a single step. `instance` contrasts
    the series of the batch at one time step, `temporal` the time steps of one series; see `contrast`.

    Args:
        x, y: `[B, T, C]`, not normalised; step t of both is the same time.
        mask: `[B, T]`, True where both views have the step; each row's True steps must come first. None where all have.
        alpha: share of `instance`, 0 to 1.
        temporal_unit: finest level with a temporal term.

    Returns:
        Scalar in nats. The last step of an odd number is dropped on the way down, as in the paper's code.

    Reference:
        Yue et al. 2022, equations 1 to 3 and algorithm 1, arXiv 2106.10466.
    """
    levels: list[Tensor] = []
    while True:
        level = alpha * contrast(x.transpose(0, 1), y.transpose(0, 1), None if mask is None else mask.T)
        if len(levels) >= temporal_unit and x.shape[1] > 1:
            level = level + (1 - alpha) * contrast(x, y, mask)
        levels.append(level)
        if x.shape[1] == 1:
            return torch.stack(levels).mean()
        x, y = coarser(x, mask), coarser(y, mask)
        mask = None if mask is None else F.max_pool1d(mask.float(), 2).bool()


def coarser(x: Tensor, mask: Tensor | None) -> Tensor:
    """Maximum of each two neighbouring steps, `[B, T // 2, C]`; 0 where the mask has neither."""
    real = x if mask is None else x.masked_fill(~mask[..., None], -torch.inf)
    most: Tensor = F.max_pool1d(real.transpose(1, 2), 2).transpose(1, 2)
    return most if mask is None else most.masked_fill(most == -torch.inf, 0)


def contrast(x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """Within each of G groups, every row of both views finds its partner among the other 2N - 1.

    mean over rows u of -log( exp(u.u') / sum_{v != u} exp(u.v) ), u' the partner of u

    Args:
        x, y: `[G, N, C]`.
        mask: `[G, N]`, False where a row is neither anchor nor negative; None where all are.
    """
    at_once = max(1, most_logits // (2 * x.shape[1]) ** 2)
    if at_once >= len(x):
        total: Tensor = _Total.apply(x, y, mask)  # type: ignore[no-untyped-call]
    else:
        masks = repeat(None) if mask is None else mask.split(at_once)
        groups = zip(x.split(at_once), y.split(at_once), masks, strict=False)
        total = torch.stack([checkpoint(_Total.apply, *group, use_reentrant=False) for group in groups]).sum()
    count = x.shape[0] * x.shape[1] if mask is None else mask.sum().clamp(min=1)
    return total / (2 * count)


class _Total(Function):
    """The sum of all terms, in as few operations as possible: the gradient of the logits is made in the forward."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        n, both = x.shape[1], torch.cat([x, y], 1)
        s = both @ both.mT
        s.diagonal(0, 1, 2).fill_(-torch.inf)
        if mask is not None:
            s.masked_fill_(~mask.repeat(1, 2)[:, None], -torch.inf)
        positive = torch.linalg.vecdot(x, y)
        for side in (n, -n):
            s.diagonal(side, 1, 2).copy_(positive)
        w = s.log_softmax(2)
        own = torch.cat([w.diagonal(n, 1, 2), w.diagonal(-n, 1, 2)], 1)
        # of a chosen entry it is the sum of the other probabilities, not 1 - p, which is inexact for p near 1
        w.exp_()
        for side in (n, -n):
            w.diagonal(side, 1, 2).zero_()
        others = w.sum(2)
        w.diagonal(n, 1, 2).sub_(others[:, :n])
        w.diagonal(-n, 1, 2).sub_(others[:, n:])
        if mask is not None:
            there = mask.repeat(1, 2)
            own = own.masked_fill(~there, 0)
            w.masked_fill_(~there[:, :, None], 0)
        ctx.save_for_backward(both, w)
        return -own.sum()

    @staticmethod
    @first_order_only
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        both, w = ctx.saved_tensors
        return *((w + w.mT).mul_(g) @ both).chunk(2, 1), None


def shared_steps(x: Tensor, y: Tensor, mask: Tensor, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """The steps that the mask keeps come first, and the time axis ends with the last of the `longest` row.

    Rows without a step are left out on a CPU, where it costs nothing to find them.
    """
    if mask.is_cpu:
        some = mask.any(1)
        x, y, mask = x[some], y[some], mask[some]
    order = (~mask).byte().argsort(dim=1, stable=True)[:, :longest]
    mask = mask.gather(1, order)

    def front(rows: Tensor) -> Tensor:
        rows = rows.gather(1, order[..., None].expand(-1, -1, rows.shape[2]))
        return torch.where(mask[..., None], rows, 0)

    return front(x), front(y), mask


@register("ts2vec")
@dataclass(eq=False, kw_only=True)
class TS2Vec(Loss):
    """Hierarchical contrast over instances and time, over all pairs of names that have time steps.

    Example:
        >>> steps = torch.eye(4) * torch.tensor([3.0, -3.0])[:, None, None]  # 2 series of 4 steps
        >>> there = torch.ones(2, 4, dtype=torch.bool)
        >>> z = {"series/0": torch.zeros(2, 4), "series/1": torch.zeros(2, 4)}
        >>> loss = TS2Vec()
        >>> round(loss(z, steps={"series/0": (steps, there), "series/1": (steps, there)}).item(), 3)
        0.275
        >>> round(loss(z, steps={"series/0": (steps, there), "series/1": (steps.flip(1), there)}).item(), 3)
        3.482
    """

    family = "time series"
    paper = "Yue et al. 2022, arXiv 2106.10466"
    formula = "mean over scales: alpha NT-Xent among series at each step + (1 - alpha) that among each series' steps"
    cost = "time O(B T (B + T) D) per pair of names, memory O(B T (B + T)) up to 64 MB a scale, then computed again"
    use = (
        "series of which single parts matter; two views by `augmentation: {crops: 0, time_mask: 0.5}`, encoder dilated"
    )
    fits = ("one modality",)

    compares_times = True
    host_reads = 1  # how many steps the longest series has

    alpha: Annotated[float, Interval(ge=0, le=1)] = 0.5
    temporal_unit: Annotated[int, Ge(0)] = 0

    def forward(self, z: Embeddings, *, steps: Steps, present: dict[str, Tensor] | None = None) -> Tensor:
        names = [name for name in z if name in steps]
        require_two_inputs({name: z[name] for name in names})
        masks: list[Tensor] = []
        for a, b in itertools.combinations(names, 2):
            here, there = steps[a][1], steps[b][1]
            if here.shape != there.shape:
                raise ValueError(
                    f"{a} has {here.shape[1]} time steps and {b} has {there.shape[1]}: this loss compares views of "
                    "the same steps, so name one modality with two views in `inputs`"
                )
            masks.append(here & there if present is None else here & there & (present[a] & present[b])[:, None])
        longest = torch.stack([mask.sum(1).max() if len(mask) else mask.sum() for mask in masks]).tolist()
        terms = []
        for (a, b), mask, most in zip(itertools.combinations(names, 2), masks, longest, strict=True):
            if mask.is_cpu and mask.numel() and bool(mask.all()):  # a look costs less than masks there
                terms.append(ts2vec(steps[a][0], steps[b][0], None, self.alpha, self.temporal_unit))
            elif most:
                views = shared_steps(steps[a][0], steps[b][0], mask, most)
                terms.append(ts2vec(*views, self.alpha, self.temporal_unit))
        return torch.stack(terms).mean() if terms else zero_loss(z)
