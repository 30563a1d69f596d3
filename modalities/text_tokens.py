"""Changes of a batch of texts by tokens: their order, and what an encoder sees of them once they are embedded.

How a text is changed follows from its own draws and its own tokens, not from those that it is padded to.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clx.modalities.base import Input
from clx.modalities.draws import Draws


class TokenChanges(NamedTuple):
    """How the tokens of one text are changed: the key of its draws, and the strengths, 0 to 1."""

    key: int
    shuffle: float = 0.0
    """Share of the tokens that change places."""
    cutoff: float = 0.0
    """Share of the embedded tokens that become zeros."""
    feature_cutoff: float = 0.0
    """Share of the columns that become zeros in all of a text's embedded tokens."""


def first_drawn(u: Tensor, count: Tensor) -> Tensor:
    """Which are the `count` `[N]` smallest of each row of `u` `[N, T]`."""
    return u.argsort(1).argsort(1) < count[:, None]


def share_of(share: Tensor, total: Tensor, least: int, spared: int) -> Tensor:
    """A share `[N]` of `total` `[N]` as whole numbers, rounded down: from `least` to all but `spared`, and 0 where the
    share is, or where that is no number."""
    found = (share * total + 1e-6).long().clamp(min=least).minimum(total - spared)
    return torch.where((share > 0) & (found >= least), found, 0)


def shuffled(x: Tensor, movable: Tensor, share: Tensor, draws: Draws) -> Tensor:
    """Tokens `[N, T]` of which a share `[N]` of the `movable` ones, two at least, take each other's places: each that
    is drawn moves, all along one circle, so that none stays where it was.

    Reference:
        Yan et al. 2021, ConSERT, arXiv 2105.11741, token shuffling, there of all tokens at once.
    """
    steps = torch.arange(x.shape[1])
    moved = share_of(share, movable.sum(1), 2, 0)
    chosen = first_drawn(draws.rand(x.shape[1]).masked_fill(~movable, 2), moved)
    circle = torch.where(chosen, draws.rand(x.shape[1]), 2.0 + steps).argsort(1)
    following = torch.where(steps < moved[:, None] - 1, steps + 1, torch.where(steps < moved[:, None], 0, steps))
    return x.scatter(1, circle, x.gather(1, circle.gather(1, following)))


def shown_tokens(mask: Tensor, share: Tensor, u: Tensor) -> Tensor:
    """`[N, T]`, False for a share `[N]` of the real tokens, those of the smallest `u` `[N, T]`; one, never all."""
    return ~first_drawn(u.masked_fill(~mask, 2), share_of(share, mask.sum(1), 1, 1))


def shown_columns(width: int, share: Tensor, u: Tensor) -> Tensor:
    """`[N, 1, width]`, False for the share `[N]` of the columns with the smallest `u` `[N, width]`."""
    return ~first_drawn(u, share_of(share, torch.full((len(u),), width), 1, 1))[:, None]


def changed(x: Tensor, mask: Tensor, movable: Tensor, width: int, changes: Sequence[TokenChanges | None]) -> Input:
    """A batch with the changes of each text: `x` and `mask` `[N, T]` and, where some text has such, `tokens_shown`
    `[N, T]` and `columns_shown` `[N, 1, width]`.

    Args:
        x, mask: tokens, and which are real.
        movable: the real tokens that are none of the tokenizer's own.
        width: columns of an embedded token.
        changes: of each text, None for one that stays.
    """
    each = [change or TokenChanges(0) for change in changes]
    draws = Draws(np.array([change.key for change in each], dtype=np.uint64))
    shuffle, cutoff, columns = torch.tensor([change[1:] for change in each]).double().unbind(1)
    found = {"x": x, "mask": mask}
    if shuffle.any():
        found["x"] = shuffled(x, movable, shuffle, draws.child(0))
    if cutoff.any():
        found["tokens_shown"] = shown_tokens(mask, cutoff, draws.child(1).rand(x.shape[1]))
    if columns.any():
        found["columns_shown"] = shown_columns(width, columns, draws.child(2).rand(width))
    return found


def cut_off(h: Tensor, tokens_shown: Tensor | None, columns_shown: Tensor | None) -> Tensor:
    """Embedded tokens `[N, T, C]` with zeros where `tokens_shown` `[N, T]` or `columns_shown` `[N, 1, C]` is False.

    Reference:
        Yan et al. 2021, ConSERT, arXiv 2105.11741, token and feature cutoff.
    """
    if tokens_shown is not None:
        h = h * tokens_shown[:, :, None].to(h.dtype)
    return h if columns_shown is None else h * columns_shown.to(h.dtype)
