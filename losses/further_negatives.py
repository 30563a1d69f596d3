"""Losses of two inputs whose anchors see rows besides those of the other input: columns that are only negatives."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Ge, Le
from torch import Tensor

from clx.losses.base import Embeddings
from clx.losses.judge import Guided
from clx.losses.pairwise import WEIGHED, Ids, OverPairs, Pairwise, ids_or_guide, item_ids
from clx.losses.primitives.blocks import same_pairs
from clx.losses.primitives.edits import DifferentIds, Edit, either
from clx.losses.primitives.functional import lse, paired_similarity, unit
from clx.losses.primitives.judged import Judged
from clx.losses.primitives.masks import chosen
from clx.losses.primitives.streaming import cross_rows


class Negatives(NamedTuple):
    """Rows that are negatives of every anchor and nothing else, such as hard negatives that were mined."""

    rows: Tensor
    """`[N, D]`, unit rows."""
    repeats: DifferentIds | None = None
    """Which of them (columns) are none for which anchor (rows), since they are its partner once more."""
    judged: Judged | None = None
    """The same by a second model."""
    of: DifferentIds | None = None
    """Which row of the batch each anchor is, and each of them stands in."""
    own_logit: float = 0.0
    """What is added to the logits of those that stand in the anchor's own row."""

    @property
    def edit(self) -> Edit | None:
        """Leaves out what is no negative, and adds `own_logit`."""
        own, more = self.of, self.own_logit
        if not more or own is None:
            return either(self.repeats, self.judged)

        def add(s: Tensor, i: slice, j: slice) -> None:
            s.add_((own.ids[i, None] == own.of_columns[j]).to(s.dtype), alpha=more)

        return either(add, self.repeats, self.judged)

    def out(self, s: Tensor, rows: slice) -> Tensor:
        """Which of them are no negatives of these anchors, in the shape of a block of similarities `[b, N]`."""
        out = torch.zeros_like(s, dtype=torch.bool)
        if self.repeats is not None:
            out = self.repeats.ids[rows, None] == self.repeats.of_columns
        return out if self.judged is None else out | self.judged.out(s, rows)


def left_out(ids: Ids | None, negatives: Negatives | None, size: int) -> Callable[[Tensor, slice], Tensor]:
    """As `same_pairs`, of a block of similarities `[b, size + N]` with `size` rows and the further negatives behind."""
    inside = same_pairs(ids)
    if negatives is None:
        return inside
    return lambda s, rows: torch.cat([inside(s[:, :size], rows), negatives.out(s[:, size:], rows)], 1)


def with_rows(y: Tensor, negatives: Negatives | None) -> Tensor:
    """The rows of `y` and, behind them, the further negatives."""
    return y if negatives is None else torch.cat([y, negatives.rows])


def rows_there(names: Collection[str], present: dict[str, Tensor] | None) -> dict[str, Tensor | slice]:
    """By name, the rows that have this negative."""
    if present is None or not names:
        return dict.fromkeys(names, slice(None))
    return dict(zip(names, chosen([present[n] for n in names]), strict=True))


Among = Callable[[Tensor, Tensor, Ids | None, Negatives | None, Tensor | slice], Tensor]
"""The loss of unit rows `x`, `y`, their ids, the negatives of `x`, and which rows of the batch they are."""


@dataclass(eq=False, kw_only=True)
class WithNegatives(OverPairs):
    """`OverPairs` whose anchors, the rows of the first of two names, may see further rows besides the second's.

    These are the rows of all the names in `negatives` that are there, whatever row of the batch they stand in. One that
    repeats an anchor's own partner, by `contents`, is no negative of that anchor; `exclude` is about rows of the batch,
    whose label is not that of their negatives. With negatives a pair of names needs one common row.
    """

    def forward(
        self,
        z: Embeddings,
        *,
        present: dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
        sample_id: Tensor | None = None,
        repeats: Tensor | None = None,
        negatives: Embeddings | None = None,
        contents: dict[str, Tensor] | None = None,
        keys: Embeddings | None = None,
    ) -> Tensor:
        ids = ids_or_guide(self.exclude, len(next(iter(z.values()))), labels, sample_id, repeats, keys)
        return self.among(z, present, ids, negatives, contents, lambda x, y, ids, more, _: self.pair(x, y, ids, more))

    def among(
        self,
        z: Embeddings,
        present: dict[str, Tensor] | None,
        ids: Tensor | Guided | None,
        negatives: Embeddings | None,
        contents: dict[str, Tensor] | None,
        pair: Among,
        own_logit: float = 0.0,
    ) -> Tensor:
        """`over_pairs` with the negatives that are there."""
        further = negatives or {}
        if own_logit and not further:
            raise ValueError("hard_negative_logit is of a row's own negatives: name their inputs in negatives")
        here = rows_there(further, present)
        found = [x[here[n]] for n, x in further.items()]
        if not sum(map(len, found)):
            return self.over_pairs(z, present, ids, lambda x, y, ids, _, rows: pair(x, y, ids, None, rows))
        rows = unit(torch.cat(found))
        theirs = None if contents is None else torch.cat([contents[n][here[n]] for n in further])
        place = torch.arange(len(next(iter(z.values()))), device=rows.device)
        stand = torch.cat([place[here[n]] for n in further])
        guided = torch.cat([ids.rows(n, here[n]) for n in further]) if isinstance(ids, Guided) else None

        def beside(x: Tensor, y: Tensor, own: Ids | None, name: str, both: Tensor | slice) -> Tensor:
            repeats = None if contents is None or theirs is None else DifferentIds(contents[name][both], theirs)
            judged = None
            if isinstance(own, Judged) and guided is not None:
                judged = own.between(own.left, guided, own=None)
            stands = DifferentIds(place[both], stand)
            return pair(x, y, own, Negatives(rows, repeats, judged, stands, own_logit), both)

        return self.over_pairs(z, present, ids, beside, fewest=1)

    def pair(self, x: Tensor, y: Tensor, ids: Ids | None, negatives: Negatives | None = None) -> Tensor:
        """As `OverPairs.pair`, with further `negatives` of the rows of `x`."""
        raise NotImplementedError


