"""Objectives on embeddings. Importing the package registers every loss of this folder in `base.LOSSES`."""

import importlib
import pkgutil

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
