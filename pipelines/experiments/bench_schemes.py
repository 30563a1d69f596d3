"""Ways to take the gradient of a batch in parts, of chunks or of ranks: those published, as they are published.

Each leaves gradients in the parameters of two towers and of a temperature. What open_clip's loss does is done by its
own code where it is installed.
"""

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from clx.losses.primitives.autograd import at_least_float32
from clx.modalities.base import Input

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of rows `[N, D]` of two towers and the factor of their similarities `[]`."""


@dataclass(frozen=True)
class Towers:
    """Two towers whose rows are compared, and what they are given: all rows of the batch."""

    modules: Sequence[nn.Module]
    inputs: Sequence[Input]
    log_temperature: nn.Parameter

    @property
    def learned(self) -> list[nn.Parameter]:
        """Parameters of the towers."""
        return [p for module in self.modules for p in module.parameters()]

    def scale(self) -> Tensor:
        """The factor of similarities `[]`, as open_clip's `logit_scale.exp()`."""
        return (-self.log_temperature).exp()

    def one(self, tower: int, part: slice) -> Tensor:
        """Unit rows `[N, D]` of a tower."""
        value = {name: tensor[part] for name, tensor in self.inputs[tower].items()}
        return F.normalize(at_least_float32(self.modules[tower](value)), dim=1)

    def both(self, part: slice) -> tuple[Tensor, Tensor]:
        return self.one(0, part), self.one(1, part)


def contrast(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """The loss of CLIP `[]` (Radford et al. 2021, arXiv 2103.00020), from the similarities of all pairs."""
    logits, right = scale * x @ y.T, torch.arange(len(x), device=x.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def held(towers: Towers, streams: Sequence[tuple[int, Sequence[slice]]], tower_by_tower: bool) -> None:
    """What the others are measured by: all parts in memory at once, and the loss of all rows.

    Args:
        towers: whose gradients are left.
        streams: a seed each for the random numbers that its parts draw one after another.
        tower_by_tower: whether all parts of one tower are encoded before any of the other, or part by part.
    """
    rows: tuple[list[Tensor], list[Tensor]] = [], []
    for seed, parts in streams:
        torch.manual_seed(seed)
        order = [(tower, part) for tower in (0, 1) for part in parts]
        for tower, part in order if tower_by_tower else sorted(order, key=lambda each: each[1].start):
            rows[tower].append(towers.one(tower, part))
    contrast(torch.cat(rows[0]), torch.cat(rows[1]), towers.scale()).backward()


def accumulated_features(towers: Towers, parts: Sequence[slice], loss: Loss) -> None:
    """open_clip's `--accum-freq` (`open_clip_train/train.py`): features of all parts are cached, then each part is
    encoded again, put in place of its cached rows, and the loss of all rows is taken. Random numbers are drawn anew,
    and the temperature gets the gradient of the whole loss once for each part."""
    with torch.no_grad():
        cached = [towers.both(part) for part in parts]
    for k, part in enumerate(parts):
        found = [*cached[:k], towers.both(part), *cached[k + 1 :]]
        loss(torch.cat([x for x, _ in found]), torch.cat([y for _, y in found]), towers.scale()).backward()


def cached_gradients(towers: Towers, parts: Sequence[slice], replay: bool) -> None:
    """GradCache (Gao et al. 2021, arXiv 2101.06983): the gradient of cached features, then each part again with it.
    With `replay` each part draws the same random numbers again."""
    states, cached = [], list[tuple[Tensor, Tensor]]()
    with torch.no_grad():
        for part in parts:
            states.append(torch.get_rng_state())
            cached.append(towers.both(part))
    x, y = (torch.cat(each).requires_grad_() for each in zip(*cached, strict=True))
    contrast(x, y, towers.scale()).backward()
    assert x.grad is not None
    assert y.grad is not None
    for part, state in zip(parts, states, strict=True):
        if replay:
            torch.set_rng_state(state)
        torch.autograd.backward(towers.both(part), (x.grad[part], y.grad[part]))


def accumulated(towers: Towers, parts: Sequence[slice]) -> None:
    """Plain accumulation, as trainers with `gradient_accumulation_steps` do: each part is contrasted by itself."""
    for part in parts:
        (contrast(*towers.both(part), towers.scale()) / len(parts)).backward()


def averaged(towers: Towers, part: slice, loss: Loss, size: int, factor: float = 1.0) -> None:
    """One rank's part and its loss; the mean of all ranks' gradients, as DistributedDataParallel takes it."""
    (factor * loss(*towers.both(part), towers.scale())).backward()
    for parameter in (*towers.learned, towers.log_temperature):
        assert parameter.grad is not None
        dist.all_reduce(parameter.grad)
        parameter.grad /= size


def has_open_clip() -> bool:
    """Whether open_clip's own loss is there."""
    return importlib.util.find_spec("open_clip") is not None


def open_clip_loss(
    installed: bool, with_gradient: bool = False, local: bool = False, rank: int = 0, size: int = 1
) -> Loss:
    """open_clip's `ClipLoss`; what it computes, written from its formula, where it is not installed."""
    if installed:
        from open_clip.loss import ClipLoss

        warnings.filterwarnings("ignore", ".*all_gather is deprecated", FutureWarning)  # which open_clip calls
        found: Loss = ClipLoss(local_loss=local, gather_with_grad=with_gradient, rank=rank, world_size=size)
        return found

    def loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        if size == 1:
            return contrast(x, y, scale)
        everyone = [_gathered(rows, with_gradient, local, rank, size) for rows in (x, y)]
        if not local:
            return contrast(everyone[0], everyone[1], scale)
        right = torch.arange(len(x)) + len(x) * rank
        sides = (scale * x @ everyone[1].T, scale * y @ everyone[0].T)
        return (F.cross_entropy(sides[0], right) + F.cross_entropy(sides[1], right)) / 2

    return loss


def _gathered(rows: Tensor, with_gradient: bool, local: bool, rank: int, size: int) -> Tensor:
    """The rows of all ranks: with the gradient of all, or of one's own unless the loss is `local`."""
    if with_gradient:
        everyone: Tensor = _Everyone.apply(rows, rank, size)  # type: ignore[no-untyped-call]
        return everyone
    found = [torch.zeros_like(rows) for _ in range(size)]
    dist.all_gather(found, rows.detach())
    if not local:
        found[rank] = rows
    return torch.cat(found)


class _Everyone(torch.autograd.Function):
    """The rows of all ranks, `[N, D]` each; backward sums what all ranks ask for."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor, rank: int, size: int) -> Tensor:
        ctx.mine = slice(rank * len(rows), (rank + 1) * len(rows))  # type: ignore[attr-defined]
        found = [torch.zeros_like(rows) for _ in range(size)]
        dist.all_gather(found, rows)
        return torch.cat(found)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        everyone = gradient.contiguous().clone()
        dist.all_reduce(everyone)
        return everyone[ctx.mine], None, None  # type: ignore[attr-defined]
