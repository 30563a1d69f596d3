"""Every modality by its kind. A module of its own, so that what reads a number or a date need not import torch."""

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from clx.modalities.base import MODALITIES

__all__ = ["MODALITIES"]

for _file in iter_modules([str(Path(__file__).parent)]):
    import_module(f"clx.modalities.{_file.name}")
