"""Decoders of losses that say from an embedding what the encoder was given, and heads that guess masked tokens."""

from collections.abc import Iterable, Mapping

from clx.losses.base import Loss
from clx.modalities.base import Modality
from clx.modalities.originals import tokens_of, width_of
from clx.modalities.text import Text
from clx.modalities.text_vocabulary import vocabulary


def with_decoders(loss: Loss, inputs: Iterable[str], modalities: Mapping[str, Modality]) -> dict[str, int]:
    """Give a loss that asks for `originals` a decoder for each of its inputs; how many numbers each of these has. One
    that asks for `masked` is told how wide the states of its inputs are.

    Raises `ValueError` for an input that cannot be decoded, or has no tokens.
    """
    masked = "masked" in loss.needs()
    if not masked and "originals" not in loss.needs():
        return {}
    widths, tokens = {}, {}
    for name in inputs:
        modality = modalities[name]
        try:
            widths[name] = maskable(modality) if masked else width_of(modality)
            count = tokens_of(modality)
        except ValueError as error:
            raise ValueError(f"modalities.{name}: {error}") from None
        if count is not None:
            tokens[name] = count
    loss.setup_decoders(widths, tokens)
    return widths


def maskable(modality: Modality) -> int:
    """The columns of the states of a modality whose tokens can be masked. Raises `ValueError` for another."""
    if not isinstance(modality, Text):
        raise ValueError(f"{modality.kind} has no tokens to mask: texts have, of transformer and hf:NAME")
    if modality.pair is not None or modality.several == "mean":
        raise ValueError("tokens are masked in single texts, not in a pair of columns or the mean of several")
    if modality.freeze and not modality.unlocked:
        raise ValueError("with freeze: true nothing would be learned from masked tokens")
    if vocabulary(modality).blank is None:
        raise ValueError(f"the tokenizer of {modality.encoder} has no token that stands for a masked one")
    return modality.embedded_width
