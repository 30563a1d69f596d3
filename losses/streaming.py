"""Log-sum-exp of similarities, tile by tile: no matrix of all pairs is ever built.

`cross` reduces x y^T over rows and over columns, `gram` the symmetric z z^T (upper tiles only); `cube`,
in a file of its own, the inner products of every tuple of rows of several factors. Memory is O(B D + tile),
in float32 or float64. An `Edit` may mask or reweight a tile before it is exponentiated.

They return the log-sum-exp only. A loss whose positive sits in the denominator leaves it out here and writes
`softplus(negatives - positive)`: the same value, and its gradient never takes 1 from a probability near 1.

The exponentials share one shift taken from the Cauchy-Schwarz bound of the logits, so a tile costs one `exp`
and no maximum. Should a sum leave the trusted range, all is redone with a running maximum per row and column.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Edit = Callable[[Tensor, slice, slice], Tensor | None]
"""Given a tile of logits, its rows and its columns, masks single entries in place with -inf, or returns weights
of the tile's exponentials, 0 for what is left out. Symmetric for `gram`; always the same.

Weights are for masks that leave out much: exp of -inf takes ten times as long as that of a number on CPU.
"""

Weigh = Callable[[slice, slice], Tensor]
"""Weights of a tile of pairs, given its rows and columns."""

F = TypeVar("F", bound=Callable[..., Any])

small_side = 384  # up to so many rows on both sides tiles cost more in bookkeeping than they save
keep_bytes = 8 << 20  # tiles up to this size in all are kept for backward instead of being computed again


@contextmanager
def keeping(limit: int) -> Iterator[None]:
    """Keep up to `limit` bytes of tiles per call for backward: faster by 10 to 40 %, 0 for least memory."""
    global keep_bytes
    before, keep_bytes = keep_bytes, limit
    try:
        yield
    finally:
        keep_bytes = before


def unit(x: Tensor) -> Tensor:
    """Rows of `x` `[B, D]` at length 1; a row of zeros stays zero and receives no gradient."""
    return _Unit.apply(full(x))  # type: ignore[no-any-return, no-untyped-call]


def paired(x: Tensor, y: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
    """Scaled similarity of each row of `x` with the same row of `y`, `[B]`."""
    similarity: Tensor = torch.linalg.vecdot(x, y)
    return similarity / temperature


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), exact to float64 (torch's default is not beyond 20); 0 without gradient at -inf."""
    return torch.nn.functional.softplus(x, threshold=40)


def lse(x: Tensor, dim: int) -> Tensor:
    """Log-sum-exp over one dimension; where all is -inf so is the result, and the gradient is 0, not NaN."""
    peak = x.detach().amax(dim, keepdim=True)
    peak = peak.masked_fill(peak == -math.inf, 0)
    total = (x - peak).exp().sum(dim)
    some = total > 0
    return torch.where(some, total, 1).log().masked_fill(~some, -math.inf) + peak.squeeze(dim)


def mean(x: Tensor) -> Tensor:
    """Mean of all entries, 0 of none."""
    return x.sum() / max(1, x.numel())


def cross(x: Tensor, y: Tensor, temperature: Tensor | float, edit: Edit | None = None) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of `x y^T / temperature` over columns, `[N]`, and over rows, `[M]`.

    Args:
        x, y: `[N, D]` and `[M, D]`.
        temperature: positive number or scalar tensor, which then receives its gradient.
        edit: masks or reweights tiles; a row with nothing left gives -inf and no gradient.
    """
    x, y = full(x), full(y)
    if (e := _small(x, y, temperature, edit)) is not None:
        return _Small.apply(temperature, x, y, e)  # type: ignore[no-any-return, no-untyped-call]
    return _Cross.apply(temperature, edit, True, x, y)  # type: ignore[no-any-return, no-untyped-call]


def rows(x: Tensor, y: Tensor, temperature: Tensor | float, edit: Edit | None = None) -> Tensor:
    """The first half of `cross`, for less: log-sum-exp of `x y^T / temperature` over columns, `[N]`."""
    x, y = full(x), full(y)
    if (e := _small(x, y, temperature, edit)) is not None:
        return _Small.apply(temperature, x, y, e)[0]  # type: ignore[no-any-return, no-untyped-call]
    return _Cross.apply(temperature, edit, False, x, y)[0]  # type: ignore[no-any-return, no-untyped-call]


def gram(
    z: Tensor, temperature: Tensor | float, edit: Edit | None = None, weigh: Weigh | None = None
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of each row of `z z^T / temperature`, `[N]`, and its plain sum weighted by `weigh`, `[N]`.

    Args:
        z: `[N, D]`.
        temperature: positive number or scalar tensor, which then receives its gradient.
        edit: masks or reweights tiles; nothing is left out without it, not even the diagonal.
        weigh: symmetric tiles of weights for the plain sum of logits before their edit; without it it is 0.
    """
    z = full(z)
    if weigh is None and (e := _small(z, z, temperature, edit)) is not None:
        log_sum = _Small.apply(temperature, z, z, e)[0]  # type: ignore[no-untyped-call]
        return log_sum, torch.zeros_like(log_sum)
    return _Gram.apply(temperature, edit, weigh, z)  # type: ignore[no-any-return, no-untyped-call]


