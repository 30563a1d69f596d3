"""Contrast of the steps of two views, such as places of images, each with the one of the other that is most alike."""

import itertools
import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from clx.losses.base import Embeddings, Steps, Tempered, register, require_two_inputs
from clx.losses.primitives.edits import DifferentIds
from clx.losses.primitives.functional import lse, softplus, unit_steps
from clx.losses.primitives.masks import mean_where
from clx.losses.primitives.streaming import gram


def matches(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """For each step of `a` `[B, T, F]`, the number of the most similar of `b` `[B, S, F]` by cosine: `[B, T]`.

    Steps of `b` that `mask` `[B, S]` leaves out are never chosen; a row without any gets 0.
    """
    with torch.no_grad():
        alike = unit_steps(a) @ unit_steps(b).mT
        return alike.masked_fill(~mask[:, None], -math.inf).argmax(2)


def local_contrast(
    similar: Tensor, match: Tensor, others: Tensor, temperature: Tensor | float, beside: Tensor | None = None
) -> Tensor:
    """Each step finds its match among negatives: softplus(N - p), p the match's logit and N the negatives' log-sum.

    -log( exp(q_s.k_m(s) / t) / (exp(q_s.k_m(s) / t) + sum_n exp(q_s.n / t)) )

    Args:
        similar: `[B, T, S]`, cosines of the steps of a row with those of its other view.
        match: `[B, T]`, m(s).
        others: `[B, T]`, log-sum-exp of the logits of the negatives of each step; -inf where there are none.
        beside: `[B, S]`, where given, the steps of the other view that are negatives as well, all but m(s).

    Returns:
        `[B, T]` in nats.

    Reference:
        Wang et al. 2021, DenseCL, equation 2, arXiv 2011.09157.
    """
    logits = similar / temperature
    positive = logits.gather(2, match[..., None])[..., 0]
    if beside is None:
        return softplus(others - positive)
    out = torch.zeros_like(logits, dtype=torch.bool).scatter(2, match[..., None], True) | ~beside[:, None]
    every = torch.cat([logits.masked_fill(out, -math.inf), others[..., None]], 2)
    return softplus(lse(every, 2) - positive)


@register("dense")
@dataclass(eq=False, kw_only=True)
class Dense(Tempered):
    """Each step of a view finds the step of the row's other view that its encoder takes for the same, among the steps
    of all views of other rows; averaged over all ordered pairs of views.

    Example:
        >>> grid = torch.eye(4).view(2, 2, 4)  # 2 images of 2 places, all different
        >>> there = torch.ones(2, 2, dtype=torch.bool)
        >>> z = {"image/0": torch.zeros(2, 4), "image/1": torch.zeros(2, 4)}
        >>> flipped = grid.flip(1)  # the other view shows the places the other way round
        >>> steps = {"image/0": (grid, there), "image/1": (flipped, there)}
        >>> loss = Dense(temperature=0.5)
        >>> round(loss(z, steps=steps, states={"image/0": grid, "image/1": flipped}).item(), 3)
        0.433
        >>> round(loss(z, steps=steps, states={"image/0": grid, "image/1": grid}).item(), 3)  # taken for others
        1.609
    """

    family = "inner states"
    paper = "DenseCL, Wang et al. 2021, arXiv 2011.09157; DenseCL++, Iskender et al. 2022, arXiv 2210.05063"
    formula = "mean_s -log( e^(q_s.k_m(s) / t) / (e^(q_s.k_m(s) / t) + sum over steps of other rows) )"
    cost = "time O(V^2 B^2 T^2 D), memory O(V B T (D + T))"
    use = "objects of several kinds in one image; beside a loss of whole views, both with half the weight"
    ours = (
        "DenseCL's negatives are a queue of pooled maps; those of DenseCL++, of which only the abstract was read, are "
        "taken to be all steps of the views of other rows, and with `other_view` those of the row's other view; "
        "of two modalities, whose encoders have no features in common, embeddings decide on the match"
    )
    fits = ("one modality",)

    host_reads = 2  # of `gram`, as `nt-xent` has them

    temperature: Annotated[float, Gt(0)] = 0.2
    other_view: bool = False

    def forward(
        self,
        z: Embeddings,
        *,
        steps: Steps,
        states: dict[str, Tensor],
        present: dict[str, Tensor] | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        names = [name for name in z if name in steps]
        require_two_inputs({name: z[name] for name in names})
        here = {n: steps[n][1] if present is None else steps[n][1] & present[n][:, None] for n in names}
        rows = {name: unit_steps(torch.where(here[name][..., None], steps[name][0], 0)) for name in names}
        others = self.others(rows, here)
        terms, counts = [], []
        for a, b in itertools.permutations(names, 2):
            known = (
                states if a.partition("/")[0] == b.partition("/")[0] else rows
            )  # encoders of two kinds share nothing
            match = matches(known[a], known[b], here[b])
            beside = here[b] if self.other_view else None
            each = local_contrast(rows[a] @ rows[b].mT, match, others[a], self.tau, beside)
            counted = here[a] & here[b].any(1)[:, None]
            by_row = None if weights is None else weights[:, None].expand_as(each)
            terms.append(mean_where(counted, torch.where(counted, each, 0), by_row))
            counts.append(counted.any())
        return torch.stack(terms).sum() / torch.stack(counts).sum().clamp(min=1)

    def others(self, rows: Embeddings, here: dict[str, Tensor]) -> dict[str, Tensor]:
        """Log-sum-exp `[B, T]`, by name, of the logits of each step with the steps of all names of other rows."""
        each = [x.flatten(0, 1) for x in rows.values()]
        items = [torch.arange(len(x), device=x.device)[:, None].expand(x.shape[:2]).flatten() for x in rows.values()]
        kept = torch.cat([mask.flatten() for mask in here.values()])
        every, ids = torch.cat(each), torch.cat(items)
        index = kept.nonzero()[:, 0]
        found = gram(every[index], self.tau, DifferentIds(ids[index]))[0]
        full = every.new_zeros(len(every)).index_put((index,), found)
        parts = full.split([len(x) for x in each])
        return {name: part.view(mask.shape) for part, (name, mask) in zip(parts, here.items(), strict=True)}
