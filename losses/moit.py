"""MOIT: contrast and classification of mixed rows, and which labels their neighbours do not bear out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional

from clx.losses.base import Embeddings, Tempered, register, zero_loss
from clx.losses.memory import Remembering
from clx.losses.primitives.functional import unit
from clx.losses.primitives.masks import chosen
from clx.losses.primitives.tiles import even_slices, tile_side


class View(NamedTuple):
    """Unit rows `[b, D]`, or predictions `[b, C]`, of items of a batch of B; row i is `share` of its item and the rest
    of item `partner[i]`."""

    rows: Tensor
    partner: Tensor
    """`[b]` int64, below B."""
    share: Tensor | float
    """`[]`, in [0.5, 1]."""


class Columns(NamedTuple):
    """Rows to choose among, without gradient."""

    rows: Tensor
    """`[M, D]`, unit rows."""
    labels: Tensor
    """`[M]`."""
    items: Tensor
    """`[M]`, the number of the item in the batch; -1 of those of others, -2 of a place that is empty."""
    own: Tensor
    """`[V b]`, the place of each row of the views."""


def interpolated(
    views: Sequence[View], items: Tensor, labels: Tensor, temperature: Tensor | float, columns: Columns | None = None
) -> Tensor:
    """Interpolated contrastive loss `[]`: each row looks for the rows of its own label, and of its partner's.

    The mean over all rows of -share mean_{w1} log q - (1 - share) mean_{w2} log q; q is the softmax over all columns
    but the row itself. w1 counts the item's other views and the other items of its label once; w2 counts the views
    of the partner twice, the other items of the partner's label once.

    Args:
        views: of the same items `[b]`, numbers below B.
        labels: `[B]`, -1 where there is none.
        temperature: positive.
        columns: the rows of the views by default.
    """
    z = torch.cat([view.rows for view in views])
    item, partner = items.repeat(len(views)), torch.cat([view.partner for view in views])
    share = torch.cat([torch.full_like(v.rows[:, 0], 1) * v.share for v in views])
    if columns is None:
        columns = Columns(z, labels[item], item, torch.arange(len(z), device=z.device))
    itself = torch.zeros(len(z), len(columns.rows), dtype=torch.bool, device=z.device)
    itself = itself.scatter(1, columns.own[:, None], True) | (columns.items == -2)
    logs = (z @ columns.rows.T / temperature).masked_fill(itself, -torch.inf).log_softmax(1).masked_fill(itself, 0)

    def term(of: Tensor, twice: bool) -> Tensor:
        same_item = columns.items == of[:, None]
        same_label = columns.labels == torch.where(labels[of] < 0, -3, labels[of])[:, None]
        weight = same_item.to(z.dtype) + (same_label if twice else same_label & ~same_item)
        weight = weight.masked_fill(itself, 0)
        return -(weight * logs).sum(1) / weight.sum(1).clamp(min=1)

    return (share * term(item, False) + (1 - share) * term(partner, True)).mean()


def classified(
    views: Sequence[View],
    items: Tensor,
    labels: Tensor,
    clean: Tensor | None = None,
    said: Tensor | None = None,
    by_own: bool = True,
) -> Tensor:
    """Cross-entropy `[]` of mixed rows with the labels of both of their items, the mean over views.

    Args:
        views: of the same items `[b]`, with predictions `[b, C]` as rows.
        labels: `[B]`; the part of a partner without one, -1, does not count.
        clean: `[B]` bool; the label of an item that is not clean gives way to `said`.
        said: `[B, C]`, logits of the items as they are; a constant to the gradient.
        by_own: whether each of the two labels counts by its own item's flag, and not both by the dominant one's.
    """
    terms = []
    for rows, partner, share in views:
        logs = rows.log_softmax(1)
        rest = (1 - share) * (labels[partner] >= 0).to(logs.dtype)
        one, other = (-logs.gather(1, labels[of].clamp(min=0)[:, None])[:, 0] for of in (items, partner))
        if clean is None or said is None:
            terms.append((share * one + rest * other).mean())
            continue
        told, flags = said.detach().softmax(1), clean.to(logs.dtype)
        labelled = share * flags[items] * one + rest * flags[partner if by_own else items] * other
        by_said, partner_said = (-(told[of] * logs).sum(1) for of in (items, partner))
        corrected = share * (1 - flags[items]) * by_said + (1 - share) * (1 - flags[partner]) * partner_said
        terms.append((labelled + corrected).mean())
    return torch.stack(terms).mean()


def bootstrapped(views: Sequence[View], items: Tensor, labels: Tensor, said: Tensor, trust: float = 0.8) -> Tensor:
    """Cross-entropy `[]` of mixed rows, in which a label counts `trust` and the likeliest class of what is `said` of
    the item as it is the rest, the mean over views: the second phase of MOIT+. Arguments are those of `classified`."""
    guess = said.argmax(1)
    given, guessed = classified(views, items, labels), classified(views, items, guess)
    return trust * given + (1 - trust) * guessed


def vote(x: Tensor, labels: Tensor, nearest: int, classes: int) -> Tensor:
    """Shares `[N, classes]` of the labels among the `nearest` other rows of each unit row of `x` `[N, D]`."""
    found = []
    counts = functional.one_hot(labels, classes).to(x.dtype)
    for i in even_slices(len(x), tile_side(x)):
        s = x[i] @ x.T
        s.diagonal(i.start).fill_(-torch.inf)
        near = s.topk(min(nearest, len(x) - 1), dim=1).indices
        found.append(counts[near].mean(1))
    return torch.cat(found)


def clean_rows(
    x: Tensor,
    labels: Tensor,
    nearest: int,
    classes: int,
    corrected: bool = True,
    balance: Literal["median", "max", "min", "none"] = "median",
) -> Tensor:
    """Which rows' labels `[N]` are borne out by their nearest rows: as many of each class.

    The neighbours' labels vote for each row, with `corrected` a second time with the winners of the first vote. A row
    agrees where its label wins, and d_i = -log p_i(y_i), p in [0.01, 0.99], is how little the vote says of its label.
    Of each class the m rows of the smallest d are clean, m the median (or max, min) over classes of how many agree;
    with `none` all that agree.
    """
    told = vote(x, labels, nearest, classes)
    if corrected:
        told = vote(x, told.argmax(1), nearest, classes)
    agrees = told.argmax(1) == labels
    if balance == "none":
        return agrees
    distance = -told.gather(1, labels[:, None])[:, 0].clamp(0.01, 0.99).log()
    per_class = torch.zeros(classes, dtype=torch.long, device=x.device).index_add(0, labels, agrees.long())
    most = {"median": per_class.median, "max": per_class.max, "min": per_class.min}[balance]()
    order = distance.argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]  # by class, within it by distance
    first = torch.searchsorted(labels[order], labels)  # of the label
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device)) - first
    return place < most


@register("moit")
@dataclass(eq=False, kw_only=True)
class MOIT(Remembering, Tempered):
    """Contrast and cross-entropy of mixed views, with the labels that the neighbours do not bear out put right.

    The views of one modality: those that `mix` of the modality mixes, and a further one as it is, from which each
    row's embedding is remembered and its class is told where its label is doubted. Once for as many rows as there are,
    the remembered embeddings vote for each other's labels; from `correct` of the run on the doubted labels give way.

    The authors embed all rows without augmentation at the end of each epoch; here an embedding is that of the row's
    last visit. A partner's label counts by its own flag, where their code takes that of the dominant row for both.

    Example:
        >>> import torch
        >>> z, head = {"image/0": torch.eye(4), "image/1": torch.eye(4)}, lambda rows: rows[:, :2]
        >>> loss = MOIT(temperature=0.5)
        >>> loss.setup(list(z), 4, ("cat", "dog"), 4)
        >>> known = {"labels": torch.tensor([0, 1, 0, 1]), "sample_id": torch.arange(4)}
        >>> loss(z, head=head, **known).item() > 0.7  # without `mixed`, as in validation: at least log 2
        True
    """

    family = "mixtures"
    trains_predictions = True
    host_reads = 2
    paper = "Ortego et al. 2021, arXiv 2012.04462"
    formula = (
        "ICL + ICL over remembered rows + CE, of rows s x_i + (1 - s) x_j: s L(y_i) + (1 - s) L(y_j); doubted are the "
        "labels outside the m rows of a class whose k nearest say the same"
    )
    cost = "time O(V^2 B^2 D + V B M D), once an epoch O(N^2 D); memory O(B (V B + M)) and D numbers a training row"
    fits = ("labels",)
    use = "many labels are wrong; with `mix: {alpha: 1}` and three views of an image"
    ours = "the embeddings that vote are those of each row's last visit, not of a pass at the end of an epoch"

    temperature: Annotated[float, Gt(0)] = 0.1
    nearest: Annotated[int, Ge(1)] = 250
    correct: Annotated[float, Ge(0), Le(1)] = 0.52  # share of the steps after which doubted labels give way
    form: Literal["corrected", "bootstrapped"] = "corrected"  # what the labels give way to: MOIT, MOIT+
    balance: Literal["median", "max", "min", "none"] = "median"
    per_class: Annotated[int, Ge(0)] = 100  # remembered as columns, for each view; larger batches go without

    ring: Tensor = field(init=False, repr=False)
    ring_labels: Tensor = field(init=False, repr=False)
    turn: Tensor = field(init=False, repr=False)
    since: Tensor = field(init=False, repr=False)

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        self.classes, self.dim = len(classes), dim
        super().setup(names, dim, classes, rows)
        places = 2 * self.per_class * len(classes)
        self.register_buffer("ring", torch.zeros(places, dim))
        self.register_buffer("ring_labels", torch.full((places,), -1))
        self.register_buffer("turn", torch.zeros((), dtype=torch.long))
        self.register_buffer("since", torch.zeros((), dtype=torch.long))

    def unseen(self, rows: int) -> Tensor:
        """Label, whether it is doubted, embedding: -1, 0 and zeros."""
        return functional.pad(torch.full((rows, 1), -1.0), (0, 1 + getattr(self, "dim", 0)))

    def told(self) -> dict[str, Tensor]:
        """1 of a row whose label is doubted, else 0."""
        return {"doubted": torch.where(self.memory[:, 0] < 0, torch.nan, self.memory[:, 1])}

    def forward(
        self,
        z: Embeddings,
        *,
        labels: Tensor,
        sample_id: Tensor,
        head: Callable[[Tensor], Tensor],
        present: dict[str, Tensor] | None = None,
        mixed: dict[str, tuple[Tensor, Tensor | float]] | None = None,
        progress: float = 1.0,
    ) -> Tensor:
        here = torch.ones_like(labels, dtype=torch.bool)
        if present is not None:
            anywhere = torch.stack([present[name].any() for name in z]).tolist()
            z = {name: rows for (name, rows), some in zip(z.items(), anywhere, strict=True) if some} or z
            here = torch.stack([present[name] for name in z]).all(0)
        (items,) = chosen([here & (labels >= 0)])
        self.count("dropped_labels", (here & (labels < 0)).sum())
        if len(items) < 2:
            return zero_loss(z)
        mixed = mixed or {}
        pure = torch.arange(len(labels), device=labels.device), 1.0
        shares = {name: mixed.get(name, pure) for name in z if name in mixed} or dict.fromkeys(z, pure)
        views = [View(unit(z[name][items]), partner[items], s) for name, (partner, s) in shares.items()]
        clean_name = next((name for name in z if name not in shares), next(iter(z)))
        doubted = self.remembered(sample_id[items], labels[items], unit(z[clean_name][items]).detach())
        loss = interpolated(views, items, labels, self.tau)
        places = len(self.ring) if hasattr(self, "ring") and self.training and self.remembers else 0
        if len(views) * len(items) <= places:
            loss = loss + interpolated(views, items, labels, self.tau, self.recent(views, items, labels))
        elif places:  # the batch would be all that the memory has
            self.count("memory_skipped", 1)
        said = [View(head(z[name][items]), partner[items], s) for name, (partner, s) in shares.items()]
        if not self.training or progress < self.correct:
            return loss + classified(said, items, labels)
        told = head(torch.nan_to_num(z[clean_name].detach()))
        if self.form == "bootstrapped":
            return loss + bootstrapped(said, items, labels, told)
        clean = torch.ones_like(labels, dtype=torch.bool).index_fill(0, items[doubted], False)
        return loss + classified(said, items, labels, clean, told)

    def remembered(self, ids: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        """Which labels of these rows are doubted, `[b]` bool. In training it remembers the rows `[b, D]`, and once for
        as many rows as there are it lets all that are remembered vote."""
        if not self.training or not hasattr(self, "dim"):  # without `setup` nothing is remembered
            return torch.zeros_like(ids, dtype=torch.bool)
        doubted = self.recall(ids)[:, 1]
        self.remember(ids, torch.cat([labels[:, None], doubted[:, None], rows], 1))
        if self.remembers:
            self.since += len(ids)
            if int(self.since) >= len(self.memory):
                self.judge()
        self.count("doubted_labels", (doubted > 0).sum())
        return doubted > 0

    @torch.no_grad()
    def judge(self) -> None:
        """Doubt labels by the votes of what is remembered."""
        (known,) = chosen([self.memory[:, 0] >= 0])
        labels = self.memory[known, 0].long()
        if self.classes > 1 and len(known) > 1:
            clean = clean_rows(self.memory[known, 2:], labels, self.nearest, self.classes, balance=self.balance)
            self.replaced.append((known, self.memory[known]))
            self.memory[known, 1] = (~clean).to(self.memory.dtype)
        self.since.zero_()

    @torch.no_grad()
    def recent(self, views: Sequence[View], items: Tensor, labels: Tensor) -> Columns:
        """What is remembered as columns, in which the rows of the views now take the place of the oldest."""
        item, new = items.repeat(len(views)), torch.cat([view.rows for view in views])
        places = (self.turn + torch.arange(len(new), device=new.device)) % len(self.ring)
        self.ring[places] = new.to(self.ring.dtype)
        self.ring_labels[places] = labels[item]
        self.turn.copy_((self.turn + len(new)) % len(self.ring))
        of = torch.where(self.ring_labels < 0, -2, -1).index_copy(0, places, item)
        return Columns(self.ring.to(new.dtype), self.ring_labels, of, places)
