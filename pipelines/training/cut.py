"""The graph of a step in two: rows to embeddings, tower by tower, and embeddings to the loss.

So on several ranks the gradients of towers come one tower after the other, in an order that no rank's rows change.
"""

import torch
from torch import Tensor

from clx.losses.base import Embeddings, Steps
from clx.pipelines.model.towers import Embedder, Tower


class Cut:
    """Where a graph was cut: what towers have made, by view, and what stands for it in the rest of the graph."""

    def __init__(self) -> None:
        self.views: list[str] = []
        self.made: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def of(self, z: Embeddings, steps: Steps) -> tuple[Embeddings, Steps]:
        """The same embeddings, of a graph that begins with them."""
        self.views = [name for name in z if not name.startswith("key ")]  # those of a second model learn nothing here
        begun = {name: self._begin(name, rows) for name, rows in z.items()}
        views = {name: name if name in z else name.rpartition(" ")[2] for name in steps}  # of what inner states are
        return begun, {name: (self._begin(views[name], rows), mask) for name, (rows, mask) in steps.items()}

    def _begin(self, name: str, made: Tensor) -> Tensor:
        start = made.detach()
        if made.requires_grad:
            start.requires_grad_()
            self.made.setdefault(name, []).append((made, start))
        return start

    def names(self, by: str, rows: Tensor) -> Tensor:
        """The same rows of labels' names, which the tower of `by` has made after all views."""
        self.views.append(by)
        return self._begin(by, rows)

    def towers(self, model: Embedder) -> list[Tower]:
        """Those of the views and names, the last that has encoded first."""
        return list(dict.fromkeys(model.tower(name) for name in reversed(self.views)))

    def backward(self, model: Embedder, tower: Tower) -> None:
        """Gradients of a tower, from those of what it has made; its graph is gone then."""
        pairs = [pair for name in self.views if model.tower(name) is tower for pair in self.made.pop(name, [])]
        learned = [(made, start.grad) for made, start in pairs if start.grad is not None]
        if learned:
            torch.autograd.backward([made for made, _ in learned], [gradient for _, gradient in learned])
