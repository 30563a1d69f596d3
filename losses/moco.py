"""MoCo: a query finds its key, by a slowly moving copy of the model, among the keys of earlier batches."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NotRequired

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from typing_extensions import TypedDict

from clx.losses.base import Embeddings, Exclude, Tempered, average, register, require_two_inputs, zero_loss
from clx.losses.primitives.draws import beta, permutation
from clx.losses.primitives.edits import DifferentIds, Edit
from clx.losses.primitives.functional import lse, paired_similarity, softplus, unit
from clx.losses.primitives.masks import chosen
from clx.losses.primitives.streaming import cross_rows
from clx.losses.queue_variants import between, hardest_of, moved_apart, only, pseudo_labelled, synthetic
from clx.losses.queues import NOBODY, Queue, lasting_ids
from clx.losses.unused import refuse_unused


class Mix(TypedDict):
    """MoCHi's synthetic negatives of each query."""

    __pydantic_config__ = {"extra": "forbid"}  # type: ignore[misc]

    top: Annotated[int, Ge(1)]
    """Hardest rows of the queue that they are made of."""
    pairs: NotRequired[Annotated[int, Ge(0)]]
    """Mixtures of two of these."""
    with_query: NotRequired[Annotated[int, Ge(0)]]
    """Mixtures of one of these with the query, which counts for at most half."""


def moco(
    query: Tensor,
    positive: Tensor,
    queue: Tensor,
    temperature: Tensor | float,
    edit: Edit | None = None,
    further: Tensor | None = None,
    without: Tensor | None = None,
) -> Tensor:
    """-log( exp(q_i.k_i / t) / (exp(q_i.k_i / t) + sum_n exp(q_i.n / t)) ) of each query, in nats, `[B]`.

    Args:
        query: `[B, D]`.
        positive: `[B]`, the product of each query with its key.
        queue: `[K, D]`, rows that are negatives of every query.
        temperature: positive.
        edit: which rows of the queue (columns) are none for which query (rows).
        further: `[B, S, D]`, negatives of each query alone.
        without: `[B]` bool, queries that have none of these.

    Reference:
        He et al. 2020, arXiv 1911.05722, equation 1.
    """
    negative = cross_rows(query, queue, temperature, edit)
    if further is not None and further.shape[1]:
        logits = torch.einsum("bd,bsd->bs", query, further) / temperature
        if without is not None:
            logits = logits.masked_fill(without[:, None], -torch.inf)
        negative = lse(torch.cat([negative[:, None], logits], 1), 1)
    return softplus(negative - positive / temperature)


def keyed(ways: Iterable[tuple[str, str]]) -> list[str]:
    """Names whose keys are looked for."""
    return list(dict.fromkeys(b for _, b in ways))


