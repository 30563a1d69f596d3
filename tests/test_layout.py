"""The house: which folder may import which, what the package holds, and examples in docstrings that run."""

import ast
import doctest
import importlib
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("cli", "pipelines", "modalities", "losses")
MAY_IMPORT = {
    "cli": {"cli", "pipelines"},
    "pipelines": {"pipelines", "modalities", "losses"},
    "modalities": {"modalities"},
    "losses": {"losses"},
}
# In pipelines each file imports only what stands before it.
ORDER = [
    "errors",
    "options",
    "config",
    "configure",
    "signals",
    "disk",
    "folder",
    "state",
    "runs",
    "doctor",
    "device",
    "ahead",
    "rows",
    "recordings",
    "readers",
    "digits",
    "builtin",
    "manifest",
    "density",
    "neighbours",
    "cells",
    "batch",
    "loader",
    "model",
    "build",
    "known",
    "checkpoint",
    "intervals",
    "geometry",
    "health",
    "results",
    "thin",
    "pretrain",
    "metrics",
    "items",
    "labels",
    "scale",
    "zeroshot",
    "calibrate",
    "probes",
    "embedded",
    "asked",
    "learning",
    "regression",
    "forecast",
    "tasks",
    "infer",
    "evaluate",
    "predict",
    "timeline",
    "overview",
    "previews",
    "seen",
    "space",
    "mistakes",
    "samples",
    "pictures",
    "report",
    "progress",
    "schedule",
    "logs",
    "loop",
    "train",
    "grid",
    "jobs",
    "sweep",
    "export",
    "catalogue",
    "stored",
    "embed",
    "search",
    "check",
    "bench",
    "archive",
]
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.py"))


def imports(path: Path) -> list[str]:
    """Every `clx.` module that a file imports, also inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("clx."):
            deeper = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name for name in deeper if (ROOT / Path(*name.split(".")[1:])).with_suffix(".py").exists()]
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("clx.")]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_imports_go_one_way(path: Path) -> None:
    for name in imports(path):
        assert name.split(".")[1] in MAY_IMPORT[path.parent.name], f"{path} imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.py")), ids=lambda p: p.name)
def test_pipelines_stand_in_order(path: Path) -> None:
    if path.stem == "__init__":
        return
    before = ORDER[: ORDER.index(path.stem)]
    for name in imports(path):
        parts = name.split(".")
        if parts[1] == "pipelines" and len(parts) > 2 and parts[2] != "recipes":
            assert parts[2] in before, f"{path.name} imports {parts[2]}, which stands after it"


def test_every_package_is_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    folders = {path.parent.relative_to(ROOT).as_posix() for f in FOLDERS for path in (ROOT / f).rglob("*.py")}
    assert set(declared.values()) == folders


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_docstring_examples(path: Path) -> None:
    stem = "" if path.stem == "__init__" else f".{path.stem}"
    module = importlib.import_module(f"clx.{path.parent.name}{stem}")
    assert doctest.testmod(module).failed == 0
