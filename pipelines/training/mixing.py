"""Mixed views: images of a batch with others of it, on the device."""

from collections.abc import Mapping

import torch
from torch import Tensor

from clx.losses.primitives.draws import beta, permutation
from clx.modalities.base import Input, Mix
from clx.modalities.image_encoders import ImageEncoder
from clx.pipelines.batches.decoded import mixed_seed
from clx.pipelines.model.towers import Embedder

Mixed = dict[str, tuple[Tensor, Tensor]]
"""What `losses.extras.EXTRAS` says of `mixed`."""


def mix(
    model: Embedder, inputs: Mapping[str, Input], present: Mapping[str, Tensor], views: Mapping[str, Mix], *place: int
) -> tuple[dict[str, Input], Mixed]:
    """The inputs with these views mixed, each with a permutation of itself, and how. `place` seeds what is drawn."""
    given, mixed = dict(inputs), Mixed()
    for number, (name, how) in enumerate(views.items()):
        if name not in inputs:
            continue
        encoder, draws = model.tower(name).encoder, torch.Generator().manual_seed(mixed_seed(*place, number))
        assert isinstance(encoder, ImageEncoder)
        x, here = encoder.floats(inputs[name]["x"]), present[name]
        order = permutation(len(x), x, draws)
        share = beta(how["alpha"], how["alpha"], (), x, draws)
        share = torch.maximum(share, 1 - share)
        given[name] = {**inputs[name], "x": x[order].lerp(x, share)}
        every = torch.arange(len(here), device=here.device)
        rows = every if len(x) == len(here) else here.nonzero()[:, 0]
        mixed[name] = every.index_copy(0, rows, rows[order]), share
    return given, mixed
