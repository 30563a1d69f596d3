"""A trained model by the name a user gives it: a run folder, or an OpenCLIP model."""

from pathlib import Path
from typing import Any

import torch

from clx.modalities.openclip import open_clip_scale, open_clip_width
from clx.pipelines.config.schema import Config
from clx.pipelines.model.build import Facts, Run, build
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.runs.folder import near_run
from clx.pipelines.system.devices import pick_device
from clx.pipelines.system.errors import BadInput


def open_clip_run(model: str, pretrained: str, device: torch.device) -> Run:
    """An OpenCLIP model as a run: both towers without heads, its own temperature."""
    name = model.removeprefix("open_clip:")
    try:
        tau, bias, width = *open_clip_scale(name, pretrained), open_clip_width(name)
    except ValueError as error:
        raise BadInput(str(error)) from None
    tower = {"encoder": f"open_clip:{name}", "pretrained": pretrained, "head": "none", "freeze": True}
    # fixed: a scale of 100 in float32 stands a hair outside the range in which a temperature is learned
    objective: dict[str, Any] = {"name": "clip", "temperature": tau, "learn_temperature": False}
    if bias is not None:
        objective |= {"name": "siglip", "bias": bias, "learn_bias": False}
    config = Config.model_validate(
        {
            "data": {"train": ""},
            "modalities": {"image": tower, "text": tower},
            "embed_dim": width,
            "objective": objective,
        }
    )
    run = build(config, Facts({}, [], [], []))
    run.model.eval().to(device)
    return run


def open_model(
    model: str | Path,
    pretrained: str | None = None,
    checkpoint: str = "best",
    device: str = "auto",
    *,
    only_run: bool = False,
) -> Run:
    """A trained model, ready to be asked: the one way in which every command opens one.

    Args:
        model: a run folder, or an OpenCLIP model by name.
        pretrained: tag or checkpoint file of an OpenCLIP model; None for a run.
        checkpoint: of a run: `best`, `last`, or the number of a step.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        only_run: whether `model` must be a run folder.

    Raises `BadInput` for what is neither, with the name of a run that is called nearly so, for an unknown checkpoint or
    device, and for a damaged run.
    """
    folder = Path(model)
    if folder.is_dir() or only_run:
        if pretrained:
            raise BadInput(f"--pretrained goes with an OpenCLIP model name, and {model} is a run folder")
        return load(folder, checkpoint, pick_device(device))
    if not pretrained:
        hint = near_run(folder)
        raise BadInput(f"{model} is no run folder{hint}; an OpenCLIP model also needs --pretrained TAG or FILE")
    return open_clip_run(str(model), pretrained, pick_device(device))
