"""The tasks of an evaluation. Importing the package registers every task of this folder.

A task is a function of `TaskContext` that returns `{input: line}` as results.py describes it, or raises `Unfit`.
"""

import importlib
import pkgutil

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