@register("moco")
@dataclass(eq=False, kw_only=True)
class MoCo(Tempered):
    """Queries against keys of a momentum copy (`train.second`), with a queue of earlier keys as the negatives.

    Of two views of one modality the first has the queries and the second the keys and the queue; `both_ways` takes both
    in turn, which costs little more, and so it always is between two modalities.
    The queue holds the keys of the last batches, this one's are put in after its loss. Keys of the query's own row, or
    of rows of equal content, are left out by `exclude`. In evaluation nothing is put in.

    Variants: `hardest` keeps the rows of the queue that are nearest to each query (Hoang et al. 2025, arXiv 2501.16360;
    its text tells no formula: with `both_ways` this is a definition of our own). `mix` adds MoCHi's synthetic negatives
    (Kalantidis et al. 2020, arXiv 2010.01028). `extrapolate` and `interpolate` are the exponents of Feature
    Transformation (Zhu et al. 2021, arXiv 2108.02982: 2.0 and 1.6), one draw for a batch, or `by_dimension` for each
    number. `pseudo_labels: 20` adds the sigmoid loss of MLS (Zhu et al. 2023, arXiv 2308.03286) with as many nearest
    rows as positives; it looks for them among the embeddings, where the paper has a second queue of features.
    `by: group` has a queue, of `queue` rows each, for each value of the column `data.group`, and `by: labels` for
    each label; rows without one are left out. With a column of languages, a text is told from texts of its own
    language alone (CCP, Wu et al. 2022, arXiv 2206.03281, with `train.second.norms: running`). Contriever (arXiv
    2112.09118) is `normalise: false` with temperature 0.05.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> loss = MoCo(queue=64, temperature=0.2)
        >>> loss.setup(["image/0", "image/1"], 16)
        >>> views = {"image/0": torch.eye(4, 16), "image/1": torch.eye(4, 16)}
        >>> round(loss(views, keys=views, sample_id=torch.arange(4)).item(), 1)  # among 64 random rows
        0.7
        >>> loss.queues["image/1"].ids[:6].tolist()
        [0, 1, 2, 3, -1, -1]
    """

    family = "second model"
    paper = "He et al. 2020, arXiv 1911.05722; v2 Chen et al. 2020, arXiv 2003.04297"
    formula = "mean_i log(1 + sum_n exp((q_i.n - q_i.k_i) / t)), n the keys of earlier batches"
    cost = "time O(B K D) per pair of names, memory O((B + K) D); K the queue"
    use = "small batches of one modality's views; with train.second.momentum"
    fits = ("one modality", "pairs")
    ours = (
        "earlier keys of the same row are no negatives; hardest with both_ways, whose paper tells no formula; "
        "pseudo_labels are of embeddings, not of features; by, whose paper was read at second hand"
    )

    temperature: Annotated[float, Gt(0)] = 0.2
    queue: Annotated[int, Ge(1)] = 4096
    exclude: Exclude = "repeats"
    both_ways: bool = False
    normalise: bool = True
    hardest: Annotated[int, Ge(1)] | None = None
    mix: Mix | None = None
    extrapolate: Annotated[float, Gt(0)] | None = None
    interpolate: Annotated[float, Gt(0)] | None = None
    by_dimension: bool = False
    by: Literal["labels", "group"] | None = None
    pseudo_labels: Annotated[int, Ge(1)] | None = None
    pseudo_weight: Annotated[float, Ge(0)] = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, most in (("hardest", self.hardest), ("mix.top", None if self.mix is None else self.mix["top"])):
            if most is not None and most > self.queue:
                raise ValueError(f"{field} = {most}, but the queue has {self.queue} rows")
        if self.pseudo_labels is not None and self.pseudo_labels >= self.queue:
            raise ValueError(f"pseudo_labels = {self.pseudo_labels}, but the queue has {self.queue} rows")
        if self.mix is not None and not (self.mix.get("pairs") or self.mix.get("with_query")):
            raise ValueError("mix makes no negatives: say how many by pairs, with_query, or both")
        moved = self.extrapolate is not None or self.interpolate is not None
        refuse_unused(self, "neither extrapolate nor interpolate", {"by_dimension": moved})
        refuse_unused(self, "no pseudo_labels", {"pseudo_weight": self.pseudo_labels is not None})
        self.queues = nn.ModuleDict()

    def requires(self) -> frozenset[str]:
        labels = {"labels"} if "labels" in (self.exclude, self.by) else set()
        return super().requires() | labels | ({"groups"} if self.by == "group" else set())

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        self.ends, self.dim = keyed(self.ways(names)), dim
        if self.by != "group":
            self.make_queues([""] if self.by is None else [f" {k}" for k in range(len(classes))])

    def setup_groups(self, count: int) -> None:
        self.make_queues([f" {k}" for k in range(count)])

    def make_queues(self, values: Iterable[str]) -> None:
        """A queue for each name that has keys, and each value, which are what their names end with."""
        self.queues = nn.ModuleDict({f"{n}{v}": Queue(self.queue, self.dim) for n in self.ends for v in values})

    def ways(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """Names of queries and of keys. Between two modalities both ways: no other loss may teach the second tower."""
        pairs = list(itertools.permutations(names, 2))
        return [
            (a, b)
            for k, (a, b) in enumerate(pairs)
            if self.both_ways or a.partition("/")[0] != b.partition("/")[0] or (b, a) in pairs[k:]
        ]

    def forward(
        self,
        z: Embeddings,
        *,
        keys: Embeddings,
        sample_id: Tensor,
        generator: torch.Generator | None = None,
        present: dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
        groups: Tensor | None = None,
        repeats: Tensor | None = None,
    ) -> Tensor:
        require_two_inputs(z)
        ids = lasting_ids(self.exclude, sample_id, labels, repeats)
        scaled = unit if self.normalise else torch.Tensor.clone
        terms: list[Tensor] = []
        ways = self.ways(z)
        asked, kept = self.rows_by_queue(ways, groups if self.by == "group" else labels, present)
        for a, b in ways:
            parts = [
                (rows, self.queue_of(name))
                for (start, name), rows in asked.items()
                if start == a and b == name.split(" ")[0]
            ]
            found = []
            for rows, queue in parts:
                query, key = scaled(z[a][rows]), scaled(keys[b][rows].detach())
                if len(query):
                    loss = self.of(query, key, queue, None if ids is None else ids[rows], generator)
                    found.append((len(query), loss))
            if found:
                total = sum(count for count, _ in found)
                terms.append(torch.stack([loss * (count / total) for count, loss in found]).sum())
        if self.training and self.remembers:
            for name, rows in kept.items():
                named = (sample_id if ids is None else ids)[rows]
                self.queue_of(name).put(scaled(keys[name.split(" ")[0]][rows].detach()), named)
        return average(terms) if terms else zero_loss(z)

    def rows_by_queue(
        self, ways: list[tuple[str, str]], values: Tensor | None, present: dict[str, Tensor] | None
    ) -> tuple[dict[tuple[str, str], Tensor | slice], dict[str, Tensor | slice]]:
        """Rows of the batch: the queries by their name and the name of their queue, and what is put into each queue.
        `values` `[B]` are what `by` says of each row."""
        ends = keyed(ways)
        if self.by is None and present is None:
            return dict.fromkeys(ways, slice(None)), dict.fromkeys(ends, slice(None))
        count = len(self.queues) // len(ends)
        if self.by is not None and values is None:
            raise ValueError(f"by is {self.by!r}, but the batch has no {'groups' if self.by == 'group' else 'labels'}")

        def there(*names: str) -> list[Tensor]:
            """Masks of the rows that have these names, by value."""
            parts = [] if values is None or self.by is None else [values == k for k in range(count)]
            both = [present[name] for name in names] if present is not None else []
            return [torch.stack([part, *both]).all(0) for part in parts] or [torch.stack(both).all(0)]

        named = [""] if self.by is None else [f" {k}" for k in range(count)]
        cells = [((a, f"{b}{v}"), mask) for a, b in ways for v, mask in zip(named, there(a, b), strict=True)]
        filled = [(f"{b}{v}", mask) for b in ends for v, mask in zip(named, there(b), strict=True)]
        rows = chosen([mask for _, mask in (*cells, *filled)])
        asked: dict[tuple[str, str], Tensor | slice] = dict(zip((cell for cell, _ in cells), rows, strict=False))
        return asked, dict(zip((name for name, _ in filled), rows[len(cells) :], strict=True))

    def queue_of(self, name: str) -> Queue:
        """The keys of a name from earlier batches."""
        found = self.queues[name]
        assert isinstance(found, Queue)
        return found

    def of(
        self, query: Tensor, key: Tensor, queue: Queue, ids: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        """The loss of queries and their keys `[B, D]` against a queue, whose rows are copied, since it changes then."""
        old, theirs = queue.now(query)
        if self.normalise and query.shape[1] < queue.rows.shape[1]:
            old = unit(old)
        edit: Edit | None = None if ids is None else DifferentIds(ids, theirs)
        forbidden = further = without = None
        if ids is not None and (self.mix or self.hardest or self.interpolate):
            forbidden = ids[:, None] == theirs
        if self.mix is not None:
            further = synthetic(query, old, forbidden, self.mix, generator)  # type: ignore[arg-type]
            without = None if forbidden is None else forbidden.all(1)
        plain = query
        if self.extrapolate is not None:
            drawn = beta(
                self.extrapolate, self.extrapolate, tuple(query.shape) if self.by_dimension else (), query, generator
            )
            query, key = moved_apart(query, key, 1 + drawn)
        if self.interpolate is not None:
            order = permutation(len(old), old, generator)
            drawn = beta(
                self.interpolate, self.interpolate, tuple(old.shape) if self.by_dimension else (), old, generator
            )
            old = between(old, drawn, order)
            if forbidden is not None:
                forbidden |= forbidden[:, order]
                edit = only(~forbidden)
        if self.hardest is not None:
            edit = hardest_of(query, old, self.hardest, forbidden)
        loss = moco(query, paired_similarity(query, key), old, self.tau, edit, further, without).mean()
        if self.pseudo_labels is not None:
            labelled = pseudo_labelled(plain, old, theirs != NOBODY, self.pseudo_labels, self.tau)
            loss = loss + self.pseudo_weight * labelled
        return loss
