"""`train.compile`: encoders as code that is made for them, by `torch.compile`."""

import os
import shutil
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from clx.pipelines.model.towers import Embedder
from clx.pipelines.system.errors import BadInput


def compile_encoders(model: Embedder, device: torch.device, **how: Any) -> None:
    """Let every encoder be compiled when it is first called, for sizes of batch and length that change.

    Weights keep their names. Averages of weights, which only validate, are not compiled.

    Args:
        how: further options of `torch.compile`.

    Raises `BadInput` where there is nothing to compile with, and for losses on inner states.
    """
    if model.inner:
        raise BadInput("train.compile: an objective on inner states calls encoders by parts, which are not compiled")
    if lacking := what_lacks(device):
        raise BadInput(
            f"train.compile: true needs {lacking}, which is not here: install it, or leave train.compile out"
        )
    for name in model.prompts:
        raise BadInput(
            f"train.compile: modalities.{name} learns a prompt, which compiled encoders do not: leave one out"
        )
    for name in model.towers:
        if not model.tower(name).encoder.fixed:
            raise BadInput(
                f"train.compile: modalities.{name} has a dropout for each view or tokens that are cut off, which "
                "compiled encoders do not have: leave one out"
            )
        model.tower(name).encoder.compile(dynamic=True, **how)


def what_lacks(device: torch.device) -> str | None:
    """What `torch.compile` needs for a device and this machine lacks."""
    if device.type == "cuda":
        return None if find_spec("triton") else "the package triton"
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        return f"a C++ compiler, {compiler}"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return None if header.is_file() else f"Python's headers, {header} (python3-dev)"
