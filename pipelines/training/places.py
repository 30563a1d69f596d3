"""How many places embeddings have to lie at: a space of few is no collapse."""

from clx.losses.base import Loss
from clx.pipelines.batches.columns import column_of
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.model.build import Run

LOOKED_AT = 1000  # rows, evenly spread, whose texts are counted


def most_places(run: Run, train: Manifest) -> int | None:
    """How many places embeddings have to lie at where these are few: the classes, where a loss is given them or a
    modality reads them, or the different texts of a text modality. None where nothing says."""
    config, found = run.config, list[int]()
    required = {name for loss in run.objective.losses if isinstance(loss, Loss) for name in loss.requires()}
    classified = "labels" in required or ("predictions" in required and not config.data.target)
    read = any(column_of(name, modality) == config.data.label_column for name, modality in run.modalities.items())
    if config.data.label_column and (read or classified):
        found.append(len(run.facts.classes))
    rows = range(0, len(train), max(1, len(train) // LOOKED_AT))
    for name, modality in run.modalities.items():
        column = column_of(name, modality)
        if modality.kind == "text" and isinstance(column, str):
            found.append(len({str(train.cell(i, column)) for i in rows} - {"None"}))
    return min(found, default=None)
