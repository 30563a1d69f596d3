"""PG-RANK: rankings drawn from the scores, of which good ones become likelier."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from clx.losses.base import register
from clx.losses.further_negatives import DrawnWithNegatives, Negatives, with_rows
from clx.losses.pairwise import Pairwise
from clx.losses.primitives.blocks import by_blocks
from clx.losses.primitives.forms import NEVER
from clx.losses.primitives.masks import group_sizes

NOBODY = torch.iinfo(torch.int64).min
"""The group of what is relevant to no row."""


def gumbel(seed: Tensor, rows: Tensor, columns: int, kind: torch.dtype) -> Tensor:
    """Gumbel noise for `[b]` numbers of rows and all columns, that follows from the seed and the place alone: `[b, M]`,
    or `[S, b, M]` of seeds `[S, 1, 1]`.

    So any part of the rows, on any rank, has the noise that it has in the whole.
    """
    h = seed + rows[:, None] * 0x9E3779B9 + torch.arange(columns, device=rows.device) * 0x85EBCA6B
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1)):  # splitmix64
        h = (h ^ (torch.bitwise_right_shift(h, shift) & ((1 << (64 - shift)) - 1))) * factor
    u = (torch.bitwise_right_shift(h, 41) & 0x7FFFFF).to(kind).add(0.5) / (1 << 23)  # exact in float32, never 0 nor 1
    return -(-u.log()).log()


def log_probabilities(scores: Tensor, ranking: Tensor) -> Tensor:
    """Plackett-Luce's of each of the first k places, `[..., b, k]`, given those before: of scores `[..., b, M]`."""
    chosen, count = scores.gather(-1, ranking), ranking.shape[-1]
    below = scores.scatter(-1, ranking, NEVER).logsumexp(-1, keepdim=True)
    left = torch.cat([chosen, below], -1)[..., None, :]  # of which place k is chosen among those from k on
    over = torch.ones(count, count + 1, dtype=torch.bool, device=scores.device).tril(-1)
    return chosen - left.masked_fill(over, NEVER).logsumexp(-1)


def discounted(gains: Tensor) -> Tensor:
    """Gains `[..., k]` at their places, each over log2 of 1 + its place."""
    places = torch.arange(gains.shape[-1], device=gains.device, dtype=gains.dtype)
    return gains / (places + 2).log2()


def weights_of(parts: Tensor, baseline: str, credit: str) -> Tensor:
    """What multiplies each log-probability `[S, b, k]`, from what each place adds to the utility.

    Args:
        parts: `[S, b, k]`, of S rankings.
        baseline: `leave-one-out`, the mean of the other rankings is subtracted; `none`.
        credit: `gain-to-go`, a place answers for what comes from it on; `whole`, for all of the ranking.
    """
    togo = parts.flip(2).cumsum(2).flip(2) if credit == "gain-to-go" else parts.sum(2, keepdim=True).expand_as(parts)
    samples = len(parts)
    if baseline == "none" or samples < 2:
        return togo
    return togo - (togo.sum(0) - togo) / (samples - 1)


@register("pg-rank")
@dataclass(eq=False, kw_only=True)
class PGRank(DrawnWithNegatives, Pairwise):
    """Policy gradient of nDCG over the rows of a batch, in both directions, over all pairs of names.

    A row's partner is relevant, and rows of equal `repeats`, or, with `exclude`, of equal `sample_id` or `labels`. The
    loss is 1 less the mean nDCG of what was drawn; its gradient is the estimate. Columns of negatives are ranked among
    the rows of the second of two names, and none of them is relevant.

    Example:
        >>> image, text = torch.eye(4), torch.eye(4)
        >>> loss, draw = PGRank(), torch.Generator().manual_seed(0)
        >>> loss({"image": image, "text": text}, generator=draw).item() < 0.05
        True
        >>> loss({"image": image, "text": text.roll(1, 0)}, generator=draw).item() > 0.4
        True
    """

    family = "ranking"
    paper = "Gao et al. 2023, arXiv 2310.04407 (Neural PG-RANK)"
    formula = (
        "-mean_{i, r} sum_k w_rk log pi_k(r), r ~ Plackett-Luce(s_i / t), w_rk the gain from place k on less its mean"
    )
    cost = "time O(B^2 (D + samples)) per pair of names, memory O(B D)"
    use = "after a contrastive start, to better the first places of rankings themselves"
    fits = ("pairs",)
    ours = (
        "no code was published; relevance is that of rows of the batch, and scores are cosines over the temperature; "
        "columns of negatives are ranked, too"
    )

    temperature: Annotated[float, Gt(0)] = 0.05
    samples: Annotated[int, Ge(2)] = 16
    places: Annotated[int, Ge(1)] = 10
    baseline: Literal["leave-one-out", "none"] = "leave-one-out"
    credit: Literal["gain-to-go", "whole"] = "gain-to-go"

    def both_ways(
        self,
        x: Tensor,
        y: Tensor,
        ids: Tensor | None,
        negatives: Negatives | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        """The mean of both directions, of unit rows."""
        where = x.device if generator is None else generator.device
        seeds = torch.randint(1 << 62, (2, self.samples), generator=generator, device=where)
        groups = torch.arange(len(x), device=x.device) if ids is None else ids
        both = zip(seeds.to(x.device, non_blocking=True), (x, y), (y, x), (negatives, None), strict=True)
        return torch.stack([self.one_way(a, b, groups, seed, more) for seed, a, b, more in both]).mean()

    def one_way(self, x: Tensor, y: Tensor, groups: Tensor, seeds: Tensor, negatives: Negatives | None) -> Tensor:
        """Of the rows of `x` among those of `y` and the further negatives."""
        size, y = len(y), with_rows(y, negatives)
        of_columns = torch.cat([groups, groups.new_full((len(y) - size,), NOBODY)])
        count, tau = min(self.places, len(y)), self.tau
        relevant = group_sizes(groups)[0].clamp(max=count)
        ideal = discounted(torch.ones_like(x[:1, :1]).expand(1, count)).cumsum(1)[0][relevant - 1]

        def terms(s: Tensor, rows: slice, tau: Tensor) -> tuple[Tensor, ...]:
            scores, places = s / tau, torch.arange(rows.start, rows.stop, device=s.device)
            if negatives is not None:
                beside = scores[:, size:].masked_fill(negatives.out(s[:, size:], rows), NEVER)
                scores = torch.cat([scores[:, :size], beside], 1)
            logs, parts = [], []
            for some in seeds.split(max(1, (1 << 18) // max(1, s.numel()))):
                drawn = scores.detach() + gumbel(some[:, None, None], places, s.shape[1], s.dtype)
                ranking = drawn.topk(count, 2).indices
                logs.append(log_probabilities(scores.expand_as(drawn), ranking))
                gains = (of_columns[ranking] == groups[rows, None]).to(s.dtype)
                parts.append(discounted(gains) / ideal[rows, None])
            found = torch.cat(parts)
            weights = weights_of(found, self.baseline, self.credit)
            surrogate = -(weights * torch.cat(logs)).sum() / len(seeds)
            return surrogate - surrogate.detach() - found.sum() / len(seeds), found.new_zeros(())

        given = tau if isinstance(tau, Tensor) else x.new_full((), tau)
        return 1 + by_blocks(terms, x, y, given, copies=self.samples)[0] / len(x)
