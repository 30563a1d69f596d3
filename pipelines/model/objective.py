"""The objective: a weighted sum of losses, each given exactly what its signature asks for."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from clx.losses.base import Embeddings, Loss
from clx.losses.memory import Remembering
from clx.pipelines.config.heads import Head
from clx.pipelines.config.schema import Term, only_negatives
from clx.pipelines.model.towers import modality_of
from clx.pipelines.model.widths import at_widths

Provide = Callable[[Loss, Embeddings, Embeddings], dict[str, object]]
"""Values of the names that a loss needs, given the embeddings that its term looks at, and those of its negatives."""


def looked_at(term: Term, names: Iterable[str], only_negatives: Collection[str]) -> list[str]:
    """The views that a term looks at, in the order of its inputs; all but those that are only negatives by default."""
    if term.inputs is None:
        return [name for name in names if modality_of(name) not in only_negatives]
    return [name for each in term.inputs for name in names if modality_of(name) == each]


@runtime_checkable
class HoldsOut(Protocol):
    """Values that can be had for two parts of the rows, one for the inputs of a gated head and one for its gates."""

    def __call__(self, loss: Loss, z: Embeddings, negatives: Embeddings) -> dict[str, object]: ...
    def held_out(self) -> tuple["HoldsOut", "HoldsOut"]: ...
    def track(self, loss: Loss, name: str, rows: Tensor) -> None: ...


@runtime_checkable
class ReadsWords(Protocol):
    """Values that know what learned prompts are to have besides what a loss asks of them."""

    def beside_words(self, loss: Loss, z: Embeddings) -> Tensor | None: ...


class Objective(nn.Module):
    """A weighted sum of losses, each given exactly what its signature asks for."""

    levels: Tensor | None

    def __init__(
        self,
        terms: list[Term],
        losses: list[Loss],
        heads: Sequence[Head | None] = (),
        levels: Tensor | None = None,
    ) -> None:
        """`heads`: of each term the head that it trains, if it trains one. `levels` `[C, L]` of the classes are what
        losses get that ask for them."""
        super().__init__()
        self.register_buffer("levels", levels, persistent=False)
        self.heads = {loss: head for loss, head in zip(losses, heads, strict=False) if head is not None}
        self.terms = terms
        self.losses = nn.ModuleList(losses)
        self.only_negatives = only_negatives(terms)
        self.replay_from: int | None = None
        """The `sample_id` from which on training rows are of earlier data; None where there are none."""
        self.rows = {loss: term.rows for term, loss in zip(terms, losses, strict=False) if term.rows is not None}
        """Of losses that only some rows have a term of, which."""
        both = zip(terms, losses, strict=False)
        self.samples = {loss: t.labels_per_step for t, loss in both if t.labels_per_step is not None}
        """Of losses that learn from a part of the labels at a step, how many."""

    def needs(self) -> set[str]:
        """Everything that some loss asks for."""
        return set().union(*(type(loss).needs() for loss in self.losses))  # type: ignore[attr-defined]

    def forward(
        self, z: Embeddings, extras: Provide, progress: float = 1.0
    ) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The sum `[]` of the terms that count when `progress` of the steps is done, and what each of their losses
        counted in this batch, by `loss.count`; on a GPU scalars on it."""
        total = torch.zeros((), device=next(iter(z.values())).device)
        counts: dict[str, float | Tensor] = {}
        for term, loss in zip(self.terms, self.losses, strict=True):
            assert isinstance(loss, Loss)
            if not term.counts_at(progress):
                continue
            seen = {name: z[name] for name in looked_at(term, z, self.only_negatives)}
            further = {name: rows for name, rows in z.items() if modality_of(name) in (term.negatives or [])}
            gates = self.gates(loss, seen)
            if gates:
                value = self.gated(loss, seen, extras)
            elif term.dims:
                value = at_widths(loss, term.dims, seen, extras(loss, seen, further))
            else:
                value = loss(seen, **extras(loss, seen, further))
            if term.words is not None and isinstance(extras, ReadsWords):
                besides = extras.beside_words(loss, seen)
                value = value if besides is None else value + besides
            total = total + (1.0 if term.weight is None else term.weight) * value
            counts |= {f"{term.name}.{key}": count for key, count in loss.log.items()}
        return total, counts

    def gates(self, loss: Loss, seen: Embeddings) -> bool:
        """Whether this loss trains gates over several inputs, now."""
        several = len({modality_of(name) for name in seen}) > 1
        return loss in self.heads and self.heads[loss].fuse == "gated" and self.training and several

    def gated(self, loss: Loss, seen: Embeddings, extras: Provide) -> Tensor:
        """The loss of what all inputs predict together, with the gradients of other losses: each input learns from what
        it predicts alone, and the gates from rows whose answers the inputs were not given."""
        assert isinstance(extras, HoldsOut)
        inputs, gates = extras.held_out()
        learned = [loss({name: rows}, **inputs(loss, {name: rows}, {})) for name, rows in seen.items()]
        for name, rows in seen.items():
            gates.track(loss, name, rows)
        learned.append(loss(seen, **gates(loss, seen, {})))
        gradient = torch.stack(learned).sum()
        value = loss(seen, **extras(loss, seen, {})).detach()  # the last, since the counts of the last are logged
        return value + (gradient - gradient.detach())

    def learned(self) -> dict[str, Tensor]:
        """Scalars `[]` that losses learn, such as temperatures, by `loss.name`."""
        return {
            f"{term.name}.{name}": value
            for term, loss in zip(self.terms, self.losses, strict=True)
            for name, value in loss.learned().items()  # type: ignore[operator]
        }

    def remembering(self) -> list[Remembering]:
        """The losses that remember rows."""
        return [loss for loss in self.losses if isinstance(loss, Remembering)]

    @property
    def leading(self) -> Loss:
        """The loss whose geometry the space has: the first, of those that count at the end, that is not a supervised
        head's."""
        both = zip(self.terms, self.losses, strict=True)
        losses = [loss for term, loss in both if isinstance(loss, Loss) and term.counts_at(1.0)]
        return next((loss for loss in losses if type(loss).family != "supervised heads"), losses[0])
