"""A trained model by the name a user gives it: a run folder, or an OpenCLIP model."""

from copy import copy
from dataclasses import replace
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
    model: str | Path | Run,
    pretrained: str | None = None,
    checkpoint: str = "best",
    device: str = "auto",
    *,
    only_run: bool = False,
) -> Run:
    """A trained model, ready to be asked: the one way in which every command opens one.

    Args:
        model: a run folder, or an OpenCLIP model by name; or one that is open, which is given back: the same weights,
            with modalities that may be told to read other columns.
        pretrained: tag or checkpoint file of an OpenCLIP model; None for a run.
        checkpoint: of a run: `best`, `last`, or the number of a step.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        only_run: whether `model` must be a run folder.

    Raises `BadInput` for what is neither, with the name of a run that is called nearly so, for an unknown checkpoint or
    device, and for a damaged run.
    """
    if isinstance(model, Run):
        if pretrained or checkpoint != "best" or device != "auto":
            raise BadInput("a model that is open has its weights and device: say them where it is opened")
        if only_run and (model.opened is None or model.opened[1] is not None):
            raise BadInput(f"{model.opened[0] if model.opened else 'this model'} is no run, and a run is needed")
        return replace(model, modalities={name: copy(modality) for name, modality in model.modalities.items()})
    folder = Path(model)
    if folder.is_dir() or only_run:
        if pretrained:
            raise BadInput(f"--pretrained goes with an OpenCLIP model name, and {model} is a run folder")
        return replace(load(folder, checkpoint, pick_device(device)), opened=(str(model), None))
    if not pretrained:
        hint = near_run(folder)
        raise BadInput(f"{model} is no run folder{hint}; an OpenCLIP model also needs --pretrained TAG or FILE")
    return replace(open_clip_run(str(model), pretrained, pick_device(device)), opened=(str(model), pretrained))
