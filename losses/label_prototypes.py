"""Terms of a head that tells which labels apply by how near prototypes of each label are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from clx.losses.base import Embeddings, Loss, register
from clx.losses.primitives.functional import unit
from clx.losses.primitives.masks import all_known, mean_where

TINY = 1e-6


def nearness(cosines: Tensor, sets: Tensor, of_prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row `[B]`, the cosine with the nearest prototype of each of its labels, the sum over these by the number
    of all labels; and that with the nearest prototype of any other label, 0 where all apply.

    Args:
        cosines: `[B, P]`, of rows and prototypes.
        sets: `[B, K]` of 0 and 1.
        of_prototypes: `[P]` int64, the label of each prototype; as many of each.
    """
    nearest = cosines.unflatten(1, (sets.shape[1], -1)).amax(2)  # of the prototypes of each label
    own = (nearest * sets).sum(1) / sets.shape[1]
    others = cosines.masked_fill(sets[:, of_prototypes] > 0, -torch.inf).amax(1)
    return own, others.masked_fill(others.isinf(), 0)


def apart(cosines: Tensor) -> Tensor:
    """The mean square `[]` of G - I, of cosines G `[P, P]` of prototypes with each other."""
    return (cosines - torch.eye(len(cosines), dtype=cosines.dtype, device=cosines.device)).square().mean()


def by_overlap(cosines: Tensor, overlap: Tensor) -> Tensor:
    """(mean of G weighted by 1 - W - mean of G weighted by W) / sqrt(P) `[]`, G `[P, P]` cosines of prototypes and W
    `[P, P]` how much their labels overlap, from 0 to 1. It draws those of labels that occur together to each other.

    Reference:
        Sethi et al. 2025, arXiv 2504.08713 (ProtoECGNet).
    """
    drawn, weight = torch.dot(cosines.flatten(), overlap.flatten()), overlap.sum()
    alike, unlike = drawn / (weight + TINY), (cosines.sum() - drawn) / (overlap.numel() - weight + TINY)
    found: Tensor = (unlike - alike) / len(cosines) ** 0.5
    return found


def jaccard(together: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows with both labels by rows with either, `[K, K]`, of counts of rows with both; 1 on the diagonal."""
    counts = together.to(dtype)
    own = counts.diagonal()
    found: Tensor = counts / (own[:, None] + own - counts).clamp(min=1)
    return found.fill_diagonal_(1)


@register("label-prototypes")
@dataclass(eq=False, kw_only=True)
class LabelPrototypes(Loss):
    """Prototypes near rows of their labels and apart from each other, but those of labels that occur together alike.

    A term beside the one that teaches the head, `binary-cross-entropy` or `asymmetric` say, both with
    `prototypes_per_label: 5` and one input: the head then tells labels by cosines with prototypes. How often two labels
    occur together is counted over the batches of the training so far, of rows that lack the input, too. Rows of which
    some labels are not known are left out.

    Example:
        >>> import types
        >>> head = types.SimpleNamespace(rows=torch.eye(3, 4))
        >>> z, sets = {"series": torch.eye(3, 4)}, torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
        >>> loss = LabelPrototypes(cluster=0.0, separation=0.0, orthogonality=0.0)
        >>> loss.setup(["series"], 4, ["a", "b", "c"])
        >>> right_angles = loss(z, head=head, label_sets=sets).item()
        >>> head.rows[1] = head.rows[0]  # of labels that are always together
        >>> loss(z, head=head, label_sets=sets).item() < right_angles
        True
    """

    family = "supervised"
    paper = "ProtoECGNet, Sethi et al. 2025, arXiv 2504.08713"
    formula = (
        "-cluster mean_ik y_ik max_{p of k} s_ip + separation mean_i max_{p: y_ik(p) = 0} s_ip + orthogonality "
        "mean_pq (G_pq - I_pq)^2 - contrast (mean_W G - mean_{1 - W} G) / sqrt(P); s_ip = cos(z_i, v_p), "
        "G = cos(v, v), W_pq = Jaccard index of the labels of p and q"
    )
    cost = "time O(B P D + P^2 D), memory O(B P + P^2); P prototypes"
    use = "beside binary-cross-entropy with prototypes_per_label: labels told by what a row is near to"
    fits = ("label sets",)
    trains_predictions = True
    whole_sets = True  # of rows of which some labels are not known it is not counted how often labels come together
    ours = (
        "separation is from labels that do not apply: the published code's is from those of other labels that do, too; "
        "cosines below 0 draw, too; how often labels occur together is counted as training goes"
    )

    cluster: Annotated[float, Ge(0)] = 0.004
    separation: Annotated[float, Ge(0)] = 0.0004
    orthogonality: Annotated[float, Ge(0)] = 250.0
    contrast: Annotated[float, Ge(0)] = 300.0

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        self.register_buffer("together", torch.zeros(len(classes), len(classes), dtype=torch.int64))

    def forward(
        self,
        z: Embeddings,
        *,
        head: Callable[[Tensor], Tensor],
        label_sets: Tensor,
        present: dict[str, Tensor] | None = None,
    ) -> Tensor:
        prototypes = getattr(head, "rows", None)
        if prototypes is None:
            raise ValueError("its head has no prototypes: set prototypes_per_label: 5, say, in this term and in others")
        v = unit(prototypes.to(next(iter(z.values())).dtype))
        rows, there, known = torch.cat(list(z.values())), None, None
        sets = label_sets.to(v.dtype)
        if present is not None or not all_known(label_sets):
            known = ~label_sets.isnan().any(1)
            self.count("dropped_labels", (~known).sum())
            there = torch.cat([known if present is None else known & present[name] for name in z])
            rows, sets = torch.where(there[:, None], rows, 0), sets.nan_to_num()
        if self.training:
            counts = sets if known is None else sets.where(known[:, None], 0)
            self.get_buffer("together").add_((counts.T @ counts).round().long())
        labels = torch.arange(sets.shape[1], device=v.device)
        of_prototypes = labels.repeat_interleave(len(v) // sets.shape[1])
        own, others = nearness(unit(rows) @ v.T, sets.repeat(len(z), 1), of_prototypes)
        each = self.separation * others - self.cluster * own
        near = each.mean() if there is None else mean_where(there, each)
        overlap = jaccard(self.get_buffer("together"), v.dtype)[of_prototypes][:, of_prototypes]
        g = v @ v.T
        found = near + self.orthogonality * apart(g) + self.contrast * by_overlap(g, overlap)
        return found if there is None else torch.where(there.any(), found, 0)
