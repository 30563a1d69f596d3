"""SCT: the similarities of one view to a queue, which a predictor should tell from the other view."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from clx.losses.base import Embeddings, Loss, register, require_two_inputs, zero_loss
from clx.losses.primitives.blocks import by_blocks, of_block
from clx.losses.primitives.functional import unit
from clx.losses.primitives.masks import chosen


def distilled(
    predicted: Tensor, reference: Tensor, candidates: Tensor, temperature: float, teacher_temperature: float
) -> Tensor:
    """mean_i KL(softmax_k(r_i.q_k / t_teacher) || softmax_k(p_i.q_k / t)); only p has a gradient.

    Args:
        predicted, reference: p and r, `[B, D]`, unit rows; row i of both is one item.
        candidates: q, `[K, D]`, unit rows, and among them those of the reference itself.

    Reference:
        Limkonchotiwat et al. 2023, arXiv 2311.03228.
    """
    reference, candidates = reference.detach(), candidates.detach()

    def terms(s: Tensor, rows: slice) -> tuple[Tensor]:
        with torch.no_grad():
            teacher = (of_block(reference, rows) @ candidates.T / teacher_temperature).log_softmax(1)
        return (functional.kl_div((s / temperature).log_softmax(1), teacher, reduction="sum", log_target=True),)

    return by_blocks(terms, predicted, candidates)[0] / len(predicted)


@register("sct")
@dataclass(eq=False, kw_only=True)
class SCT(Loss):
    """Self-distillation across two views, over all pairs of names: no negatives, a queue of references for each name.

    The predictor is the loss's own, and left out of what is exported. The queue is saved with the run; it takes in what
    a step saw, in training mode, after the loss of that step.

    Example:
        >>> loss = SCT(queue=4)
        >>> torch.manual_seed(0) and loss.setup(["text/0", "text/1"], 4)
        >>> views = {"text/0": torch.eye(4), "text/1": torch.eye(4)}
        >>> loss(views).item() > 0, torch.equal(loss.queues[0], torch.eye(4))
        (True, True)
    """

    family = "distillation"
    paper = "Limkonchotiwat et al. 2023, arXiv 2311.03228"
    formula = (
        "KL(softmax(r_a.Q_a / t_teacher) || softmax(p_b.Q_a / t)) and with a and b exchanged; Q_a ends with the r_a"
    )
    cost = "time O((queue + B) B D) per pair of names, memory O((V queue + B) D); the predictor 60 D^2"
    use = "texts without labels and small encoders; two views by dropout or by translation"
    fits = ("one modality", "pairs")
    sharpness = "1 / student_temperature, and 1 / teacher_temperature of the reference"
    ours = "the reference is the view itself without gradient, where the paper's code runs the encoder once more"

    queue: Annotated[int, Ge(0)] = 4096
    student_temperature: Annotated[float, Gt(0)] = 0.05
    teacher_temperature: Annotated[float, Gt(0)] = 0.04
    layers: Annotated[int, Ge(1)] = 3
    hidden: Annotated[int, Ge(1)] = 10  # times the width of the embedding
    queues: Tensor = field(init=False, repr=False)  # [V, queue, D], the newest last

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        self.names = list(names)
        wide = self.hidden * dim
        parts = [nn.Sequential(nn.Linear(dim, wide), nn.ReLU(), nn.Linear(wide, dim)) for _ in range(self.layers)]
        self.predictor = nn.ModuleList(parts)
        self.register_buffer("queues", functional.normalize(torch.randn(len(names), self.queue, dim), dim=2))

    def predict(self, x: Tensor) -> Tensor:
        """Unit rows `[B, D]`; with fewer columns by the first so many of the predictor's, as `dims` cuts any row."""
        width = x.shape[1]
        for part in self.predictor:
            (first, bias), (last, last_bias) = ((p.weight.to(x), p.bias.to(x)) for p in (part[0], part[2]))  # type: ignore[index]
            x = functional.linear(x, first[:, :width], bias).relu()
            x = functional.linear(x, last[:width], last_bias[:width])
        return unit(x)

    def forward(self, z: Embeddings, *, present: dict[str, Tensor] | None = None) -> Tensor:
        require_two_inputs(z)
        if not hasattr(self, "names"):
            raise ValueError("sct has a predictor and a queue: call setup(names, dim) once before training")
        names, pairs = list(z), list(itertools.combinations(z, 2))
        every: Sequence[Tensor | slice] = [slice(None)] * (len(pairs) + len(names))
        if present is not None:
            every = chosen([*(present[a] & present[b] for a, b in pairs), *(present[n] for n in names)])
        width = next(iter(z.values())).shape[1]
        queues = self.queues.to(next(iter(z.values())))
        if width < queues.shape[2]:
            queues = functional.normalize(queues[:, :, :width], dim=2)
        with torch.no_grad():
            seen = {n: unit(z[n][rows]) for n, rows in zip(names, every[len(pairs) :], strict=True)}
        columns = {n: torch.cat([queues[self.place(n)], seen[n]]) for n in names}
        terms = []
        for (a, b), both in zip(pairs, every, strict=False):
            x, y = z[a][both], z[b][both]
            if len(x):
                for own, other, name in ((x, y, a), (y, x, b)):
                    reference = seen[name] if present is None else unit(own.detach())
                    given = self.predict(other), reference, columns[name]
                    terms.append(distilled(*given, self.student_temperature, self.teacher_temperature))
        if len(terms) < 2 * len(pairs):
            self.log["skipped_pairs"] = len(pairs) - len(terms) // 2
        if self.training and self.remembers:
            self.enqueue(columns)
        return torch.stack(terms).sum() * 2 / len(terms) if terms else zero_loss(z)

    def place(self, name: str) -> int:
        """Number of a name's queue; a modality used without views has that of its first view."""
        return self.names.index(name if name in self.names else f"{name}/0")

    @torch.no_grad()
    def enqueue(self, columns: Embeddings) -> None:
        """Keep the newest rows; a step with a row that is no number leaves the queue as it was."""
        for name, rows in columns.items():
            newest = rows[len(rows) - self.queue :]
            queue = self.queues[
                self.place(name), :, : rows.shape[1]
            ]  # fewer columns where the last of `dims` has fewer
            queue.copy_(torch.where(newest.isfinite().all(), newest.to(queue.dtype), queue))
