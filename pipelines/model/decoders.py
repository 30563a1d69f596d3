"""Decoders of losses that say from an embedding what the encoder was given."""

from collections.abc import Iterable, Mapping

from clx.losses.base import Loss
from clx.modalities.base import Modality
from clx.modalities.originals import width_of


def with_decoders(loss: Loss, inputs: Iterable[str], modalities: Mapping[str, Modality]) -> dict[str, int]:
    """Give a loss that asks for `originals` a decoder for each of its inputs; how many numbers each of these has.

    Raises `ValueError` for an input that cannot be decoded.
    """
    if "originals" not in loss.needs():
        return {}
    widths = {}
    for name in inputs:
        try:
            widths[name] = width_of(modalities[name])
        except ValueError as error:
            raise ValueError(f"modalities.{name}: {error}") from None
    loss.setup_decoders(widths)
    return widths
