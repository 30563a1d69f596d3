"""How alike rows are, from 0 to 1, block by block: from a description of each row, never of all pairs at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from clx.losses.primitives.functional import unit

Kernel = Literal["equal", "cosine", "jaccard", "tree", "paths", "gaussian"]
Tree = tuple[Tensor, list[int]]
"""What `tree_of` gives."""


@dataclass(frozen=True)
class Alike:
    """Descriptions of rows, and how two of them are compared. Called with a slice of rows it gives `[b, N]`.

    Rows that are not `known` are like no row.
    """

    compare: Callable[[Tensor, Tensor], Tensor]
    """Of descriptions `[b, F]` and `[N, F]`, or `[b]` and `[N]`, how alike each two are `[b, N]`."""
    described: Tensor
    known: Tensor | None
    """`[N]` bool; None for all."""

    def take(self, rows: Tensor | slice) -> "Alike":
        """Of some of the rows."""
        if isinstance(rows, slice) and rows == slice(None):
            return self
        return replace(self, described=self.described[rows], known=None if self.known is None else self.known[rows])

    def __call__(self, rows: slice) -> Tensor:
        w = self.compare(self.described[rows], self.described)
        return w if self.known is None else w.mul_(self.known[rows, None]).mul_(self.known)


def of_known(rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """Rows `[N, F]` with zeros for those that hold a NaN, and which hold none; on a CPU None where none does."""
    known = rows.isfinite().all(1)
    if known.is_cpu and bool(known.all()):
        return rows, None
    return torch.where(known[:, None], rows, 0), known


def by_class(labels: Tensor, tree: Tree | None, dtype: torch.dtype) -> Alike:
    """Of single labels `[N]`, -1 for none: 1 for equal ones, else 0; with a tree what `by_sets` has."""
    known = labels >= 0
    if tree is None:
        return Alike(lambda a, b: (a[:, None] == b).to(dtype), labels, known)
    return Alike(_overlap(tree[1]), tree[0].to(dtype)[labels.clamp(min=0)], known)


def by_sets(sets: Tensor, kernel: Kernel, tree: Tree | None, dtype: torch.dtype) -> Alike:
    """Of sets of labels `[N, C]`, 1 for each that applies, 0 for each that does not, NaN where that is not known.

    equal: 1 for equal sets, else 0. cosine: |A & B| / sqrt(|A| |B|). jaccard: |A & B| / |A | B|. An empty set is like
    no set, but `equal` to another. Two rows are compared by the labels that are known of both; what stands above labels
    is known where one of them applies or none does.

    With the tree of the labels, tree: the Jaccard index of the labels with all that stands above
    them. That is (1 + sim) / 2 of the tree distance sim = 1 - 2 d / n of Lu et al. 2023, arXiv 2310.09672, with d the
    nodes that one of the two trees has and n those of both, where theirs counts a renamed node once. paths: the mean
    of the Jaccard indices of runs of levels, each level, each two in a row, and so on (He et al. 2022,
    arXiv 2209.06638); runs that neither has are left out of the mean.
    """
    x, there = (sets > 0).to(dtype), sets.isfinite()
    known = None if there.is_cpu and bool(there.all()) else there.any(1)
    told, widths = there.to(dtype), [x.shape[1]]
    if kernel in ("tree", "paths"):
        assert tree is not None
        nodes, widths = tree[0].to(dtype), tree[1]
        x = (x @ nodes > 0).to(dtype)
        told = (x > 0) | ((sets != 0).to(dtype) @ nodes == 0) if known is not None else told
    if known is None:
        if kernel == "cosine":
            return Alike(lambda a, b: a @ b.T, unit(x), None)
        return Alike(_same_sets if kernel == "equal" else _overlap(widths), x, None)
    compare = {"cosine": _cosine_of_known, "equal": _same_of_known}.get(kernel) or _overlap_of_known(widths)
    return Alike(compare, torch.cat([x, told.to(dtype)], 1), known)


def by_vectors(rows: Tensor, temperature: float | None) -> Alike:
    """Of vectors `[N, F]`, NaN where there is none: (1 + cos) / 2, or exp((cos - 1) / temperature)."""
    rows, known = of_known(rows)
    u = unit(rows)
    if temperature is None:
        return Alike(lambda a, b: (a @ b.T).add_(1).div_(2).clamp_(0, 1), u, known)
    return Alike(lambda a, b: (a @ b.T).sub_(1).div_(temperature).exp_(), u, known)


def by_numbers(targets: Tensor, kernel: Kernel, bandwidth: float | None) -> Alike:
    """Of numbers `[N, K]`, NaN where there are none: exp(-d^2 / (2 h^2)) of the distance d, or the cosine, at least 0.

    h is `bandwidth`, by default the deviation of the rows, the root of the sum of squares over columns.
    """
    y, known = of_known(targets)
    if kernel == "cosine":
        return Alike(lambda a, b: (a @ b.T).clamp_(min=0), unit(y), known)
    if bandwidth is None:
        count = len(y) if known is None else known.sum().clamp(min=1)
        apart = y - y.sum(0) / count
        apart = apart if known is None else torch.where(known[:, None], apart, 0)
        spread = (apart.square().sum() / count).sqrt()
        y = y / torch.where(spread > 0, spread, 1)
    else:
        y = y / bandwidth
    exact = "donot_use_mm_for_euclid_dist"  # else the square roots of rounding errors
    return Alike(lambda a, b: torch.cdist(a, b, compute_mode=exact).square_().div_(-2).exp_(), y, known)


def _same_sets(a: Tensor, b: Tensor) -> Tensor:
    shared, n, m = a @ b.T, a.sum(1)[:, None], b.sum(1)
    return ((shared == n) & (shared == m)).to(a.dtype)


def _same_of_known(a: Tensor, b: Tensor) -> Tensor:
    """As `_same_sets` by what is known of both, of rows `[N, 2 C]` of labels that apply and labels that are known."""
    (x, of_x), (y, of_y) = a.chunk(2, 1), b.chunk(2, 1)
    apart = x @ (of_y - y).T + (of_x - x) @ y.T
    return ((apart == 0) & (of_x @ of_y.T > 0)).to(a.dtype)


def _cosine_of_known(a: Tensor, b: Tensor) -> Tensor:
    (x, of_x), (y, of_y) = a.chunk(2, 1), b.chunk(2, 1)
    return (x @ y.T).div_((x @ of_y.T).mul_(of_x @ y.T).sqrt_().clamp_(min=1))


def _overlap_of_known(widths: Sequence[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """As `_overlap` by what is known of both."""

    def compare(a: Tensor, b: Tensor) -> Tensor:
        total, groups = a.new_zeros(len(a), len(b)), a.new_zeros(len(a), len(b))
        parts = (each.split(list(widths), 1) for each in (*a.chunk(2, 1), *b.chunk(2, 1)))
        for x, of_x, y, of_y in zip(*parts, strict=True):
            shared = x @ y.T
            either = x @ of_y.T + of_x @ y.T - shared
            total += shared / either.clamp(min=1)
            groups += either > 0
        return total if len(widths) == 1 else total.div_(groups.clamp_(min=1))

    return compare


def _overlap(widths: Sequence[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean over groups of so many columns of |A & B| / |A | B|, without groups that are empty in both."""

    def compare(a: Tensor, b: Tensor) -> Tensor:
        total, groups = a.new_zeros(len(a), len(b)), a.new_zeros(len(a), len(b))
        for x, y in zip(a.split(list(widths), 1), b.split(list(widths), 1), strict=True):
            shared = x @ y.T
            either = x.sum(1)[:, None] + y.sum(1) - shared
            total += shared / either.clamp(min=1)
            if len(widths) > 1:
                groups += either > 0
        return total if len(widths) == 1 else total.div_(groups.clamp_(min=1))

    return compare


def tree_of(levels: Tensor | None, kernel: Kernel) -> Tree:
    """Which nodes each class has `[C, nodes]`, and how many are of each kind of run of levels, for `tree` or `paths`.

    Args:
        levels: `[C, L]` int64, of each class the number of its name at each level of its path; -1 behind its end.

    Raises:
        ValueError: without levels.
    """
    if levels is None:
        raise ValueError(f"kernel: {kernel} needs levels of the labels, and these have none: set data.levels")
    table, depth = levels.cpu(), levels.shape[1]
    runs = [(0, n) for n in range(1, depth + 1)]
    if kernel == "paths":
        runs = [(start, n) for n in range(1, depth + 1) for start in range(depth - n + 1)]
    kinds = []
    for start, n in runs:
        run = table[:, start : start + n]
        whole = (run >= 0).all(1)
        number = run[whole].unique(dim=0, return_inverse=True)[1]
        kind = torch.zeros(len(table), int(number.max()) + 1 if len(number) else 0)
        kind[whole.nonzero()[:, 0], number] = 1
        kinds.append(kind)
    widths = [kind.shape[1] for kind in kinds]
    return torch.cat(kinds, 1).to(levels.device), [sum(widths)] if kernel == "tree" else widths
