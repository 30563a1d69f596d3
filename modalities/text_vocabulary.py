"""The tokens of a text encoder as numbers that can be said, guessed and replaced."""

from typing import NamedTuple

import torch
from torch import Tensor

from clx.modalities.base import Input
from clx.modalities.hugging_face import hugging_face
from clx.modalities.text import Text


class Vocabulary(NamedTuple):
    """The numbers of an encoder's tokens, from 0 to below `size`."""

    size: int
    blank: int | None
    """What stands for a token that is not shown; None where the tokenizer has none."""
    own: tuple[int, ...]
    """Those that the tokenizer adds, and its padding: no part of a text."""


def vocabulary(text: Text) -> Vocabulary:
    """Of `transformer`, whose tokens are bytes, and of `hf:` encoders. Raises `ValueError` for others."""
    family, _, name = text.encoder.partition(":")
    if text.encoder == "transformer":
        return Vocabulary(257, 0, (0,))  # 0 is padding, which is told by the mask
    if family != "hf":
        raise ValueError(f"tokens of {text.encoder} are not said or guessed: those of transformer and hf:NAME are")
    tokenizer, size = text.tokenizer, int(hugging_face("config", name).vocab_size)
    own = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    return Vocabulary(max(size, len(tokenizer)), tokenizer.mask_token_id, tuple(sorted(own)))


def parts_of(vocabulary: Vocabulary, value: Input) -> Tensor:
    """Which of collated tokens are of the text, `[N, T]`."""
    x = value["x"]
    mask = value.get("mask", torch.ones_like(x, dtype=torch.bool))
    for number in vocabulary.own:
        mask = mask & (x != number)
    return mask
