"""Late interaction: two rows are compared token by token, or place by place, and not by one vector each."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from clx.losses.base import Embeddings, Steps, average, register, require_two_inputs, zero_loss
from clx.losses.further_negatives import rows_there
from clx.losses.pairwise import Pairwise, item_ids
from clx.losses.primitives.functional import lse, softplus, unit_steps, weighted_mean
from clx.losses.primitives.masks import chosen

most_pairs = 1 << 23  # pairs of steps whose cosines are there at a time


def late_scores(
    x: Tensor,
    x_mask: Tensor,
    y: Tensor,
    y_mask: Tensor,
    softness: float = 0.0,
    pool: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """How well each row of `y` answers each row of `x`: `[N, M]`.

    score(x, y) = mean_u max_v cos(x_u, y_v)                          without softness (MaxSim)
    score(x, y) = mean_u sum_v softmax_v(x_u.y_v / softness) cos(x_u, y_v)

    Args:
        x: `[N, T, D]`, the steps that ask; `x_mask` `[N, T]` says which there are.
        y: `[M, S, D]`, those that answer, and their mask `[M, S]`.
        softness: temperature of the choice among the steps of `y`; its products are those of rows as they are, not of
            unit rows.
        pool: whether the steps of `x` are averaged or summed.

    Returns:
        0 for a row of `x` without steps, -1 for each step of `x` with a row of `y` without any. Computed by tiles,
        which are computed again in backward, so memory is in proportion to the inputs and to N M.

    Reference:
        Khattab and Zaharia 2020, ColBERT, arXiv 2004.12832 (sum); Yao et al. 2021, FILIP, arXiv 2111.07783 (mean);
        De Lange et al. 2025, arXiv 2511.07969 (softness).
    """
    a, b = max(1, x.shape[1]), max(1, y.shape[1])
    columns = min(len(y), max(1, math.isqrt(most_pairs // (a * b)))) or 1
    rows = max(1, most_pairs // (a * b * columns))
    tiles = []
    for i in range(0, max(1, len(x)), rows):
        parts = [
            (x[i : i + rows], x_mask[i : i + rows], y[j : j + columns], y_mask[j : j + columns], softness, pool)
            for j in range(0, max(1, len(y)), columns)
        ]
        again = torch.is_grad_enabled() and (len(parts) > 1 or rows < len(x))
        tiles.append(
            torch.cat([checkpoint(_tile, *part, use_reentrant=False) if again else _tile(*part) for part in parts], 1)
        )
    return torch.cat(tiles)


def _tile(x: Tensor, x_mask: Tensor, y: Tensor, y_mask: Tensor, softness: float, pool: str) -> Tensor:
    if not (whole := x.is_cpu and x.shape[1] and y.shape[1] and bool(x_mask.all()) and bool(y_mask.all())):
        x, y = (torch.where(mask[..., None], rows, 0) for rows, mask in ((x, x_mask), (y, y_mask)))
    u, v = unit_steps(x), unit_steps(y)
    cosines = (u.flatten(0, 1) @ v.flatten(0, 1).T).view(*x.shape[:2], *y.shape[:2])  # [n, T, m, S]
    if whole and not softness:  # a look costs less than masks, where nothing is missing
        best = cosines.amax(3)
        return best.mean(1) if pool == "mean" else best.sum(1)
    none = ~y_mask.any(1)
    left_out = ~(y_mask | none[:, None])
    if softness:
        logits = (x.flatten(0, 1) @ y.flatten(0, 1).T).view_as(cosines) / softness
        best = (logits.masked_fill(left_out, -math.inf).softmax(3) * cosines).sum(3)
    else:
        best = cosines.masked_fill(left_out, -math.inf).amax(3)
    best = torch.where(none, -1, best)
    total = torch.where(x_mask[..., None], best, 0).sum(1)  # [n, m]
    return total / x_mask.sum(1, keepdim=True).clamp(min=1) if pool == "mean" else total


def choice_of_partner(scores: Tensor, ids: Tensor | None, beside: Sequence[Tensor] = ()) -> Tensor:
    """Each row's -log softmax of its own column, `[N]`, of logits `[N, N]`; other columns of its id do not count.

    `beside` has the logits of further negatives, `[N, K]` each.
    """
    own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    out = own if ids is None else own | (ids[:, None] == ids)
    return softplus(lse(torch.cat([scores.masked_fill(out, -math.inf), *beside], 1), 1) - scores.diagonal())


@register("late")
@dataclass(eq=False, kw_only=True)
class Late(Pairwise):
    """InfoNCE in both directions over scores by late interaction, averaged over all pairs of names.

    Columns of negatives are answers beside the second of two names, in the first direction.

    Example:
        >>> tokens = torch.eye(4).view(2, 2, 4)  # 2 texts of 2 tokens, all different
        >>> there = torch.ones(2, 2, dtype=torch.bool)
        >>> z = {"text": torch.zeros(2, 4), "passage": torch.zeros(2, 4)}
        >>> loss = Late(temperature=0.5)
        >>> round(loss(z, steps={"text": (tokens, there), "passage": (tokens.flip(1), there)}).item(), 3)  # any order
        0.127
        >>> round(loss(z, steps={"text": (tokens, there), "passage": (tokens.flip(0), there)}).item(), 3)
        2.127
    """

    family = "inner states"
    paper = "ColBERT, arXiv 2004.12832; FILIP, Yao et al. 2021, arXiv 2111.07783; UWE, De Lange et al. 2025, 2511.07969"
    formula = "s_ij = mean_u max_v cos(x_iu, y_jv); 1/2 mean_i [-log softmax_j(s_ij / t)_i - log softmax_j(s_ji / t)_i]"
    cost = "time O(V^2 B^2 T^2 D), memory O(V B T D + B^2)"
    use = "queries and passages, words and parts of an image; search and retrieval then compare tokens, too"
    ours = (
        "ColBERT and UWE sum over the tokens of the query (`pool: sum`); the mean is FILIP's; columns of negatives, by "
        "their tokens, beside those that the first input's rows choose among"
    )
    fits = ("pairs", "several modalities")

    asks: Literal["first", "each"] = "first"
    pool: Literal["mean", "sum"] = "mean"
    softness: Annotated[float, Ge(0)] = 0.0
    temperature: Annotated[float, Gt(0)] = 0.07

    names: tuple[str, ...] = field(default=(), init=False, repr=False)
    """Of the inputs, in the order in which they ask."""

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        super().setup(names, dim, classes, rows)
        self.names = tuple(dict.fromkeys(name.partition("/")[0] for name in names))

    def asks_first(self, name: str, other: str) -> bool:
        """Whether the steps of the input `name` ask, and those of `other` answer, where it is asked with `name`."""
        if self.asks == "each" or name not in self.names or other not in self.names:
            return True
        return self.names.index(name) <= self.names.index(other)

    def forward(  # type: ignore[override]
        self,
        z: Embeddings,
        *,
        steps: Steps,
        present: dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
        sample_id: Tensor | None = None,
        repeats: Tensor | None = None,
        negatives: Embeddings | None = None,
        contents: dict[str, Tensor] | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        names = [name for name in z if name in steps]
        require_two_inputs({name: z[name] for name in names})
        size = len(next(iter(z.values())))
        ids = item_ids(self.exclude, size, labels, sample_id, repeats)
        here = rows_there(negatives or {}, present)
        further = {n: (steps[n][0][some], steps[n][1][some]) for n, some in here.items()}
        fewest = 1 if sum(len(mask) for _, mask in further.values()) else 2
        pairs, terms = list(itertools.combinations(names, 2)), []
        rows: Sequence[Tensor | slice] = [slice(None)] * len(pairs)
        if present is not None:
            rows = chosen([present[a] & present[b] for a, b in pairs])
        for (a, b), both in zip(pairs, rows, strict=True):
            x, y = [(tokens[both], mask[both]) for tokens, mask in (steps[a], steps[b])]
            if len(x[0]) < fewest:
                continue
            scores = late_scores(*x, *y, self.softness, self.pool)
            back = late_scores(*y, *x, self.softness, self.pool) if self.asks == "each" else scores.T
            own, beside = None if ids is None else ids[both], []
            for n, given in further.items():
                theirs = late_scores(*x, *given, self.softness, self.pool) / self.tau
                if contents is not None:  # a repeat of the partner is no negative
                    theirs = theirs.masked_fill(contents[b][both][:, None] == contents[n][here[n]], -math.inf)
                beside.append(theirs)
            both_ways = choice_of_partner(scores / self.tau, own, beside) + choice_of_partner(back / self.tau, own)
            terms.append(weighted_mean(both_ways / 2, None if weights is None else weights[both]))
        if len(pairs) > len(terms):
            self.log["skipped_pairs"] = len(pairs) - len(terms)
        return average(terms) if terms else zero_loss(z)
