"""Models to build towers of."""

from pathlib import Path

import pytest

from conftest import Once
from small_models import write


@pytest.fixture(scope="session")
def folder(once: Once) -> Path:
    """Small models with random weights: of timm, open_clip and transformers."""
    import open_clip

    made = once("small_models", write)
    open_clip.add_model_config(made / "clx-lora.json")
    return made
