"""A run to evaluate."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def copy(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run to evaluate in."""
    return Path(shutil.copytree(digits_run, tmp_path_factory.mktemp("copy") / "run"))
