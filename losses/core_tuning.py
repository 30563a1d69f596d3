"""Core-tuning: fine-tuning on mixtures of rows with their hardest positives and with negatives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clx.losses.base import Embeddings, Tempered, register, zero_loss
from clx.losses.primitives.draws import beta, permutation
from clx.losses.primitives.edits import off_diagonal
from clx.losses.primitives.functional import unit
from clx.losses.primitives.masks import chosen, stack_present
from clx.losses.primitives.streaming import gram
from clx.losses.primitives.tiles import even_slices, tile_side


class Mixtures(NamedTuple):
    """Rows `[N, D]`, each of two classes."""

    rows: Tensor
    first: Tensor
    """`[N]` int64."""
    second: Tensor
    """`[N]` int64, not below the first."""
    share: Tensor
    """`[N]`, of the first class; 1 where both are the same."""


def hardest(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of unit rows `[N, D]` the least similar other row of the same label, itself where there is none, and the most
    similar row of another label; and whether there is such a one. `[N]` each."""
    positives, negatives, apart = [], [], []
    with torch.no_grad():
        for i in even_slices(len(x), tile_side(x)):
            s = x[i] @ x.T
            same = labels[i, None] == labels
            others = s.masked_fill(~same, torch.inf)
            others.diagonal(i.start).fill_(2)  # above any cosine, below what is not of the label
            positives.append(others.argmin(1))
            negatives.append(s.masked_fill(same, -torch.inf).argmax(1))
            apart.append(~same.all(1))
    return torch.cat(positives), torch.cat(negatives), torch.cat(apart)


