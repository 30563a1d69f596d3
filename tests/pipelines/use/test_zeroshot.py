"""Zero-shot classification against open_clip on the same weights, and what the terminal does not show."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clx.pipelines.model.scoring import class_embeddings, embed_items, native_scale, queries
from clx.pipelines.runs import open
from clx.pipelines.use.inputs import Inputs
from clx.pipelines.use.labels import read_templates
from clx.pipelines.use.question import Question, Result, ask, classify
from configs import OPEN_CLIP

WORDS = ["cat", "dog", "a red square", "ship", "tree frog"]


def nothing(text: str) -> None:
    """Who does not listen."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    found = []
    for k in range(6):
        found.append(folder / f"{k}.png")
        Image.fromarray(generator.integers(0, 255, (40 + k, 50, 3), dtype=np.uint8)).save(found[-1])
    return found


@pytest.fixture(params=["clip", "sigmoid"])
def pair(request: Any, tmp_path: Path) -> tuple[Any, Any, str, Path]:
    """A small open_clip model with random weights, its preprocessing, its name and its checkpoint."""
    import open_clip

    from clx.modalities.openclip import quiet

    name = f"clx-tiny-{request.param}"
    config = OPEN_CLIP if request.param == "clip" else {**OPEN_CLIP, "init_logit_bias": -3.0, "init_logit_scale": 2.0}
    (tmp_path / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / f"{name}.json")
    torch.manual_seed(0)
    with quiet():
        model, _, preprocess = open_clip.create_model_and_transforms(name)
    with torch.no_grad():
        model.logit_scale.copy_(torch.tensor(100.0).log())  # as trained models have it
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    return model.eval(), preprocess, name, tmp_path / "weights.pt"


@pytest.mark.parametrize("templates", [["openai-imagenet"], ["a photo of a {}.", "{}"]])
def test_logits_are_those_of_open_clip(
    pair: tuple[Any, Any, str, Path], pictures: list[Path], templates: list[str]
) -> None:
    import open_clip

    model, preprocess, name, weights = pair
    with torch.no_grad():
        prompts = open_clip.OPENAI_IMAGENET_TEMPLATES if templates == ["openai-imagenet"] else templates
        classes = open_clip.build_zero_shot_classifier(model, open_clip.get_tokenizer(name), WORDS, prompts)
        batch = torch.stack([preprocess(Image.open(path)) for path in pictures])
        cosines = model.encode_image(batch, normalize=True) @ classes
        logits = model.logit_scale.exp() * cosines
        if model.logit_bias is not None:
            logits = logits + model.logit_bias
    run = open.open_clip_run(name, str(weights), torch.device("cpu"))
    rows = class_embeddings(run, {word: [word] for word in WORDS}, read_templates(templates))
    z, present = embed_items(run, [{"image": run.modalities["image"].read(path)} for path in pictures])
    scale = native_scale(run)
    found = queries(run, z, present, "text") @ rows.T
    torch.testing.assert_close(found, cosines, rtol=0, atol=1e-6)
    found = found / scale.temperature + scale.bias
    assert scale.kind == ("softmax" if model.logit_bias is None else "sigmoid")
    torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-5)
    question = Question(WORDS, rows, "text", scale)
    results = list(classify(run, Inputs(run, text="text").items(map(str, pictures)), question, top=5))
    expected = logits.softmax(1) if model.logit_bias is None else logits.sigmoid()
    for result, row in zip(results, expected, strict=True):
        assert isinstance(result, Result)
        assert [dict(result.scores)[word] for word in WORDS] == pytest.approx(row.tolist(), abs=1e-5)


@pytest.fixture
def run(digits_run: Path) -> Any:
    from clx.pipelines.runs.checkpoint import load

    return load(digits_run)


def test_the_first_answer_comes_before_the_last_file_is_opened(
    run: Any, pictures: list[Path], monkeypatch: Any
) -> None:
    opened, kind = [], type(run.modalities["image"])
    read = kind.read
    monkeypatch.setattr(kind, "read", lambda self, cell: opened.append(cell) or read(self, cell))
    question = ask(run, {word: [word] for word in WORDS}, [], None, say=nothing)
    names = [str(path) for path in pictures * 200]
    results = classify(run, Inputs(run, text="text").items(names), question, batch_size=16, workers=2)
    first = next(results)
    assert isinstance(first, Result)
    assert len(opened) < 200
    assert [first.item, *(result.item for result in results)] == names  # type: ignore[union-attr]
