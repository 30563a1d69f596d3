"""Whether a run forecasts its series, how far, and from what."""

from collections.abc import Mapping

import torch
from torch import Tensor

from clx.losses.base import LOSSES
from clx.modalities.base import Input, Modality, StepEncoder
from clx.modalities.series_encoders import last_step
from clx.pipelines.batches.columns import column_of
from clx.pipelines.config.schema import Config
from clx.pipelines.model.towers import Tower


def forecast_of(config: Config, modalities: Mapping[str, Modality]) -> tuple[str, int] | None:
    """The series modality to forecast, and over how many steps; None when no objective is about forecasts.

    It is when the windows have a horizon and a loss compares predictions with numbers that no column holds.
    """
    windows = config.data.windows
    heads = [LOSSES[term.name].required() for term in config.objective if term.name in LOSSES]
    heads = [needs for needs in heads if "predictions" in needs]
    if windows is None or windows.horizon is None or config.data.target or not heads:
        return None
    name = windowed_series(config, modalities)
    return None if name is None or any("targets" not in needs for needs in heads) else (name, windows.horizon)


def windowed_series(config: Config, modalities: Mapping[str, Modality]) -> str | None:
    """The first modality that reads the windows as series."""
    windows = config.data.windows
    named = [n for n, m in modalities.items() if m.kind == "series" and windows and column_of(n, m) == windows.column]
    return named[0] if named else None


def at_end(tower: Tower, value: Input) -> Tensor:
    """Features `[N, width]` of the last step of each series, or of all of it for encoders without steps."""
    encoder = tower.encoder
    if not isinstance(encoder, StepEncoder):
        return tower.features(value)
    step = last_step(*encoder.steps(**value))
    return encoder.pool(step, torch.ones(step.shape[:2], dtype=torch.bool, device=step.device))
