"""Layers and attention weights of text encoders: what they are, that padding is not among them, who has none."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import small_models
from clx.losses.base import Steps
from clx.modalities.base import StepEncoder
from clx.modalities.text import Text
from clx.pipelines.config.schema import Config, Second
from clx.pipelines.experiments.train import train
from clx.pipelines.model.deep_states import deep_states, no_states
from clx.pipelines.model.towers import Embedder
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.progress import Progress
from clx.pipelines.training import second
from configs import small

TEXTS = ("one", "one two three")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deep") / "models"
    small_models.write(folder)
    return folder


def own(folder: Path, **options: Any) -> Text:
    return Text(encoder="transformer", width=64, layers=2, **options)


@pytest.mark.parametrize("make", [small_models.bert, own])
def test_layers_and_attention_are_of_each_text_alone(make: Any, models: Path) -> None:
    torch.manual_seed(0)
    text = make(models)
    encoder = text.build_encoder().eval()
    assert isinstance(encoder, StepEncoder)
    encoder.show_attention()
    both, short = (text.collate([text.read(each) for each in some]) for some in (TEXTS, TEXTS[:1]))
    with torch.no_grad():
        features, _, _, layers, every, weights, real = deep_states(encoder, both, ["layers", "attention"])
        alone = deep_states(encoder, short, ["attention"])
        torch.testing.assert_close(encoder(**both), features)
    depth, heads = encoder.depth
    assert depth == 3
    assert layers.shape == (2, depth, encoder.width)
    assert every.all()
    torch.testing.assert_close(layers[:, -1], features)  # both pool by the mean
    pairs = short["x"].shape[1] ** 2
    assert weights.shape == (2, both["x"].shape[1] ** 2, 2 * heads)
    assert real.sum(1).tolist() == [pairs, both["x"].shape[1] ** 2]
    assert real[0, :pairs].all()  # the pairs of a short text come first
    torch.testing.assert_close(weights[:1, :pairs], alone[3])
    torch.testing.assert_close(weights.sum(1), both["mask"].sum(1)[:, None].expand(2, 2 * heads).to(weights.dtype))
    assert [t.shape[2] for t in (no_states(encoder, n, features)[0] for n in ("layers", "attention"))] == [
        encoder.width,
        2 * heads,
    ]


def test_a_copy_gives_its_layers_as_the_model_would(models: Path) -> None:
    torch.manual_seed(0)
    text = own(models, head="none")
    model = Embedder({"text": text}, 64).eval()
    copied = second.Second(copy.deepcopy(model), ["text"], Second(momentum=0.9), {}, ["text"])
    inputs, here = {"text": text.collate([text.read(each) for each in TEXTS])}, {"text": torch.tensor([True, True])}
    found: Steps = {}
    keys = copied(inputs, here, False, found)
    rows, _ = found.pop("key layers text")
    assert not found
    assert not rows.requires_grad
    model.inner, steps = {"text": ["layers", "steps"]}, {}
    z = model(inputs, here, steps)
    assert set(steps) == {"text", "layers text"}
    assert steps["layers text"][0].requires_grad
    torch.testing.assert_close(rows, steps["layers text"][0])
    torch.testing.assert_close(keys["text"], z["text"])
    absent: Steps = {}
    model({}, {"text": torch.tensor([False, False])}, absent)
    assert {name: x.shape[2] for name, (x, _) in absent.items()} == {"text": 64, "layers text": 64}
    assert absent["layers text"][0].shape[1] == 3


VIEWS = {"views": 2, "dropout": 0.1, "augmentation": "none", "width": 32, "layers": 2}
GUIDED = {"name": "self-guided", "hidden": 4}


@pytest.mark.parametrize(
    ("modalities", "objective", "more", "reason"),
    [
        (
            {"text": VIEWS | {"augmentation": "mild", "templates": ["{}", "a {}"]}},
            "attention",
            {},
            "two views of the same tokens: set",
        ),
        ({"text": VIEWS | {"views": 1}}, "attention", {}, "set views: 2, augmentation: none and a dropout"),
        ({"text": VIEWS}, {"name": "attention", "first": 3}, {}, "first: 3 .* of an encoder that has 2"),
        ({"text": VIEWS}, GUIDED, {}, "'self-guided' needs keys, the embeddings of a second"),
        (
            {"text": VIEWS},
            GUIDED,
            {"train": {"second": {"momentum": 0.9}}},
            "8 columns with layers of 32.*embed_dim: 32",
        ),
        (
            {"image": {"encoder": "cnn", "width": 4, "size": 8, "views": 2}},
            GUIDED,
            {"train": {"second": {"momentum": 0.9}}},
            "the second model's encoder of image does not show them",
        ),
    ],
)
def test_what_cannot_look_into_layers_is_refused(
    modalities: Any, objective: Any, more: Any, reason: str, tmp_path: Path, silent: Progress
) -> None:
    raw = small({"train": "digits", "label": "label"}, modalities, objective, **more)
    with pytest.raises(BadInput, match=reason):
        train(Config.model_validate(raw), tmp_path / "run", silent)
    assert not (tmp_path / "run").exists()


def test_a_tower_without_layers_to_show_is_refused(models: Path, tmp_path: Path, silent: Progress) -> None:
    clip = {"encoder": "open_clip:clx-lora", "pretrained": str(models / "clip.pt"), "views": 2, "noise": 0.1}
    raw = small({"train": "digits", "label": "label"}, {"text": clip}, "attention")
    shown = "encoder open_clip:clx-lora of modalities.text does not show them: transformer and hf:NAME"
    with pytest.raises(BadInput, match=shown):
        train(Config.model_validate(raw), tmp_path / "run", silent)
    assert not (tmp_path / "run").exists()
