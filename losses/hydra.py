"""Hydra, since renamed to SimLAP: any two classes may be positives, in the space that a gate for the two opens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from clx.losses.base import Embeddings, Tempered, register, zero_loss
from clx.losses.primitives.blocks import by_blocks, of_block
from clx.losses.primitives.draws import permutation
from clx.losses.primitives.forms import NEVER
from clx.losses.primitives.functional import softplus, unit
from clx.losses.primitives.masks import stack_present


def gated_contrast(z: Tensor, gates: Tensor, labels: Tensor, partners: Tensor, temperature: Tensor | float) -> Tensor:
    """Mean over all pairs of an anchor i and a positive p of log(1 + exp(lse_n l_in - l_ip)).

    l_ij = cos(g_i z_i, g_i z_j) / t. Positives are the rows of the partner class of i, negatives those of neither its
    own nor that.

    Args:
        z: `[N, D]`, rows.
        gates: g, `[N, D]`.
        labels, partners: classes, `[N]`; a row of label -1 is left out.

    Returns:
        Scalar in nats; 0 without a positive.

    Reference:
        Wu et al. 2024, arXiv 2410.18200.
    """
    squares, of_z = gates.square(), z.square()
    own = torch.linalg.vecdot(squares, of_z)
    whole = labels.is_cpu and len(labels) > 0 and int(labels.min()) >= 0
    given = temperature if isinstance(temperature, Tensor) else z.new_full((), temperature)

    def terms(s: Tensor, rows: slice, own: Tensor, g: Tensor, of_z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        lengths = of_block(own, rows)[:, None] * (of_block(g, rows) @ of_z.T)
        logits = s * lengths.clamp(min=1e-24).rsqrt() / t
        positive, no_negative = labels == partners[rows, None], labels == labels[rows, None]
        if not whole:
            known = (labels >= 0) & (labels[rows, None] >= 0)
            positive, no_negative = positive & known, no_negative | ~known
        against = logits.masked_fill(no_negative | positive, NEVER).logsumexp(1)
        losses = softplus(against[:, None] - logits) * positive
        return losses.sum(), positive.sum().to(s.dtype)

    total, count = by_blocks(terms, squares * z, z, own, squares, of_z, given, copies=2)
    return total / count.clamp(min=1)


@register("hydra")
@dataclass(eq=False, kw_only=True)
class Hydra(Tempered):
    """Arbitrary positives over the rows of all names: a partner class is drawn for each item, and a gate for the two.

    The gates are the loss's own, and left out of what is exported. Rows without a label are left out.

    Example:
        >>> torch.manual_seed(0) and None
        >>> loss, x = Hydra(partner="identical"), torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
        >>> loss.setup(["image"], 2, ["a", "b"])
        >>> right = loss({"image": x}, labels=torch.tensor([0, 0, 1, 1])).item()
        >>> wrong = loss({"image": x}, labels=torch.tensor([0, 1, 0, 1])).item()
        >>> right < 0.01, wrong > 3
        (True, True)
    """

    family = "supervised"
    paper = "Wu et al. 2024, arXiv 2410.18200 (Hydra, later SimLAP)"
    formula = "mean_{i, p} log(1 + e^{lse_n l_in - l_ip}), l_ij = cos(g_i z_i, g_i z_j) / t, g_i = gate(label, partner)"
    cost = "time O(V^2 B^2 D), memory O(V B D); gates of about 0.5 M parameters"
    use = "labels that say little, so that what classes share should stay: less is collapsed than by supcon"
    fits = ("labels",)
    ours = "the gate is normalised within a row, where the authors' batch norm mixes the rows of a batch"

    temperature: Annotated[float, Gt(0)] = 0.1
    partner: Literal["arbitrary", "identical"] = "arbitrary"  # the label of another item at random, or the own
    embedding: Annotated[int, Ge(1)] = 512
    hidden: Annotated[int, Ge(1)] = 1024

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        self.classes = nn.Embedding(max(2, len(classes)), self.embedding)
        wide = self.hidden
        layers = [nn.Linear(self.embedding, wide), nn.Linear(wide, dim)]
        self.layers = nn.ModuleList(layers)

    def gates(self, labels: Tensor, partners: Tensor, like: Tensor) -> Tensor:
        """In (0, 1), `[B, D]`; with fewer columns the first so many, as `dims` cuts any row."""
        table = self.classes.weight.to(like)
        x = (table[labels.clamp(min=0)] + table[partners.clamp(min=0)]) / 2
        first, last = self.layers
        for layer, width in ((first, self.hidden), (last, like.shape[1])):
            x = functional.layer_norm(x.relu(), x.shape[1:])
            x = functional.linear(x, layer.weight[:width].to(x), layer.bias[:width].to(x))  # type: ignore[index]
        return x.sigmoid()

    def forward(
        self,
        z: Embeddings,
        *,
        labels: Tensor,
        present: dict[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        if not hasattr(self, "layers"):
            raise ValueError("hydra has gates: call setup(names, dim, classes) once before training")
        x, items = stack_present(z, present)
        if not len(x):
            return zero_loss(z)
        partners = labels
        if self.partner == "arbitrary":
            drawn = labels[permutation(len(labels), labels, generator)]
            partners = torch.where(drawn < 0, labels, drawn)
        gates = self.gates(labels, partners, x)
        return gated_contrast(unit(x), gates[items], labels[items], partners[items], self.tau)
