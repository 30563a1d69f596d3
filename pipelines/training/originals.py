"""What encoders are given, as flat numbers, for losses that decode them."""

from collections.abc import Mapping

import torch

from clx.losses.base import Embeddings, Loss
from clx.modalities.base import Input, Modality
from clx.modalities.originals import originals, width_of
from clx.pipelines.batches.batch import Batch
from clx.pipelines.model.build import Run
from clx.pipelines.model.rows_present import mean_of_rows, scatter_present
from clx.pipelines.model.towers import modality_of


def decoded_of(run: Run) -> dict[str, Modality]:
    """The modalities of which some loss decodes what was given."""
    both = zip(run.config.objective, run.objective.losses, strict=True)
    names = {
        n for t, loss in both if isinstance(loss, Loss) and "originals" in loss.needs() for n in run.config.inputs_of(t)
    }
    return {name: run.modalities[name] for name in sorted(names)}


@torch.no_grad()
def originals_of(decoded: Mapping[str, Modality], inputs: Mapping[str, Input], batch: Batch) -> Embeddings:
    """By view, the numbers `[B, P]` that its encoder is given, NaN in rows without it; of several cells in a row their
    mean."""
    found: Embeddings = {}
    for view, here in batch.present.items():
        modality = decoded.get(modality_of(view))
        if modality is None:
            continue
        if "x" not in inputs.get(view, {}):
            found[view] = torch.full((len(here), width_of(modality)), torch.nan, device=here.device)
            continue
        rows = originals(modality, inputs[view]).float()
        if "of" in inputs[view]:
            rows = mean_of_rows(rows, inputs[view]["of"])
        found[view] = scatter_present(rows, here).masked_fill(~here[:, None], torch.nan)
    return found
