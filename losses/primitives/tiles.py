"""What streaming works with: edits of tiles, sums of exponentials, and the grid of tiles itself."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Edit = Callable[[Tensor, slice, slice], Tensor | None]
"""Given a tile of logits, its rows and its columns, masks single entries in place with -inf, or returns weights
of the tile's exponentials, 0 for what is left out. It may add to the logits what does not depend on the embeddings.
Symmetric for `gram`; always the same.

Weights are for masks that leave out much: exp of -inf takes ten times as long as that of a number on CPU.
"""

Weigh = Callable[[slice, slice], Tensor]
"""Weights of a tile of pairs, given its rows and columns."""

F = TypeVar("F", bound=Callable[..., Any])

keep_limit: int | None = None


@contextmanager
def keeping(limit: int) -> Iterator[None]:
    """Keep up to `limit` bytes of tiles per call for backward, in place of `budget`; 0 for least memory."""
    global keep_limit
    before, keep_limit = keep_limit, limit
    try:
        yield
    finally:
        keep_limit = before


def budget(*inputs: Tensor) -> int:
    """Bytes of tiles to keep for backward rather than compute again: faster by 10 to 40 %.

    Nine times the inputs, but from 8 to 256 MiB. With rows of width D that keeps all tiles of up to 18 D rows,
    so memory stays in proportion to the inputs: 64 MiB for CLIP on 4096 rows of 512, none on 16,384 of 128.
    """
    if keep_limit is not None:
        return keep_limit
    return max(8 << 20, min(256 << 20, 9 * sum(x.numel() * x.element_size() for x in inputs)))


def off_diagonal(s: Tensor, i: slice, j: slice) -> None:
    """Edit that leaves out the pairs of a row with itself."""
    if i.start == j.start:
        s.fill_diagonal_(-math.inf)
    elif i.start < j.stop and j.start < i.stop:
        s.diagonal(i.start - j.start).fill_(-math.inf)


def off_items(size: int) -> Edit:
    """Edit for several views of `size` items under each other: leaves out the pairs of an item with itself."""

    def leave_out(s: Tensor, i: slice, j: slice) -> None:
        if not size:
            return
        along = i.start - j.start
        for step in range(-((s.shape[1] - 1 - along) // size) * size, along + len(s), size):
            s.diagonal(along - step).fill_(-math.inf)

    return leave_out


class Apart:
    """Edit that leaves out pairs of equal id: the same item, sample or label."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids
        self.sorted: dict[tuple[int, int], tuple[Tensor, Tensor, bool]] = {}

    def __call__(self, s: Tensor, i: slice, j: slice) -> Tensor | None:
        if s.is_cuda:  # asking for places would make it wait longer than comparing all
            s.masked_fill_(self.ids[i, None] == self.ids[j], -math.inf)
            return None
        values, order, unique = self._sort(j)
        if not unique:
            return (self.ids[i, None] != self.ids[j]).to(s.dtype)
        place = torch.searchsorted(values, self.ids[i]).clamp_(max=len(values) - 1)
        row = (values[place] == self.ids[i]).nonzero()[:, 0]
        s[row, order[place[row]]] = -math.inf
        return None

    def _sort(self, part: slice) -> tuple[Tensor, Tensor, bool]:
        """Ids of a part in order, where each was, and whether all differ."""
        key = part.start, part.stop
        if key not in self.sorted:
            values, order = self.ids[part].sort()
            self.sorted[key] = values, order, bool((values[1:] != values[:-1]).all())
        return self.sorted[key]


