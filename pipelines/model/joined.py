"""The embeddings of several stages side by side, as one model: `keep: concat`."""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from clx.modalities.base import Encoder, Input
from clx.modalities.text_context import Context
from clx.pipelines.config.shared_towers import written_out
from clx.pipelines.model.build import Run
from clx.pipelines.model.towers import Tower
from clx.pipelines.system.errors import BadInput

OF_TRAINING = (
    *("views", "augmentation", "dropout", "head_dropout", "drop", "mix", "head"),
    *("freeze", "unlocked", "lora", "checkpointing", "step_encoder"),
)
"""Options of a modality that say nothing of how a cell is read, beside its encoder's."""


class JoinedTower(Tower):
    """Towers of one modality that each look at the same input: their unit embeddings side by side."""

    def __init__(self, towers: Sequence[Tower]) -> None:
        nn.Module.__init__(self)
        self.chunk, self.short, self.view, self.pair = None, None, None, False
        self.towers = nn.ModuleList(towers)
        self.width = sum(tower.width for tower in towers)
        self.head = JoinedHead([tower.head for tower in towers], [tower.width for tower in towers])
        self.frozen, self.locked = [], True

    @property
    def encoder(self) -> Encoder:  # type: ignore[override]
        """That of the last stage, by which cells are read."""
        return cast("Tower", self.towers[-1]).encoder

    def features(self, value: Input, view: int = 0, contexts: Sequence[Context] = ()) -> Tensor:
        """What the heads get, side by side, `[N, width]`."""
        if "features" in value:
            return value["features"]
        return torch.cat([cast("Tower", tower).features(value, view) for tower in self.towers], 1)

    def train(self, mode: bool = True) -> "JoinedTower":
        nn.Module.train(self, mode)
        return self


class JoinedHead(nn.Module):
    """Heads that each project the columns of their own encoder: unit rows side by side, so that a cosine of two is the
    mean of the cosines."""

    def __init__(self, heads: Sequence[nn.Module], widths: list[int]) -> None:
        super().__init__()
        self.heads, self.widths = nn.ModuleList(heads), widths

    def forward(self, x: Tensor) -> Tensor:
        """`[N, D]`, D the sum of the embeddings' widths."""
        parts = zip(self.heads, x.split(self.widths, 1), strict=True)
        return torch.cat([nn.functional.normalize(head(part), dim=1) for head, part in parts], 1)


def joined(run: Run, earlier: Sequence[Run]) -> Run:
    """A run whose embeddings are those of the earlier ones and its own, side by side. Raises `BadInput`."""
    runs = [*earlier, run]
    for k, one in enumerate(earlier):
        for name, modality in run.modalities.items():
            if name not in one.modalities:
                raise BadInput(f"keep: concat joins the embeddings of all stages, and stage {k + 1} has no {name}")
            mine, theirs = (written_out(each) for each in (modality, one.modalities[name]))
            unlike = [key for key in mine if key not in OF_TRAINING and mine[key] != theirs.get(key)]
            if unlike:
                raise BadInput(
                    f"keep: concat gives the encoders of all stages the same inputs, but modalities.{name}.{unlike[0]} "
                    f"is {theirs.get(unlike[0])!r} in stage {k + 1} and {mine[unlike[0]]!r} now"
                )
    model = copy(run.model)
    towers = {name: JoinedTower([one.model.tower(name) for one in runs]) for name in run.model.towers}
    model._modules = {**run.model._modules, "towers": nn.ModuleDict(towers)}
    model.embed_dim = model.whole = sum(one.model.embed_dim for one in runs)
    return replace(run, config=run.config.model_copy(update={"embed_dim": model.embed_dim}), model=model)
