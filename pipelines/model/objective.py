"""The objective: a weighted sum of losses, each given exactly what its signature asks for."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from clx.losses.base import Embeddings, Loss
from clx.pipelines.config.schema import Term
from clx.pipelines.model.towers import modality_of

Provide = Callable[[Loss, Embeddings], dict[str, object]]
"""Values of the names that a loss needs, given the embeddings that its term looks at."""


class Objective(nn.Module):
    """A weighted sum of losses, each given exactly what its signature asks for."""

    def __init__(self, terms: list[Term], losses: list[Loss]) -> None:
        super().__init__()
        self.terms = terms
        self.losses = nn.ModuleList(losses)

    def needs(self) -> set[str]:
        """Everything that some loss asks for."""
        return set().union(*(type(loss).needs() for loss in self.losses))  # type: ignore[attr-defined]

    def forward(self, z: Embeddings, extras: Provide) -> tuple[Tensor, dict[str, float]]:
        """The sum `[]`, and what each loss counted in this batch, by `loss.count`."""
        total = torch.zeros((), device=next(iter(z.values())).device)
        counts: dict[str, float] = {}
        for term, loss in zip(self.terms, self.losses, strict=True):
            assert isinstance(loss, Loss)
            seen = {k: v for k, v in z.items() if term.inputs is None or modality_of(k) in term.inputs}
            value = loss(seen, **extras(loss, seen))
            total = total + (1.0 if term.weight is None else term.weight) * value
            counts |= {f"{term.name}.{key}": value for key, value in loss.log.items()}
        return total, counts

    def learned(self) -> dict[str, float]:
        """Scalars that losses learn, such as temperatures, by `loss.name`."""
        return {
            f"{term.name}.{name}": value.item()
            for term, loss in zip(self.terms, self.losses, strict=True)
            for name, value in loss.learned().items()  # type: ignore[operator]
        }

    @property
    def leading(self) -> Loss:
        """The loss whose geometry the space has: the first that is not a supervised head's."""
        losses = [loss for loss in self.losses if isinstance(loss, Loss)]
        return next((loss for loss in losses if type(loss).family != "supervised heads"), losses[0])
