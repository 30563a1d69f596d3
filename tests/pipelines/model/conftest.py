"""Models to build towers of."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def folder(small_models: Path) -> Path:
    return small_models
