"""Places and tokens: with them the features are as without, and each step is as the input that has it alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clx.modalities.base import StepEncoder
from clx.modalities.registry import MODALITIES
from configs import OPEN_CLIP

IMAGES = [
    ({"encoder": "cnn", "width": 4, "size": 16, "norm": "group"}, 16),
    ({"encoder": "timm:test_vit", "size": 32}, 4),
    ({"encoder": "timm:test_convnext", "size": 64}, 4),
]
TEXTS = ("to be", "or not to be at all")


def given(encoder: StepEncoder, *value: Any) -> tuple[Tensor, Tensor, Tensor]:
    with torch.no_grad():
        features, each, mask = encoder.states(*value)
        torch.testing.assert_close(encoder(*value), features)
    assert each.shape == (*mask.shape, encoder.width)
    assert not encoder.timed
    return features, each, mask


@pytest.mark.parametrize(("options", "places"), IMAGES)
def test_places(options: dict[str, Any], places: int) -> None:
    torch.manual_seed(0)
    encoder = MODALITIES["image"](**options).build_encoder(False).eval()
    assert isinstance(encoder, StepEncoder)
    features, each, mask = given(encoder, torch.randn(2, 3, options["size"], options["size"]))
    assert mask.all()
    assert mask.shape == (2, places)
    if options["encoder"] == "cnn":  # the mean over places is what it pools by
        torch.testing.assert_close(each.mean(1), features)


def test_tokens_of_bytes() -> None:
    text = MODALITIES["text"](encoder="transformer", width=32, layers=1)
    encoder = text.build_encoder(False).eval()
    assert isinstance(encoder, StepEncoder)
    value = text.collate([text.read(each) for each in TEXTS])
    features, each, mask = given(encoder, value["x"], value["mask"])
    assert mask.sum(1).tolist() == [len(each) for each in TEXTS]
    assert not each[~mask].any()
    torch.testing.assert_close(each.sum(1) / mask.sum(1)[:, None], features)


@pytest.fixture
def small_clip(tmp_path: Path) -> str:
    import open_clip

    (tmp_path / "clx-steps.json").write_text(json.dumps(OPEN_CLIP))
    open_clip.add_model_config(tmp_path / "clx-steps.json")
    return "clx-steps"


@pytest.mark.parametrize("kind", ["image", "text"])
def test_patches_and_tokens_of_open_clip(kind: str, small_clip: str) -> None:
    modality = MODALITIES[kind](encoder=f"open_clip:{small_clip}")
    encoder = modality.build_encoder(False).eval()
    assert encoder.stepped
    x = torch.randn(2, 3, 32, 32) if kind == "image" else modality.collate([modality.read(each) for each in TEXTS])["x"]
    features, each, mask = given(encoder, x)
    if kind == "image":
        assert mask.shape == (2, 4)
        return
    last = mask.sum(1) - 1
    assert torch.equal(x[torch.arange(2), last], x.amax(1))  # the mark at the end, which is what it pools by
    torch.testing.assert_close(each[torch.arange(2), last], features)
    assert not each[~mask].any()


def test_an_encoder_without_places() -> None:
    with torch.device("meta"):
        assert not MODALITIES["image"](encoder="open_clip:RN50").build_encoder(False).stepped
