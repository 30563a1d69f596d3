"""What `clx mine` is asked for."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Wanted:
    """What is mined, and how."""

    negatives: int = 0
    """Hard negatives of a row: columns `negative_1`, `negative_2` ..., of other rows' cells, nearest first."""
    ranks: tuple[int, int] | None = None
    """From which rank to which they are taken, 1 being the nearest that may be one; 1 to 100, or to ten times
    `negatives`, when None. Communities have their edges from there, too."""
    margin: float | None = None
    """A negative's cosine is at most that of the row's own partner less this,"""
    relative: float | None = None
    """and less this share of it."""
    draw: Literal["top", "random"] = "top"
    """Which of those that remain: the nearest, or any."""
    quantile: float | None = None
    """Of the guide's cosines of unrelated pairs: what is above is no negative. When None what the guide finds nearer
    than the row's own partner is none (GISTEmbed, Solatorio 2024, arXiv 2402.16829)."""
    same: tuple[str, ...] = ()
    """Columns whose value, or one of whose values, rows share that are never negatives of each other."""
    consistent: int | None = None
    """Only rows whose partner is among so many nearest are written: fewer than so many candidates are nearer."""
    least: float | None = None
    """And whose partner has this cosine at least (both: CoRNStack, Suresh et al. 2024, arXiv 2412.01007)."""
    nearest: int = 0
    """Nearest cells of other rows, that may be of the same label: columns `nearest_1` ..."""
    clusters: int = 0
    """Clusters of what is asked of, learned from train rows: column `cluster`."""
    within: str | None = None
    """A column with whose cells the clusters are crossed: `cluster` is then the row's cell and its cluster, as `3/7`,
    and may take the place of that column. So rows meet that agree in what several stages know (MCL, Zhang et al. 2024,
    arXiv 2402.11816)."""
    centres: int = 1
    """So many nearest clusters of a row, divided by `|` in the column `clusters`, for a set of labels (MLCD, An et al.
    2024, arXiv 2407.17331)."""
    communities: int = 0
    """Rows of a community of rows that are hard for each other: column `community` (B3, Thirukovalluru et al. 2025,
    arXiv 2505.11293)."""
    seed: int = 0

    @property
    def range(self) -> tuple[int, int]:
        return self.ranks or (1, max(100, 10 * self.negatives))

    @property
    def depth(self) -> int:
        """How many of the nearest candidates are looked at one by one."""
        filtered = self.margin is not None or self.relative is not None or self.draw == "random"
        first, last = self.range
        if self.communities or (self.negatives and (filtered or self.ranks is not None)):
            return last
        return min(last, first - 1 + self.negatives)

    @property
    def columns(self) -> list[str]:
        """Names of what is added."""
        found = [f"negative_{k + 1}" for k in range(self.negatives)]
        found += [f"nearest_{k + 1}" for k in range(self.nearest)]
        if self.clusters:
            found += ["cluster", *(["clusters"] if self.centres > 1 else [])]
        return found + (["community"] if self.communities else [])

    @property
    def replaced(self) -> str | None:
        """A column of the rows whose place one that is added takes."""
        return self.within if self.clusters and self.within == "cluster" else None