def mixtures(f: Tensor, labels: Tensor, pairs: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Mixtures:
    """The rows as they are, without gradient, and for each of `pairs`, the mixtures of the rows i and j, of i `share`.

    Args:
        f: `[B, D]`.
        labels: `[B]`, at least 0.
        pairs: i, j `[n]` int64 and share `[n]`.
    """
    rows, first, second, shares = [f.detach()], [labels], [labels], [f.new_ones(len(f))]
    for i, j, share in pairs:
        rows.append(f[j].lerp(f[i], share[:, None].to(f.dtype)))
        of_i, of_j = labels[i], labels[j]
        first.append(torch.minimum(of_i, of_j))
        second.append(torch.maximum(of_i, of_j))
        shares.append(torch.where(of_i == of_j, 1, torch.where(of_i < of_j, share, 1 - share)))
    return Mixtures(torch.cat(rows), torch.cat(first), torch.cat(second), torch.cat(shares))


def soft_cross_entropy(logits: Tensor, mixed: Mixtures) -> Tensor:
    """Mean cross-entropy `[]` of logits `[N, C]` with the shares of both classes."""
    logs = logits.log_softmax(1)
    one, other = (logs.gather(1, each[:, None])[:, 0] for each in (mixed.first, mixed.second))
    return -other.lerp(one, mixed.share.to(logs.dtype)).mean()


def focal_supcon(z: Tensor, mixed: Mixtures, temperature: Tensor | float) -> Tensor:
    """SupCon whose positives, rows of the same classes in the same shares, count by how improbable they are.

    sum_i 1/N sum_{p in P(i)} -(1 - q_ip) log q_ip, over the number of rows with a positive; q_ip is softmax of row i
    over all other rows, its weight has a gradient, and N, not |P(i)|, divides. `z`: `[N, D]`, unit rows.
    """
    log_sum = gram(z, temperature, off_diagonal)[0]

    def rows(some: Tensor, log_sum: Tensor, every: Tensor, start: int) -> Tensor:
        i = slice(start, start + len(some))
        same = (mixed.first[i, None] == mixed.first) & (mixed.second[i, None] == mixed.second)
        same &= mixed.share[i, None] == mixed.share
        same.diagonal(start).fill_(False)
        logs = some @ every.T / temperature - log_sum[:, None]
        terms = torch.where(same, (logs.exp() - 1) * logs, 0).sum(1)
        return torch.stack([terms.sum(), same.any(1).sum().to(terms.dtype)])

    blocks, parts = even_slices(len(z), tile_side(z)), list[Tensor]()
    for i in blocks:
        block = (z[i], log_sum[i], z, i.start)
        # where there are several, the pairs of each are computed again in backward
        found = rows(*block) if len(blocks) == 1 else checkpoint(rows, *block, use_reentrant=False)
        assert isinstance(found, Tensor)
        parts.append(found)
    total, count = torch.stack(parts).sum(0)
    mean: Tensor = total / len(z) / count.detach().clamp(min=1)
    return mean


@register("core-tuning")
@dataclass(eq=False, kw_only=True)
class CoreTuning(Tempered):
    """Cross-entropy and focal SupCon on rows and on mixtures of them, to fine-tune what contrast has trained.

    Each row stands for itself, without gradient, in a mixture with a random row, of which it has the lesser part, and
    in one of its least similar row of the same label, by cosine, and its most similar one of another label. The
    hardest positives are those of the paper: the authors' code nearly always takes the row itself. Rows without a
    label are left out.

    Example:
        >>> import torch
        >>> z, head = {"image": torch.eye(4)}, lambda rows: rows[:, :2]
        >>> loss, draws = CoreTuning(contrast=0), torch.Generator().manual_seed(0)
        >>> value = loss(z, labels=torch.tensor([0, 1, 0, 1]), head=head, generator=draws)
        >>> 0.3 < value.item() < 1  # about log 2
        True
    """

    family = "mixtures"
    trains_predictions = True
    host_reads = 2
    paper = "Zhang et al. 2021, arXiv 2102.06605"
    formula = (
        "CE + contrast * sum_i 1/N sum_{p in P(i)} -(1 - q_ip) log q_ip / #{i: P(i)}, over rows and mixtures; q: "
        "softmax of u.u / t over all others, P(i): rows of the same classes in the same shares"
    )
    cost = "time O(B^2 D), memory O(B D); of B rows 3 B are compared"
    fits = ("labels",)
    use = "few labels, and a tower that contrast without labels has trained (stages: [{run: DIR}, {}])"

    temperature: Annotated[float, Gt(0)] = 0.07
    contrast: Annotated[float, Ge(0)] = 0.1
    alpha: Annotated[float, Gt(0)] = 1.0  # of Beta(alpha, alpha)
    least_share: Annotated[float, Ge(0), Le(1)] = 0.8  # of the random row in its mixture
    projection: Annotated[int, Ge(1)] = 256
    head_of_contrast: nn.Module = field(init=False, repr=False)

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        self.head_of_contrast = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, self.projection))

    def forward(
        self,
        z: Embeddings,
        *,
        labels: Tensor,
        head: Callable[[Tensor], Tensor],
        present: dict[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        f, items = stack_present(z, present)
        (known,) = chosen([labels[items] >= 0])
        self.count("dropped_labels", len(f) - len(known))
        f, labels = f[known], labels[items][known]
        if len(f) < 2:
            return zero_loss(z)
        every = torch.arange(len(f), device=f.device)
        positive, negative, apart = hardest(unit(f.detach()), labels)
        (some,) = chosen([apart])
        order = permutation(len(f), f, generator)
        shares = beta(self.alpha, self.alpha, (2, len(f)), f, generator)
        mixed = mixtures(
            f,
            labels,
            [(order, every, shares[0].clamp(min=self.least_share)), (positive[some], negative[some], shares[1][some])],
        )
        loss = soft_cross_entropy(head(mixed.rows), mixed)
        if not self.contrast:
            return loss
        project = self.head_of_contrast if hasattr(self, "head_of_contrast") else nn.Identity()
        return loss + self.contrast * focal_supcon(unit(project(mixed.rows)), mixed, self.tau)
