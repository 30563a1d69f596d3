"""`exclude` as a mapping: rows that a second model finds alike are no negatives of each other."""

from collections.abc import Mapping
from typing import Annotated, Literal, Required

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor
from typing_extensions import TypedDict

from clx.losses.primitives.functional import unit
from clx.losses.primitives.judged import Judged, above_quantile


class Judge(TypedDict, total=False):
    """By which cosine of a second model's embeddings two rows are no negatives of each other: `above` or `cosine`."""

    __pydantic_config__ = {"extra": "forbid"}  # type: ignore[misc]

    by: Required[Literal["second"]]
    """The model of `train.second`."""
    above: Annotated[float, Gt(0), Lt(1)] | Literal["partner"]
    """A quantile of that model's cosines of different rows of the batch: .999 leaves out one pair in a thousand, those
    that it finds most alike. `partner`: the anchor's own cosine with its partner (GIST)."""
    cosine: Annotated[float, Gt(-1), Lt(1)]
    """A cosine. What it means depends on the model: of a published one look at the model's own cosines first."""
    margin: Annotated[float, Ge(0), Lt(2)]
    """Of `above: partner`: by how much less than with its partner the cosine may be; 0 when not given."""


class Guided:
    """A rule and the guide's embeddings `[B, E]` by name, in place of ids `[B]`."""

    def __init__(self, rule: Judge, keys: Mapping[str, Tensor]) -> None:
        self.rule, self.keys = rule, keys

    def rows(self, name: str, rows: Tensor | slice = slice(None)) -> Tensor:
        """The guide's unit rows of a name."""
        return unit(self.keys[name][rows].detach())

    def of(self, first: str, second: str, rows: Tensor | slice) -> Judged:
        """Of the rows of two names that are there."""
        left, right = self.rows(first, rows), self.rows(second, rows)
        if "cosine" in self.rule:
            return Judged(left, right, left.new_full((), self.rule["cosine"]))
        above = self.rule["above"]
        if above == "partner":
            return Judged(left, right, torch.linalg.vecdot(left, right) - self.rule.get("margin", 0.0))
        return Judged(left, right, above_quantile(left, right, above))


def check_judge(exclude: str | Judge) -> None:
    """Raise `ValueError` for a mapping that says too little or too much."""
    if isinstance(exclude, str):
        return
    if ("above" in exclude) == ("cosine" in exclude):
        raise ValueError(
            "exclude by a second model needs one of above (a quantile of its cosines, or partner) and cosine"
        )
    if "margin" in exclude and exclude.get("above") != "partner":
        raise ValueError("exclude: margin is of above: partner")


def asked_for(exclude: str | Judge) -> frozenset[str]:
    """What `exclude` makes a loss ask for."""
    return frozenset({exclude} & {"sample_id", "labels"}) if isinstance(exclude, str) else frozenset({"keys"})
