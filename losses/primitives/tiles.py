"""Tiles of logits: their size, how many are kept for backward, their sums of exponentials, and the grid of them."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from clx.losses.primitives import ranks
from clx.losses.primitives.edits import Edit

small_side = 512  # up to so many rows on both sides, on CPU, all logits at once are faster than tiles
tiny_side = 256  # up to so many, losses save their gradient in the forward pass
multiplied: torch.dtype | None = None  # what factors of products are rounded to, where float32 is not to be kept
keep_limit: int | None = None  # bytes of tiles kept for backward, in place of `budget`


@contextmanager
def keeping(limit: int) -> Iterator[None]:
    """Keep up to `limit` bytes of tiles of each call for backward, in place of `budget`; 0 needs least memory."""
    global keep_limit
    before, keep_limit = keep_limit, limit
    try:
        yield
    finally:
        keep_limit = before


@contextmanager
def multiplying(dtype: torch.dtype | None) -> Iterator[None]:
    """Round the factors of products of float32 to `dtype`, bfloat16 say; their sums and all else stay float32."""
    global multiplied
    before, multiplied = multiplied, dtype
    try:
        yield
    finally:
        multiplied = before


def rounded(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """`x` as a factor of products in `dtype`; on a CPU, which has no such products, its rounded values in float32."""
    if dtype is None:
        return x
    return x.to(dtype) if x.is_cuda else x.to(dtype).to(x.dtype)


def product(a: Tensor, b: Tensor) -> Tensor:
    """`a b` in float32, also of `rounded` factors."""
    return torch.mm(a, b) if a.dtype in (torch.float32, torch.float64) else torch.mm(a, b, out_dtype=torch.float32)


def budget(*inputs: Tensor) -> int:
    """Bytes of tiles to keep for backward rather than to compute again, which is 10 to 40 % faster.

    Nine times the inputs, but from 8 to 256 MiB. With rows of width D that keeps all tiles of up to 18 D rows,
    so memory stays in proportion to the inputs: 64 MiB for CLIP on 4096 rows of 512, none on 16,384 of 128.
    """
    if keep_limit is not None:
        return keep_limit
    return max(8 << 20, min(256 << 20, 9 * sum(x.numel() * x.element_size() for x in inputs)))


def tile_side(x: Tensor) -> int:
    """Rows and columns of a tile: the fastest on CPU, and enough to fill a GPU."""
    if x.is_cuda:
        return 4096
    return 512 if x.shape[1] < 256 else 1024


def even_slices(n: int, side: int, start: int = 0) -> list[slice]:
    """Even parts of at most `side` rows, of the `n` from `start` on."""
    parts = -(-n // side) or 1
    edges = [start + n * k // parts for k in range(parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def by_rows(like: Tensor, side: int, of_rows: Callable[[slice], Sequence[Tensor]]) -> list[Tensor]:
    """Vectors with an entry for each row of `like`, from all pairs of rows; `of_rows` gives those of up to `side` rows.

    For what needs no gradient. Where `ranks` share the pairs, each has the rows of its own part.
    """
    n = len(like)
    world = ranks.sharers(like, n * n)
    part = world.part(n)
    pieces = [of_rows(rows) for rows in even_slices(part.stop - part.start, side, part.start)]
    whole = [torch.cat(vector) for vector in zip(*pieces, strict=True)]
    if world.size > 1:
        whole = [x.new_zeros(n).index_copy_(0, torch.arange(part.start, part.stop, device=x.device), x) for x in whole]
        world.add_up(*whole)
    return whole


def shift_for(x: Tensor, bound: float) -> float:
    """What to subtract from logits of at most `bound` so that `exp` cannot overflow; usually 0.

    In float32, logits of up to 60 stay as they are: exp overflows at 88, which leaves room for a sum of 1e10 terms.
    """
    return max(0.0, bound - 0.68 * math.log(torch.finfo(x.dtype).max))


def longest_row(x: Tensor) -> float:
    """Largest length of a row; 0 without rows."""
    return float(torch.linalg.vector_norm(x, dim=1).amax()) if len(x) else 0.0


def in_trusted_range(total: Tensor) -> bool:
    """Whether no sum of exponentials overflowed or is so small that terms of it underflowed."""
    if not total.numel():
        return True
    info = torch.finfo(total.dtype)
    low, high = (bound.item() for bound in total.aminmax())
    return low > info.tiny * 1e12 and high < info.max / 16


class ExponentialSum:
    """Running sums of exponentials, one per row or column, as `total * exp(peak)`."""

    def __init__(self, like: Tensor, size: int, peak: float) -> None:
        self.total, self.peak = like.new_zeros(size), like.new_full((size,), peak)

    def absorb(self, part: slice, s: Tensor, dim: int) -> None:
        """Add a tile of logits to the sums of `part`, along `dim`, under a running maximum."""
        total, peak = self.total[part], self.peak[part]
        top = torch.maximum(peak, s.amax(dim))
        floor = top.masked_fill(top == -math.inf, 0)
        total.mul_((peak - floor).exp_()).add_((s - floor.unsqueeze(dim)).exp_().sum(dim))
        peak.copy_(top)

    def log(self) -> Tensor:
        """Logarithm of the sums; -inf where nothing was added."""
        self.peak.masked_fill_(self.peak == -math.inf, 0)
        return self.total.log() + self.peak

    def fold(self, shape: list[int], keep: int) -> "ExponentialSum":
        """Sums over all axes of `shape` but one."""
        total, peak = (part.view(shape).movedim(keep, 0).reshape(shape[keep], -1) for part in (self.total, self.peak))
        folded = ExponentialSum(total, shape[keep], 0.0)
        folded.peak = peak.amax(1)
        floor = folded.peak.masked_fill(folded.peak == -math.inf, 0)
        folded.total = (total * (peak - floor[:, None]).exp()).sum(1)
        return folded


def over_ranks(world: ranks.World, *sums: ExponentialSum, beside: Sequence[Tensor] = ()) -> None:
    """Make of the sums of each rank, whatever their peaks, those over all ranks, in place; `beside` is added up too."""
    if world.size == 1:
        return
    total, peak = torch.cat([part.total for part in sums]), torch.cat([part.peak for part in sums])
    top = peak.masked_fill_(total == 0, -math.inf).clone()
    world.highest(top)
    floor = top.masked_fill(top == -math.inf, 0)
    total.mul_((peak - floor).exp_())
    world.add_up(total, *beside)
    sizes = [len(part.total) for part in sums]
    for part, its_total, its_peak in zip(sums, total.split(sizes), top.split(sizes), strict=True):
        part.total, part.peak = its_total.clone(), its_peak.clone()


def gradient_per_exponential(g: Tensor, total: Tensor) -> Tensor:
    """Gradient of a log-sum-exp with respect to each of its exponentials, g / total; 0 where nothing was summed."""
    return torch.where(total > 0, g / total, 0)


def per_shifted(a: Tensor, peak: Tensor, shift: float) -> Tensor:
    """`gradient_per_exponential` of sums with this peak for exponentials with this shift.

    The two differ if another rank took running maxima. No row of which this rank has exponentials has a lower peak.
    """
    return a * (shift - peak).exp_()


class Grid:
    """Tiles of `x y^T * scale` after their edit; with `upper` only one of each two that mirror each other.

    Where `ranks` share them, those of this rank.
    """

    def __init__(self, x: Tensor, y: Tensor, scale: Tensor | float, edit: Edit | None, upper: bool = False) -> None:
        side, self.world = tile_side(x), ranks.sharers(x, len(x) * len(y))
        blocks = self.world.triangle(len(x)) if upper else self.world.rectangle(len(x), len(y))
        if upper and not x.is_cuda:  # smaller ones, so that less is computed on both sides of the diagonal
            own = blocks[0][0]
            side = min(side, 512, max(128, (own.stop - own.start) // 2))
        self.places = [
            (i, j)
            for rows, columns in blocks
            for i in even_slices(rows.stop - rows.start, side, rows.start)
            for j in even_slices(columns.stop - columns.start, side, columns.start)
            if not (upper and rows == columns) or i.start <= j.start
        ]
        if self.world.size > 1:  # a rank may have no rows
            self.places = [(i, j) for i, j in self.places if i.start < i.stop and j.start < j.stop]
        self.dtype, self.like = multiplied if x.dtype == torch.float32 else None, x
        self.left: Tensor | float | None = None  # a factor that is no factor of the products
        if self.dtype is not None or isinstance(scale, Tensor):
            x, y, self.left, scale = rounded(x * scale, self.dtype), rounded(y, self.dtype), scale, 1.0
        elif math.isnan(scale):  # some CPU libraries take an alpha of NaN for 0
            x, scale = x * math.nan, 1.0
        self.x, self.y, self.scale, self.edit = x, y, scale, edit
        sides = [(i.stop - i.start, j.stop - j.start) for i, j in self.places]
        self.room = max((high for high, _ in sides), default=0) * max((wide for _, wide in sides), default=0)
        self.kept: list[Tensor] = []

    def bytes(self) -> int:
        """Memory of all tiles."""
        return len(self.places) * self.room * self.like.element_size()

    def touched(self, total: Tensor, *axes: int) -> Tensor:
        """The entries of sums by row to which tiles of this rank add, by their rows (axis 0) or columns (axis 1)."""
        if self.world.size == 1:
            return total
        parts = {(place[axis].start, place[axis].stop): place[axis] for place in self.places for axis in axes}
        return torch.cat([total[:0], *(total[part] for part in parts.values())])

    def buffer(self) -> Callable[[slice, slice], Tensor]:
        """A function that gives the same memory in the shape of a tile, by its slices."""
        room = self.like.new_empty(self.room)

        def shaped(i: slice, j: slice) -> Tensor:
            height, width = i.stop - i.start, j.stop - j.start
            return room[: height * width].view(height, width)

        return shaped

    def products(self, keep: bool = False) -> Iterator[tuple[slice, slice, Tensor]]:
        """Tiles before their edit, each with its slices; in one and the same memory unless they are to be kept."""
        shaped = self.buffer()
        for i, j in self.places:
            if self.x.dtype != self.like.dtype:
                s = product(self.x[i], self.y[j].T)
            else:
                s = self.like.new_empty(i.stop - i.start, j.stop - j.start) if keep else shaped(i, j)
                torch.addmm(s, self.x[i], self.y[j].T, beta=0, alpha=self.scale, out=s)
            if keep:
                self.kept.append(s)
            yield i, j, s

    def add_product(self, gradient: Tensor, w: Tensor, rows: Tensor) -> None:
        """Add to the gradient of one side `w rows`, where `rows` are the other side's, `self.x` or `self.y`."""
        if self.dtype is None:
            gradient.addmm_(w, rows, alpha=self.scale)
        else:
            gradient.add_(product(rounded(w, self.dtype), rows))

    def scale_left(self, gradient: Tensor) -> Tensor:
        """The gradient, in place, that was made of products with `self.y` alone: times what `self.x` contains."""
        return gradient if self.left is None else gradient.mul_(self.left)

    def logits(
        self, before_edit: Callable[[slice, slice, Tensor], None] | None = None
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """Tiles after their edit; weights are added as logarithms. `before_edit` is called with each tile before."""
        for i, j, s in self.products():
            if before_edit is not None:
                before_edit(i, j, s)
            weights = None if self.edit is None else self.edit(s, i, j)
            yield i, j, s if weights is None else s.add_(weights.log())

    def exponentials(
        self, shift: float, keep: bool = False, before_edit: Callable[[slice, slice, Tensor], None] | None = None
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """Tiles of exp(logits - shift), from memory if they were kept; `before_edit` is called with each of logits."""
        if self.kept:
            for (i, j), e in zip(self.places, self.kept, strict=True):
                yield i, j, e
            return
        for i, j, s in self.products(keep):
            if before_edit is not None:
                before_edit(i, j, s)
            weights = None if self.edit is None else self.edit(s, i, j)
            e = (s.sub_(shift) if shift else s).exp_()
            yield i, j, e if weights is None else e.mul_(weights)


def is_small(x: Tensor, size: int, side: int | None = None, columns: int | None = None) -> bool:
    """Whether the logits of `size` rows like those of `x` with as many columns, or so many, are computed all at once:
    on CPU, up to as many as `side` rows have with each other."""
    pairs = size * (size if columns is None else columns)
    small = x.is_cpu and multiplied is None and 0 < pairs <= min(small_side, side or small_side) ** 2
    return small and ranks.sharers(x, pairs).size == 1
