"""Symile: contrast on the multilinear inner product of any number of modalities."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from clx.losses.base import Embeddings, Tempered, register, require_two_inputs, zero_loss
from clx.losses.primitives.cube import cube
from clx.losses.primitives.draws import permutation
from clx.losses.primitives.edits import off_diagonal
from clx.losses.primitives.functional import softplus, unit, units
from clx.losses.primitives.streaming import cross_rows


def mip(factors: Sequence[Tensor]) -> Tensor:
    """Multilinear inner product of the rows of all factors `[B, D]`: sum over D of their product, `[B]`."""
    return functools.reduce(torch.mul, factors).sum(-1)


def symile(factors: Sequence[Tensor], temperature: Tensor | float) -> Tensor:
    """Symile with every tuple of other rows as a negative: B^(M-1) - 1 for each row of each modality.

    mean_m mean_i -log( exp(<r_1i, .., r_Mi> / t) / sum_J exp(<r_mi, other modalities' rows J> / t) )

    Args:
        factors: M >= 2 tensors `[B, D]`, unit rows; row i of all is one item.
        temperature: positive.

    Returns:
        Scalar in nats; 0 for a batch of one. For M = 2 it is CLIP.

    Reference:
        Saporta et al. 2024, arXiv 2411.01053.
    """
    positive = mip(factors) / temperature
    return softplus(torch.stack(cube(factors, temperature)) - positive).mean()


def symile_shuffled(
    factors: Sequence[Tensor], temperature: Tensor | float, permutations: Sequence[Sequence[Tensor]]
) -> Tensor:
    """Symile with B - 1 negatives per row: products of the other modalities' rows, each shuffled by itself.

    mean_m mean_i -log( exp(p_i) / (exp(p_i) + sum_{j != i} exp(<r_mi, u_mj> / t)) )
    with p_i = <r_1i, .., r_Mi> / t

    Args:
        factors, temperature: as `symile`.
        permutations: for each modality m, the order `[B]` of each of the others, in turn.

    Returns:
        Scalar in nats; 0 for a batch of one.

    Reference:
        Saporta et al. 2024, section 3.3, arXiv 2411.01053.
    """
    positive = mip(factors) / temperature
    negatives = []
    for m, orders in enumerate(permutations):
        others = [r for k, r in enumerate(factors) if k != m]
        shuffled = functools.reduce(torch.mul, (r.index_select(0, o) for r, o in zip(others, orders, strict=True)))
        negatives.append(cross_rows(factors[m], shuffled, temperature, off_diagonal))
    return softplus(torch.stack(negatives) - positive).mean()


@register("symile")
@dataclass(eq=False, kw_only=True)
class Symile(Tempered):
    """Symile over two modalities or more, with a learned embedding for what an item lacks.

    Example:
        >>> a = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
        >>> b = torch.tensor([[1.0, 1], [-1, 1], [-1, -1], [1, -1]])
        >>> z = {"a": a, "b": b, "c": a * b}  # c is told by a and b together only
        >>> loss = Symile(temperature=0.2)
        >>> [round(loss(each).item(), 3) for each in (z, z | {"c": (a * b).roll(1, 0)})]  # right and wrong triples
        [1.444, 6.747]
        >>> there = torch.ones(4, dtype=torch.bool)
        >>> query = loss.fuse({"a": a, "b": b}, {"a": there, "b": there})
        >>> (query @ (a * b).T).argmax(1).tolist()  # a and b of each item find its c
        [0, 1, 2, 3]
    """

    family = "multilinear"
    paper = "Saporta et al. 2024, arXiv 2411.01053"
    formula = "mean_m mean_i lse_J(<u_mi, others_J> / t) - <u_1i, .., u_Mi> / t"
    cost = "all: time O(B^M D), memory O(B D) for M = 3; shuffled: time O(M B^2 D), memory O(B D)"
    use = "three modalities or more that explain each other only together"
    fits = ("several modalities",)
    fuses_by_product = True

    learn_temperature: bool = True
    tuples: Literal["all", "shuffled"] = "all"  # of other rows, the negatives
    names: list[str] = field(init=False, repr=False)
    absent: nn.Parameter = field(init=False, repr=False)

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        self.names = list(names)
        self.absent = nn.Parameter(torch.randn(len(names), dim))

    def forward(
        self,
        z: Embeddings,
        *,
        present: dict[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        require_two_inputs(z)
        size = len(next(iter(z.values())))
        if not size:
            return zero_loss(z)
        factors = [*units(z).values()] if present is None else [self.rows(n, x, present[n]) for n, x in z.items()]
        if self.tuples == "all":
            return symile(factors, self.tau)
        orders = [[permutation(size, factors[0], generator) for _ in factors[1:]] for _ in factors]
        return symile_shuffled(factors, self.tau, orders)

    def rows(self, name: str, x: Tensor, present: Tensor) -> Tensor:
        """Unit rows of one modality, those of items that lack it replaced by its learned embedding."""
        if (present.is_cpu or not hasattr(self, "absent")) and bool(present.all()):
            return unit(x)
        if not hasattr(self, "absent"):
            raise ValueError(f"{name} is missing in some rows: call setup(names, dim) once before training")
        stand_in = unit(self.absent[self.place(name)][None, : x.shape[1]]).to(x.dtype)  # `dims` cuts it as any row
        there = present[:, None]
        return torch.where(there, unit(torch.where(there, x, 0)), stand_in)

    def place(self, name: str) -> int:
        """Row of `absent` for a name; a modality used without views has that of its first view."""
        return self.names.index(name if name in self.names else f"{name}/0")

    def fuse(self, z: Embeddings, present: dict[str, Tensor]) -> Tensor:
        """Product of the unit rows of the given names `[B, D]`; its dot product with a candidate is the score.

        A modality that neither the query has nor the candidate is must be given too, with `present` False.
        """
        return functools.reduce(torch.mul, (self.rows(name, x.float(), present[name]) for name, x in z.items()))