@dataclass(eq=False, kw_only=True)
class DrawnWithNegatives(WithNegatives):
    """`WithNegatives` of losses that draw, and of which equal ids make positives."""

    def forward(  # type: ignore[override]  # a second model's word would make positives
        self,
        z: Embeddings,
        *,
        present: dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
        sample_id: Tensor | None = None,
        repeats: Tensor | None = None,
        negatives: Embeddings | None = None,
        contents: dict[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        ids = item_ids(self.exclude, len(next(iter(z.values()))), labels, sample_id, repeats)

        def pair(x: Tensor, y: Tensor, ids: Any, more: Negatives | None, _: Tensor | slice) -> Tensor:
            return self.both_ways(x, y, ids, more, generator)

        return self.among(z, present, ids, negatives, contents, pair)

    def both_ways(
        self,
        x: Tensor,
        y: Tensor,
        ids: Tensor | None,
        negatives: Negatives | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        """The mean of both directions, of unit rows."""
        raise NotImplementedError


@dataclass(eq=False, kw_only=True)
class PairwiseWithNegatives(WithNegatives, Pairwise):
    """Both: a temperature, and further negatives."""


@dataclass(eq=False, kw_only=True)
class WeightedWithNegatives(PairwiseWithNegatives):
    """`PairwiseWithNegatives` of losses that have terms a row, which its weight multiplies."""

    ours = WEIGHED

    def forward(
        self,
        z: Embeddings,
        *,
        present: dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
        sample_id: Tensor | None = None,
        repeats: Tensor | None = None,
        negatives: Embeddings | None = None,
        contents: dict[str, Tensor] | None = None,
        weights: Tensor | None = None,
        keys: Embeddings | None = None,
    ) -> Tensor:
        ids = ids_or_guide(self.exclude, len(next(iter(z.values()))), labels, sample_id, repeats, keys)

        def pair(x: Tensor, y: Tensor, ids: Ids | None, more: Negatives | None, rows: Tensor | slice) -> Tensor:
            return self.pair(x, y, ids, more, None if weights is None else weights[rows])

        return self.among(z, present, ids, negatives, contents, pair, self.own_logit)

    @property
    def own_logit(self) -> float:
        """What is added to the logits of a row's own negatives."""
        return 0.0

    def pair(
        self,
        x: Tensor,
        y: Tensor,
        ids: Ids | None,
        negatives: Negatives | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """As `PairwiseWithNegatives.pair`, each row's terms times its weight `[B]`."""
        raise NotImplementedError


@dataclass(eq=False, kw_only=True)
class SoftmaxWithNegatives(WeightedWithNegatives):
    """`WeightedWithNegatives` of softmax losses, that have a term a row.

    `hard_negative_logit` is added to the logits of the row's own negatives: they count as e to it (SimCSE's
    `hard_negative_weight`).
    """

    hard_negative_logit: Annotated[float, Ge(-100), Le(100)] = 0.0

    @property
    def own_logit(self) -> float:
        return self.hard_negative_logit


def add_negatives(
    margins: Tensor,
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    more: Negatives,
    weight: Tensor | float | None = None,
) -> Tensor:
    """Margins of the rows of `x` with further negatives.

    Args:
        margins: `[B]`, or `[2B]` of which the first B are of `x`, as `cross_margins` and `gram_margins` give them.
        x, y: `[B, D]`, unit rows; row i of both is one item.
        weight: that of `gram_margins`.

    Returns:
        `margins`, the first B of them with the log-sum-exp over the negatives besides.
    """
    positive = paired_similarity(x, y, temperature)
    beside = cross_rows(x, more.rows, temperature, more.edit) - (positive if weight is None else positive * weight)
    return torch.cat([lse(torch.stack([margins[: len(x)], beside]), 0), margins[len(x) :]])