def full(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def plain(method: F) -> F:
    """Switch autocast off: similarities, exponentials and sums stay in the inputs' precision."""

    @functools.wraps(method)
    def inner(ctx: Any, *args: Any) -> Any:
        device = "cpu"
        for a in reversed(args):
            if isinstance(a, Tensor):
                device = a.device.type
                break
        if not torch.is_autocast_enabled(device):  # entering takes longer than asking
            return method(ctx, *args)
        with torch.autocast(device, enabled=False):
            return method(ctx, *args)

    return inner  # type: ignore[return-value]


def once(method: F) -> F:
    """`once_differentiable` where someone may differentiate again: it takes longer than asking."""
    guarded = once_differentiable(method)

    @functools.wraps(method)
    def inner(ctx: Any, *args: Any) -> Any:
        return guarded(ctx, *args) if torch.is_grad_enabled() else method(ctx, *args)

    return inner  # type: ignore[return-value]


def tile_side(x: Tensor) -> int:
    """Rows and columns of a tile: what was fastest on CPU, and what fills a GPU."""
    if x.is_cuda:
        return 4096
    return 512 if x.shape[1] < 256 else 1024


def slices(n: int, side: int) -> list[slice]:
    """Even parts of at most `side` rows."""
    parts = -(-n // side) or 1
    edges = [n * k // parts for k in range(parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def shift_for(x: Tensor, bound: float) -> float:
    """What to subtract from logits of at most `bound` so that `exp` cannot overflow; usually nothing.

    60 is left in float32, where exp overflows at 88: room for a sum of 1e10 terms.
    """
    return max(0.0, bound - 0.68 * math.log(torch.finfo(x.dtype).max))


def inverse(temperature: Tensor | float) -> float:
    """What similarities are multiplied by; NaN for a temperature that is infinite or NaN, so that the loss is NaN too.

    Of a temperature on a GPU this waits for the device. The tiles ask it for more than that (`longest`, `trusted`),
    and on CPU a factor inside the matrix product is free, where one more pass over the logits is not.
    """
    scale = 1 / float(temperature)
    return scale if scale and math.isfinite(scale) else math.nan


def finite(temperature: Tensor | float) -> Tensor | float:
    """The temperature for formulas that divide by it themselves: NaN where it is infinite, else as it is."""
    if isinstance(temperature, Tensor) and not temperature.is_cpu:
        return temperature + 0 * temperature.detach()  # does not wait for the device
    if math.isfinite(temperature.item() if isinstance(temperature, Tensor) else temperature):
        return temperature
    return temperature * math.nan


def longest(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dim=1).amax()) if len(x) else 0.0


def trusted(total: Tensor) -> bool:
    """Whether sums under the common shift neither overflowed nor sank to where small terms were lost."""
    if not total.numel():
        return True
    info = torch.finfo(total.dtype)
    low, high = (bound.item() for bound in total.aminmax())
    return low > info.tiny * 1e12 and high < info.max / 16


class Sum:
    """Running sum of exponentials per row or per column, as `total * exp(peak)`."""

    def __init__(self, like: Tensor, size: int, peak: float) -> None:
        self.total, self.peak = like.new_zeros(size), like.new_full((size,), peak)

    def absorb(self, part: slice, s: Tensor, dim: int) -> None:
        """Add a tile of logits under a running maximum."""
        total, peak = self.total[part], self.peak[part]
        top = torch.maximum(peak, s.amax(dim))
        floor = top.masked_fill(top == -math.inf, 0)
        total.mul_((peak - floor).exp_()).add_((s - floor.unsqueeze(dim)).exp_().sum(dim))
        peak.copy_(top)

    def log(self) -> Tensor:
        self.peak.masked_fill_(self.peak == -math.inf, 0)
        return self.total.log() + self.peak

    def fold(self, shape: list[int], keep: int) -> "Sum":
        """Sums over all axes of `shape` but one."""
        total, peak = (part.view(shape).movedim(keep, 0).reshape(shape[keep], -1) for part in (self.total, self.peak))
        folded = Sum(total, shape[keep], 0.0)
        folded.peak = peak.amax(1)
        folded.total = (total * (peak - folded.peak[:, None]).exp()).sum(1)
        return folded


def share(g: Tensor, total: Tensor) -> Tensor:
    """Gradient per unit of exp: g / total, and 0 where nothing was summed."""
    return torch.where(total > 0, g / total, 0)


def wide(x: Tensor) -> torch.dtype:
    """What long sums are added up in where `x` is: float64, which Apple's GPUs have not."""
    return torch.float32 if x.is_mps else torch.float64


def cooling(dx: Tensor, x: Tensor, scale: float) -> Tensor:
    """Gradient of the temperature, -sum(dx * x) / temperature, rows added up in `wide`."""
    warmth: Tensor = torch.linalg.vecdot(dx, x)
    return warmth.sum(dtype=wide(x)).mul(-scale).to(x.dtype)


class Grid:
    """Tiles of `x y^T * scale` after their edit; with `upper` only those on and above the diagonal."""

    def __init__(self, x: Tensor, y: Tensor, scale: float, edit: Edit | None, upper: bool = False) -> None:
        side = tile_side(x)
        if upper and not x.is_cuda:  # smaller ones, so that less is computed on both sides of the diagonal
            side = min(side, 512, max(128, len(x) // 2))
        down, right = slices(len(x), side), slices(len(y), side)
        self.places = [(i, j) for i in down for j in right if not upper or i.start <= j.start]
        if math.isnan(scale):  # some CPU libraries take an alpha of NaN for 0
            x, scale = x * math.nan, 1.0
        self.x, self.y, self.scale, self.edit = x, y, scale, edit
        self.room = -(-len(x) // len(down)) * -(-len(y) // len(right))
        self.kept: list[Tensor] = []

    def bytes(self) -> int:
        return len(self.places) * self.room * self.x.element_size()

    def buffer(self) -> Callable[[slice, slice], Tensor]:
        """Memory for one tile, handed out in the shape of each."""
        room = self.x.new_empty(self.room)

        def shaped(i: slice, j: slice) -> Tensor:
            height, width = i.stop - i.start, j.stop - j.start
            return room[: height * width].view(height, width)

        return shaped

    def products(self, keep: bool = False) -> Iterator[tuple[slice, slice, Tensor]]:
        """Tiles before their edit, one after the other in the same memory unless they are to be kept."""
        shaped = self.buffer()
        for i, j in self.places:
            s = self.x.new_empty(i.stop - i.start, j.stop - j.start) if keep else shaped(i, j)
            torch.addmm(s, self.x[i], self.y[j].T, beta=0, alpha=self.scale, out=s)
            if keep:
                self.kept.append(s)
            yield i, j, s

    def logits(self) -> Iterator[tuple[slice, slice, Tensor]]:
        for i, j, s in self.products():
            weights = None if self.edit is None else self.edit(s, i, j)
            yield i, j, s if weights is None else s.add_(weights.log())

    def exponentials(
        self, shift: float, keep: bool = False, see: Callable[[slice, slice, Tensor], None] | None = None
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """Tiles of exp(logits - shift), those kept if there are; `see` is shown each before its edit."""
        if self.kept:
            for (i, j), e in zip(self.places, self.kept, strict=True):
                yield i, j, e
            return
        for i, j, s in self.products(keep):
            if see is not None:
                see(i, j, s)
            weights = None if self.edit is None else self.edit(s, i, j)
            e = (s.sub_(shift) if shift else s).exp_()
            yield i, j, e if weights is None else e.mul_(weights)
