"""Retrieval with several captions in a row, by a loop over captions and images; and sets of labels by task."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch.nn.functional import normalize

from clx.pipelines.config.schema import Config
from clx.pipelines.evaluation.embeddings import embed_manifest
from clx.pipelines.evaluation.evaluate import evaluate
from clx.pipelines.evaluation.evaluated_rows import evaluated_rows
from clx.pipelines.evaluation.results import Settings
from clx.pipelines.experiments.train import train
from clx.pipelines.model.scoring import class_embeddings, embed
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.system.progress import Silent
from configs import small
from samples import png

CAPTIONS = [[f"{w} {i}" for w in ("one", "two", "three")[: 1 + i % 3]] for i in range(30)]
TAGS = [[tag for k, tag in enumerate(("x", "y", "z")) if (i >> k) % 2] for i in range(30)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hardly trained run on thirty images of one to three captions; rows 28 and 29 show one image."""
    folder = tmp_path_factory.mktemp("captions")
    lines = []
    for i in range(30):
        (folder / f"{i}.png").write_bytes(png(min(i, 28)))
        lines.append({"image": f"{min(i, 28)}.png", "text": CAPTIONS[i], "tags": TAGS[i] if i != 3 else None})
    (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    modalities = {"image": {"size": 8, "width": 4}, "text": {"width": 32, "layers": 1}}
    data = {"train": str(folder / "m.jsonl"), "label": "tags"}
    terms = [{"name": "clip"}, {"name": "binary-cross-entropy", "inputs": ["image"]}]
    train(Config.model_validate(small(data, modalities, terms)), folder / "run", Silent())
    return folder / "run"


def test_every_caption_asks_and_answers(run: Path) -> None:
    opened = load(run)
    opened.model.eval()
    source = evaluated_rows(opened.config.data, 0, None, None, None)
    found = evaluate(opened, source, ["retrieval"], Settings(resamples=50))["retrieval"]
    embedded = embed_manifest(opened, source.rows)
    images = normalize(embedded.z["image"].double(), dim=1)[:29]  # the last row shows the image before it
    samples = [opened.modalities["text"].read(caption) for some in CAPTIONS for caption in some]
    texts = normalize(embed(opened, "text", samples).double(), dim=1)
    owner = np.array([min(i, 28) for i in range(30) for _ in CAPTIONS[i]])
    scores = (texts @ images.T).numpy()

    ranks = np.array([(scores[k] > scores[k, owner[k]]).sum() for k in range(len(texts))])
    line = found["text->image"]
    assert (line["queries"], line["candidates"]) == (len(texts), 29)
    for k in (1, 5, 10):
        assert line[f"R@{k}"] == pytest.approx((ranks < k).mean())
    assert line["R@1_ci"][0] <= line["R@1"] <= line["R@1_ci"][1]

    best = []
    for i in range(30):  # every row asks, the last two with one image, of which all captions are right
        right = owner == min(i, 28)
        best.append((scores[~right, min(i, 28)] > scores[right, min(i, 28)].max()).sum())
    line = found["image->text"]
    assert (line["queries"], line["candidates"]) == (30, len(texts))
    for k in (1, 5, 10):
        assert line[f"R@{k}"] == pytest.approx((np.array(best) < k).mean())


def test_figures_of_sets_are_those_of_scikit_learn(run: Path) -> None:
    opened = load(run)
    opened.model.eval()
    source = evaluated_rows(opened.config.data, 0, None, None, None)
    found = evaluate(opened, source, ["multilabel", "retrieval"], Settings(resamples=20))["multilabel"]
    embedded = embed_manifest(opened, source.rows)
    known = [i for i in range(30) if i != 3]
    assert embedded.classes == ["x", "y", "z"]
    assert embedded.label_sets is not None
    assert embedded.label_sets[3].isnan().all()
    truth = np.array([[tag in TAGS[i] for tag in "xyz"] for i in known])
    assert (embedded.label_sets[known].numpy() == truth).all()
    logits = opened.model.predict(embedded.z, embedded.present)[known].detach()
    line = found["image"]
    assert (line["rows"], line["labels"]) == (29, 3)
    assert line["mAP"] == pytest.approx(average_precision_score(truth, logits.numpy()))
    for name in ("micro", "macro"):
        expected = f1_score(truth, logits.numpy() >= 0, average=name, zero_division=0)
        assert line[f"{name}_F1"] == pytest.approx(expected)
    assert "micro_F1" not in found["image->text"]
    assert line["by_label"]["y"]["AP"] == pytest.approx(average_precision_score(truth[:, 1], logits.numpy()[:, 1]))


def test_words_for_that_a_label_does_not_apply(run: Path) -> None:
    opened = load(run)
    opened.model.eval()
    source = evaluated_rows(opened.config.data, 0, None, None, None)
    yes, no = {tag: [f"{tag} is there"] for tag in "xyz"}, {tag: [f"no {tag}", f"without {tag}"] for tag in "xyz"}
    settings = Settings(resamples=0, phrasings=yes, absent=no)
    found: Any = evaluate(opened, source, ["multilabel", "zeroshot"], settings)
    z = normalize(embed_manifest(opened, source.rows).z["image"].double(), dim=1)
    yes_rows, no_rows = (class_embeddings(opened, words).double() for words in (yes, no))
    chances = torch.stack([z @ no_rows.T, z @ yes_rows.T], 2).div(0.07).softmax(2)[..., 1]  # of each pair of prompts
    known = [i for i in range(30) if i != 3]
    truth = np.array([[tag in TAGS[i] for tag in "xyz"] for i in known])
    line = found["multilabel"]["image->text"]
    assert line["AUC"] == pytest.approx(roc_auc_score(truth, chances[known].numpy(), average="macro"))
    said = chances[known].numpy() > 0.5
    assert line["micro_F1"] == pytest.approx(f1_score(truth, said, average="micro", zero_division=0))
    assert (
        line["AUC"]
        != evaluate(opened, source, ["multilabel"], Settings(resamples=0, phrasings=yes))["multilabel"]["image->text"][
            "AUC"
        ]
    )


def test_single_labels_have_no_sets_and_sets_no_classes(run: Path) -> None:
    opened = load(run)
    source = evaluated_rows(opened.config.data, 0, None, None, None)
    left: Any = evaluate(opened, source, ["zeroshot", "probe", "geometry"], Settings(resamples=0))["skipped"]
    assert "multilabel asks about" in left["zeroshot"]
    assert "multilabel asks about" in left["probe"]
