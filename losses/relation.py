"""One loss over how alike any two rows are: softmax, sigmoid, decoupled softmax or soft top-k of weighted positives."""

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from clx.losses.base import Embeddings, Exclude, register, zero_loss
from clx.losses.pairwise import Pairwise, item_ids
from clx.losses.primitives.alike import Alike, Kernel, Tree, by_class, by_numbers, by_sets, by_vectors, tree_of
from clx.losses.primitives.blocks import by_blocks
from clx.losses.primitives.forms import Form, decoupled, each_pair, soft_choice, top_k
from clx.losses.primitives.functional import unit
from clx.losses.primitives.masks import stack_present
from clx.losses.primitives.tiles import is_small
from clx.losses.unused import refuse_unused

KERNELS: dict[str, tuple[str, ...]] = {
    "labels": ("equal", "cosine", "jaccard", "tree", "paths"),
    "targets": ("gaussian", "cosine"),
    "features": ("cosine",),
    "score": (),
}
"""By what rows are compared by, how. The first is the default, but `jaccard` of sets of labels."""


@register("relation")
@dataclass(eq=False, kw_only=True)
class Relation(Pairwise):
    """Rows attract each other as far as they are alike by their labels, by targets or by the features of an input.

    A row and its own other inputs or views are wholly alike. With `among: pairs` the rows of one input choose among
    those of another, over all pairs of inputs; with `all` each row among all other rows of all inputs, as in `supcon`;
    by default `pairs` where there are several modalities. Pairs that are at most `threshold` alike count as 0.

    Example:
        >>> z = {"image": torch.tensor([[1.0, 0], [0, 1], [1, 1]])}
        >>> sets = torch.tensor([[1.0, 0], [0, 1], [1, 1]])  # the third has what either of the others has
        >>> loss = Relation(temperature=0.5)
        >>> round(loss(z, label_sets=sets).item(), 3), round(loss(z, label_sets=sets[[2, 0, 1]]).item(), 3)
        (0.376, 1.083)
        >>> frozen = {"text": torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1]])}
        >>> cwcl = Relation(by="features", of="text", both=False)
        >>> round(cwcl({"text": frozen["text"], "speech": z["image"]}, features=frozen).item(), 3)
        5.912
    """

    family = "relation"
    paper = (
        "softmax: Khosla et al. 2020, arXiv 2004.11362; by features CWCL, Srinivasa et al. 2023, arXiv 2309.14580; "
        "paths SPACE-2, He et al. 2022, arXiv 2209.06638; tree Lu et al. 2023, arXiv 2310.09672. decoupled, top-k: "
        "DEXML, Gupta et al. 2024, arXiv 2310.10636. sigmoid: SoftCon, Wang et al. 2024, arXiv 2405.20462"
    )
    formula = "softmax: mean_i lse_j(u_i.u_j / t) - sum_j w_ij u_i.u_j / t / sum_j w_ij, w_ij how alike i and j are"
    cost = "time O(V^2 B^2 (D + F)) for F numbers that describe a row, memory O(V B (D + F)); top-k: 24 times the time"
    fits = ("label sets", "labels", "targets", "pairs", "scores")
    ours = (
        "form: sigmoid, after SoftCon, whose loss is not published; by: score; tree: the paper counts a renamed node "
        "once"
    )
    use = "rows are more or less alike: by sets or paths of labels, by numbers, or by what a frozen model says"

    exclude: Exclude = "none"
    by: Literal["labels", "targets", "features", "score"] = "labels"
    of: str | None = None
    kernel: Kernel | None = None
    form: Literal["softmax", "sigmoid", "decoupled", "top-k"] = "softmax"
    among: Literal["pairs", "all"] | None = None
    both: bool = True
    threshold: Annotated[float, Ge(0), Lt(1)] = 0.0
    target_temperature: Annotated[float, Gt(0)] | None = None
    bandwidth: Annotated[float, Gt(0)] | None = None
    best: Annotated[float, Gt(0)] = 1.0
    k: Annotated[int, Ge(1)] = 5
    slope: Annotated[float, Gt(0)] = 1.0
    bias: float = 0.0
    learn_bias: bool = True
    logit_bias: nn.Parameter = field(init=False, repr=False)  # [1], of `form: sigmoid`

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form == "sigmoid" and self.learn_bias:
            self.logit_bias = nn.Parameter(torch.tensor([self.bias]))
        if self.kernel is not None and self.kernel not in KERNELS[self.by]:
            allowed = ", ".join(KERNELS[self.by]) or "none"
            raise ValueError(f"kernel: {self.kernel} does not compare {self.by}; by: {self.by} has {allowed}")
        if (self.by == "features") != (self.of is not None):
            raise ValueError(
                f"by: {self.by} {'needs' if self.of is None else 'takes no'} `of`, the input with features"
            )
        if self.by == "score" and self.form != "sigmoid":
            raise ValueError(f"by: score is of a row's own pair alone: form: sigmoid learns it, {self.form} cannot")
        used = {
            "k": self.form == "top-k",
            "slope": self.form == "top-k",
            "bias": self.form == "sigmoid",
            "best": self.by == "score",
            "target_temperature": self.by == "features",
            "bandwidth": self.by == "targets" and self.kernel != "cosine",
        }
        refuse_unused(self, f"by: {self.by} and form: {self.form}", used)
        self.tree: tuple[Tensor | None, Tree] | None = None

    def requires(self) -> frozenset[str]:
        own = {"labels": "labels", "features": "features"}.get(self.by, "targets")
        return super().requires() | {own} | ({"levels"} if self.kernel in ("tree", "paths") else set())

    def scale(self) -> tuple[float, float | None]:
        bias = self.logit_bias.item() if self.form == "sigmoid" and self.learn_bias else self.bias
        return super().scale()[0], bias if self.form == "sigmoid" else None

    def learned(self) -> dict[str, Tensor]:
        told = self.form == "sigmoid" and self.learn_bias
        return super().learned() | ({"bias": self.logit_bias.detach().squeeze()} if told else {})

    def forward(  # type: ignore[override]  # no second model says which rows are no negatives
        self,
        z: Embeddings,
        *,
        present: dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
        label_sets: Tensor | None = None,
        levels: Tensor | None = None,
        targets: Tensor | None = None,
        features: Embeddings | None = None,
        sample_id: Tensor | None = None,
        repeats: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        first = next(iter(z.values()))
        ids = item_ids(self.exclude, len(first), labels, sample_id, repeats)
        alike = self.alike(first, labels, label_sets, levels, targets, features)
        own = (targets[:, 0] / self.best).clamp(0, 1) if self.by == "score" and targets is not None else None
        if self.among == "pairs" or (self.among is None and len({name.partition("/")[0] for name in z}) > 1):

            def pair(x: Tensor, y: Tensor, ids: Tensor | None, name: str, rows: Tensor | slice) -> Tensor:
                few = [None if each is None else each[rows] for each in (own, weights)]
                return self.mean(x, y, _Pairs(alike.take(rows), None, ids, *few), self.both)

            return self.over_pairs(z, present, ids, pair)
        x, items = stack_present(z, present)
        if len(x) < 2:
            return zero_loss(z)
        of_items = [None if each is None else each[items] for each in (ids, own, weights)]
        u = unit(x)
        return self.mean(u, u, _Pairs(alike.take(items), items, *of_items))

    def alike(
        self,
        first: Tensor,
        labels: Tensor | None,
        label_sets: Tensor | None,
        levels: Tensor | None,
        targets: Tensor | None,
        features: Embeddings | None,
    ) -> Alike:
        """How alike rows are; `first` are embeddings of one input, for their number and type.

        Raises:
            ValueError: if the batch lacks what rows are compared by.
        """
        if self.by == "features":
            if features is None or self.of not in features:
                raise ValueError(f"of: no features of {self.of!r}; there are {', '.join(features or {}) or 'none'}")
            return by_vectors(features[self.of].to(first.dtype), self.target_temperature)
        if self.by in ("targets", "score"):
            if targets is None:
                raise ValueError(f"by is {self.by!r}, but the batch has no targets")
            if self.by == "targets":
                return by_numbers(targets.to(first.dtype), self.kernel or "gaussian", self.bandwidth)
            nothing = torch.zeros(len(first), dtype=torch.bool, device=first.device)
            return Alike(
                lambda a, b: torch.zeros(len(a), len(b), dtype=first.dtype, device=a.device), nothing, ~nothing
            )
        if self.kernel in ("tree", "paths") and (self.tree is None or self.tree[0] is not levels):
            self.tree = levels, tree_of(levels, self.kernel)
        tree = None if self.tree is None else self.tree[1]
        if label_sets is not None:
            return by_sets(label_sets, self.kernel or "jaccard", tree, first.dtype)
        if labels is None:
            raise ValueError("by is 'labels', but the batch has no labels")
        return by_class(labels, tree, first.dtype)

    def mean(self, x: Tensor, y: Tensor, pairs: "_Pairs", both: bool = False) -> Tensor:
        """The mean term of the rows of `x` among those of `y`, unit rows, and with `both` the other way, too."""
        forms: dict[str, Form] = {
            "softmax": soft_choice,
            "sigmoid": each_pair,
            "decoupled": decoupled,
            "top-k": partial(top_k, k=self.k, slope=self.slope),
        }
        form = forms[self.form]
        settings: list[Tensor | float] = [self.tau]
        if self.form == "sigmoid":
            settings.append(self.logit_bias.squeeze() if self.learn_bias else self.bias)
        learned = [each for each in settings if isinstance(each, Tensor)]

        def terms(s: Tensor, rows: slice, *here: Tensor) -> tuple[Tensor, Tensor]:
            given = iter(here)
            tau, *bias = [next(given) if isinstance(each, Tensor) else each for each in settings]
            w, out = pairs(rows, s.dtype)
            w = torch.where(w > self.threshold, w, 0) if self.threshold else w
            s = s / tau + bias[0] if bias else s / tau
            found, valid = form(s, w, out)
            total = pairs.total(found, rows)
            count = total.detach() if valid is None else valid.sum()  # without `valid` all rows count
            if once:  # the block is all there is, and `w` is symmetric
                found, valid = form(s.T, w, out)
                total = total + pairs.total(found, rows)
                count = count if valid is None else count + valid.sum()
            return total, count

        everyone = pairs.whole and self.form != "top-k"
        if self.form == "sigmoid" and everyone and pairs.weights is None:  # then both directions are one
            both = False
        once = both and is_small(x, len(x))
        total, count = by_blocks(terms, x, y, *learned)
        if both and not once:
            more, others = by_blocks(terms, y, x, *learned)
            total, count = total + more, count + others
        rows = len(x) * (2 if both else 1)
        if everyone:
            return total / max(1, rows)
        self.count("dropped_anchors", (rows - count).long())
        return total / count.clamp(min=1)


class _Pairs:
    """How alike the rows of a block are to all columns, and which pairs are left out."""

    def __init__(
        self,
        alike: Alike,
        items: Tensor | None,
        ids: Tensor | None,
        own: Tensor | None,
        weights: Tensor | None,
    ) -> None:
        """`items` `[N]` of rows that are compared with each other; None where row i of both sides is item i. Other
        rows of equal `ids` are left out. `own` `[N]`, how alike a row is to its own partner: 1 by default."""
        self.alike, self.items, self.ids, self.own, self.weights = alike, items, ids, own, weights
        self.kept: tuple[slice, Tensor, Tensor | None] | None = None

    def __call__(self, rows: slice, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        if self.kept is None or self.kept[0] != rows:
            self.kept = rows, *self.block(rows, dtype)
        return self.kept[1:]

    @property
    def whole(self) -> bool:
        """Whether every pair counts, and so every row."""
        return self.items is None and self.ids is None and self.own is None

    def total(self, term: Tensor, rows: slice) -> Tensor:
        """The sum of the terms of these rows, each times its weight."""
        return (term if self.weights is None else term * self.weights[rows].to(term.dtype)).sum()

    def block(self, rows: slice, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        w = self.alike(rows).to(dtype)
        out = None if self.ids is None else self.ids[rows, None] == self.ids
        if self.items is None:
            there = w[:, rows].diagonal()
            there.fill_(1) if self.own is None else there.copy_(self.own[rows])
            if out is not None:
                out[:, rows].fill_diagonal_(False)
        else:
            same = self.items[rows, None] == self.items
            w = w.masked_fill_(same, 1) if self.own is None else torch.where(same, self.own[rows, None].to(dtype), w)
            out = torch.zeros_like(same) if out is None else out & ~same
            out[:, rows].fill_diagonal_(True)
        if self.own is not None:  # NaN where it is not known
            out = w.isnan() if out is None else out | w.isnan()
        return w if out is None else w.masked_fill(out, 0), out
