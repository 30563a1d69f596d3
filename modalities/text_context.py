"""Learned vectors among the embedded tokens of a text, where the words of a prompt would stand."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Ge, Gt, MinLen
from pydantic import ConfigDict, Strict
from torch import Tensor, nn
from typing_extensions import TypedDict

from clx.modalities.encoder import Input


class LearnedPrompt(TypedDict, total=False):
    """Vectors that are learned and stand before every text of a column (CoOp, arXiv 2109.01134)."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    tokens: Annotated[int, Ge(1)]
    """How many: each is as wide as an embedded token, and takes the place of one. Needed, but with `like`."""
    like: Annotated[str, MinLen(1)]
    """Another column of the same tower, whose vectors these are: both learn them. Nothing else is said then; without it
    a column that says `tokens` has vectors of its own, and one without a `prompt` none, whatever its tower's has."""
    start: Annotated[list[Annotated[str, MinLen(1)]], MinLen(1)]
    """Texts whose embedded tokens the prompts begin with, one for each of `count`; random vectors where one has fewer
    than `tokens`, and when not given."""
    count: Annotated[int, Ge(1)]
    """How many such prompts there are; 1 when not given. What an item scores is the mean of what it scores by each."""
    router: Annotated[int, Ge(1), Strict()]
    """Of the `count`, how many score an item: those that a linear layer on its embedding gives the highest weights, and
    by these (MoCoOp, arXiv 2409.12011, 2). All count alike when not given."""
    per_label: bool
    """Whether each label of the training rows has vectors of its own (CoOp's class-specific contexts); texts that are
    no such label are read with their mean."""
    negative: bool
    """For each prompt a second one that says that a label does not apply (DualCoOp, arXiv 2206.09541): an item scores
    by how much nearer it is to the first than to the second."""
    written: Annotated[float, Gt(0)]
    """Weight of a term beside each that learns them from `words`: each label read with a prompt is to be the nearest to
    itself, of all labels, as the words of `start` read them (MoCoOp, 5). None when not given."""
    gate: Annotated[float, Gt(0)]
    """Weight of a term beside these on the `router`: it is to choose the prompts whose words of `start` read a row's
    label as the nearest to the row (MoCoOp, 1). None when not given."""
    temperature: Annotated[float, Gt(0)]
    """What scores are divided by. That of the pretrained model, or of the run that the towers are taken over from, when
    not given, else 0.07."""


class Context(NamedTuple):
    """One learned prompt, and the place of its first vector among the tokens."""

    rows: Tensor
    """`[n, C]`."""
    at: int

    def into(self, value: Input) -> Input:
        """A batch of texts with n more tokens in each, which `placed` takes the embeddings of; they are like the text's
        own first token, so that no encoder takes them for padding or an end."""
        count = len(self.rows)
        found = {key: value[key] for key in value if key not in ("x", "mask")}
        for key in ("x", "mask"):
            if key in value:
                x = value[key]
                more = x[:, self.at : self.at + 1].expand(-1, count)
                found[key] = torch.cat([x[:, : self.at], more, x[:, self.at :]], 1)
        return found


PLACED: ContextVar[Context | None] = ContextVar("PLACED", default=None)
"""The prompt of the texts that are encoded now, in this thread."""


@contextmanager
def placed(context: Context | None) -> Iterator[None]:
    """Texts that are encoded here have this prompt: see `take`."""
    before = PLACED.set(context)
    try:
        yield
    finally:
        PLACED.reset(before)


def take(embedding: nn.Module) -> None:
    """Let the layer that embeds tokens `[N, T]` -> `[N, T, C]` give the vectors of a `placed` prompt in its places."""
    embedding.register_forward_hook(_with_context)


def _with_context(embedding: nn.Module, given: Any, h: Tensor) -> Tensor:
    context = PLACED.get()
    if context is None:
        return h
    rows = context.rows.to(h.dtype).expand(h.shape[0], -1, -1)  # len would be a fixed number in an exported graph
    return torch.cat([h[:, : context.at], rows, h[:, context.at + rows.shape[1] :]], 1)
