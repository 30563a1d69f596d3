"""Embeddings of a manifest."""

from pathlib import Path

import pytest
import torch

from clx.pipelines.data.splits import load_splits
from clx.pipelines.evaluation.embeddings import embed_manifest
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.system.errors import BadInput


def test_embeddings_that_are_not_finite_are_refused(copy: Path) -> None:
    run = load(copy)
    with torch.no_grad():
        next(run.model.towers["image"].parameters()).fill_(float("nan"))
    with pytest.raises(BadInput, match="image embeddings are not finite"):
        embed_manifest(run, load_splits(run.config.data, 0)["test"].take(range(8)))