def off_diagonal(s: Tensor, i: slice, j: slice) -> None:
    """Edit that leaves out the pairs of a row with itself."""
    if i.start < j.stop and j.start < i.stop:
        s.diagonal(i.start - j.start).fill_(-math.inf)


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
        device = next(a.device.type for a in args[::-1] if isinstance(a, Tensor))
        with torch.autocast(device, enabled=False):
            return method(ctx, *args)

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


def longest(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dim=1).amax()) if len(x) else 0.0


def trusted(total: Tensor) -> bool:
    """Whether sums under the common shift neither overflowed nor sank to where small terms were lost."""
    if not total.numel():
        return True
    info = torch.finfo(total.dtype)
    low, high = map(float, total.aminmax())
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


def cooling(dx: Tensor, x: Tensor, scale: float) -> Tensor:
    """Gradient of the temperature, -sum(dx * x) / temperature, rows added up in float64."""
    warmth: Tensor = torch.linalg.vecdot(dx, x)
    return warmth.sum(dtype=torch.float64).mul(-scale).to(x.dtype)


class Grid:
    """Tiles of `x y^T * scale` after their edit; with `upper` only those on and above the diagonal."""

    def __init__(self, x: Tensor, y: Tensor, scale: float, edit: Edit | None, upper: bool = False) -> None:
        side = tile_side(x)
        if upper and not x.is_cuda:  # smaller ones, so that less is computed on both sides of the diagonal
            side = min(side, 512, max(128, len(x) // 2))
        down, right = slices(len(x), side), slices(len(y), side)
        self.places = [(i, j) for i in down for j in right if not upper or i.start <= j.start]
        self.x, self.y, self.scale, self.edit = x, y, scale, edit
        self.room = -(-len(x) // len(down)) * -(-len(y) // len(right))
        self.kept: list[Tensor] = []

    def bytes(self) -> int:
        return len(self.places) * self.room * self.x.element_size()

    def buffer(self) -> Callable[[slice, slice], Tensor]:
        """Memory for one tile, handed out in the shape of each."""
        room = self.x.new_empty(self.room)
        return lambda i, j: room[: (i.stop - i.start) * (j.stop - j.start)].view(i.stop - i.start, -1)

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


class _Unit(Function):
    @staticmethod
    @plain
    def forward(ctx: Any, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        inverse = torch.where(norm > 1e-12, 1 / norm, 0)
        ctx.save_for_backward(x, inverse)
        return x * inverse

    @staticmethod
    @once_differentiable
    @plain
    def backward(ctx: Any, g: Tensor) -> Tensor:
        x, inverse = ctx.saved_tensors
        along = torch.linalg.vecdot(g, x).unsqueeze(1) * inverse**2
        return torch.addcmul(g, x, along, value=-1).mul_(inverse)


class _Cross(Function):
    @staticmethod
    @plain
    def forward(
        ctx: Any, temperature: Tensor | float, edit: Edit | None, both: bool, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        scale = 1 / float(temperature)
        grid, shift = Grid(x, y, scale, edit), shift_for(x, scale * longest(x) * longest(y))
        down, along = Sum(x, len(x), shift), Sum(x, len(y), shift)
        keep = any(ctx.needs_input_grad) and grid.bytes() <= keep_bytes
        for i, j, e in grid.exponentials(shift, keep):
            down.total[i] += e.sum(1)
            if both:
                along.total[j] += e.sum(0)
        ctx.exact = not (trusted(down.total) and (not both or trusted(along.total)))
        if ctx.exact:
            down, along, grid.kept = Sum(x, len(x), -math.inf), Sum(x, len(y), -math.inf), []
            for i, j, s in grid.logits():
                down.absorb(i, s, 1)
                if both:
                    along.absorb(j, s, 0)
        lse = down.log(), along.log()
        ctx.save_for_backward(x, y, down.total, down.peak, along.total, along.peak)
        ctx.both, ctx.shift, ctx.grid = both, shift, grid
        return lse

    @staticmethod
    @once_differentiable
    @plain
    def backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor | None, ...]:
        x, y, total, p, other, q = ctx.saved_tensors
        a, b, grid = share(g, total), share(h, other), ctx.grid
        dx, dy, shaped = torch.zeros_like(x), torch.zeros_like(y), grid.buffer()
        for i, j, s in grid.logits() if ctx.exact else grid.exponentials(ctx.shift):
            w = shaped(i, j)
            if ctx.exact:
                torch.sub(s, p[i, None], out=w).exp_().mul_(a[i, None])
                if ctx.both:
                    w.add_(s.sub_(q[j]).exp_().mul_(b[j]))
            elif ctx.both:
                torch.add(a[i, None], b[j], out=w).mul_(s)
            else:
                torch.mul(s, a[i, None], out=w)
            dx[i].addmm_(w, y[j], alpha=grid.scale)
            if ctx.needs_input_grad[4]:
                dy[j].addmm_(w.T, x[i], alpha=grid.scale)
        dt = cooling(dx, x, grid.scale) if ctx.needs_input_grad[0] else None
        return dt, None, None, dx, dy


class _Small(Function):
    """Both halves of `cross` for one small tile: what the bookkeeping of tiles would cost is left out."""

    @staticmethod
    @plain
    def forward(ctx: Any, temperature: Tensor | float, x: Tensor, y: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        down, along = e.sum(1), e.sum(0)
        ctx.save_for_backward(x, y, e, down, along)
        ctx.scale = 1 / float(temperature)
        return down.log(), along.log()

    @staticmethod
    @once_differentiable
    @plain
    def backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor | None, ...]:
        x, y, e, down, along = ctx.saved_tensors
        w = (share(g, down)[:, None] + share(h, along)).mul_(e)
        dx, dy = torch.mm(w, y).mul_(ctx.scale), torch.mm(w.T, x).mul_(ctx.scale)
        dt = cooling(dx, x, ctx.scale) if ctx.needs_input_grad[0] else None
        return dt, dx, dy, None


def _small(x: Tensor, y: Tensor, temperature: Tensor | float, edit: Edit | None) -> Tensor | None:
    """Exponentials of all logits where that is one small tile on CPU and no shift is needed, else None."""
    if x.is_cuda or max(len(x), len(y)) > small_side or not len(x):
        return None
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        s = torch.mm(x, y.T).mul_(1 / float(temperature))
        low, high = map(float, s.aminmax())
        limit = 0.68 * math.log(torch.finfo(x.dtype).max)
        if not -limit < low <= high < limit:
            return None
        weights = None if edit is None else edit(s, slice(0, len(x)), slice(0, len(y)))
        return s.exp_() if weights is None else s.exp_().mul_(weights)


class _Gram(Function):
    @staticmethod
    @plain
    def forward(
        ctx: Any, temperature: Tensor | float, edit: Edit | None, weigh: Weigh | None, z: Tensor
    ) -> tuple[Tensor, Tensor]:
        scale = 1 / float(temperature)
        grid, shift = Grid(z, z, scale, edit, upper=True), shift_for(z, scale * longest(z) ** 2)
        sums, linear = Sum(z, len(z), shift), z.new_zeros(len(z))

        def add_up(i: slice, j: slice, s: Tensor) -> None:
            if weigh is not None:
                weighed = weigh(i, j).mul_(s)
                linear[i] += weighed.sum(1)
                if i != j:
                    linear[j] += weighed.sum(0)

        keep = any(ctx.needs_input_grad) and grid.bytes() <= keep_bytes
        for i, j, e in grid.exponentials(shift, keep, add_up):
            sums.total[i] += e.sum(1)
            if i != j:
                sums.total[j] += e.sum(0)
        ctx.exact = not trusted(sums.total)
        if ctx.exact:
            sums, grid.kept = Sum(z, len(z), -math.inf), []
            for i, j, s in grid.logits():
                sums.absorb(i, s, 1)
                if i != j:
                    sums.absorb(j, s, 0)
        lse = sums.log()
        ctx.save_for_backward(z, sums.total, sums.peak)
        ctx.shift, ctx.grid, ctx.weigh = shift, grid, weigh
        return lse, linear

    @staticmethod
    @once_differentiable
    @plain
    def backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor | None, ...]:
        z, total, p = ctx.saved_tensors
        a, grid = share(g, total), ctx.grid
        dz, shaped = torch.zeros_like(z), grid.buffer()
        for i, j, s in grid.logits() if ctx.exact else grid.exponentials(ctx.shift):
            w = shaped(i, j)
            if ctx.exact:
                torch.sub(s, p[i, None], out=w).exp_().mul_(a[i, None])
                w.add_(s.sub_(p[j]).exp_().mul_(a[j]))
            else:
                torch.add(a[i, None], a[j], out=w).mul_(s)
            if ctx.weigh is not None:
                w.addcmul_(ctx.weigh(i, j), h[i, None] + h[j])
            dz[i].addmm_(w, z[j], alpha=grid.scale)
            if i != j:
                dz[j].addmm_(w.T, z[i], alpha=grid.scale)
        # dz counts every pair from both of its rows, the temperature once
        dt = cooling(dz, z, grid.scale / 2) if ctx.needs_input_grad[0] else None
        return dt, None, None, dz
