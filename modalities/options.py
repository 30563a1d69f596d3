"""Options of modalities that have several values of their own."""

from typing import Annotated, Required

from annotated_types import Ge, Gt, Interval, MinLen, MultipleOf
from pydantic import ConfigDict
from typing_extensions import TypedDict


class Lora(TypedDict, total=False):
    """How a pretrained encoder is adapted by low-rank changes of its matrices (arXiv 2106.09685)."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    rank: Required[Annotated[int, Ge(1)]]
    alpha: Annotated[float, Gt(0)]
    """The change is multiplied by alpha / rank; `rank` when not given, so by 1."""
    dropout: Annotated[float, Interval(ge=0, lt=1)]
    """Of what enters a change; 0 when not given."""
    targets: Annotated[list[str], MinLen(1)]
    """Names of layers, such as q_proj and v_proj; every linear layer when not given."""


class Mix(TypedDict, total=False):
    """How views are mixed with those of other rows of the batch in training (mixup, arXiv 1710.09412)."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    alpha: Required[Annotated[float, Gt(0)]]
    """The greater part, of the row itself, is max(l, 1 - l), l ~ Beta(alpha, alpha): one for each view and step."""
    views: Annotated[int, Ge(1)]
    """How many of the views are mixed, the first ones; all when not given."""


class StepOptions(TypedDict, total=False):
    """Convolutions over the steps of an encoder, and how these vary in training."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    layers: Annotated[int, Interval(ge=1, le=8)]
    """Convolutions over three steps each, of dilation 1, 2, 4, ...; 2 when not given."""
    width: Annotated[int, Ge(8), MultipleOf(8)]
    """Of each, and the features that the head gets; 128 when not given."""
    dropout: Annotated[float, Interval(ge=0, lt=1)]
    """Of what is pooled over the steps; 0 when not given."""
    crop: Annotated[float, Interval(ge=0, lt=1)]
    """The largest share of the steps that training cuts off, half of it at each end; 0 when not given."""
    mask: Annotated[float, Interval(ge=0, lt=1)]
    """Share of the steps that training hides, each by itself; 0 when not given."""
    noise: Annotated[float, Ge(0)]
    """Deviation of the normal noise that training adds to each feature of a step, all of which together have deviation
    1; 0 when not given."""
