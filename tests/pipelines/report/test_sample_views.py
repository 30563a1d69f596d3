"""Two columns through one tower: what the head gets, missing halves, views, checks, and learning from them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import choose, load_splits
from clx.pipelines.experiments.train import train
from clx.pipelines.report import mistakes, sample_views
from clx.pipelines.report.sample_views import views
from clx.pipelines.report.snapshot import look
from clx.pipelines.runs import checkpoint
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.system.progress import Silent
from configs import pair_config


def test_a_page_shows_both_of_a_pair_and_of_its_views(sentence_pairs: Path, tmp_path: Path, silent: Any) -> None:
    made = pair_config(sentence_pairs, augmentation="strong")
    train(made, tmp_path / "run", silent)
    run = checkpoint.load(tmp_path / "run")
    seen = look(run, load_splits(made.data, 0)["train"], 40, print)
    seen.item(1, "text")
    assert [one["text"] for one in seen.items[0]["pair"]] == ["a cat", "the sun"]
    [found] = views(seen)
    for line in found["lines"]:
        for shown in [line["sample"], *line["views"]]:
            assert [set(one) for one in shown["pair"]] == [{"text"}, {"text"}]


def test_a_page_shows_learned_views_of_a_pair_each_of_its_own_series(tmp_path: Path, silent: Any) -> None:
    draw = np.random.default_rng(0)
    lines = [{"a": draw.normal(size=30).tolist(), "b": draw.normal(size=30).tolist()} for _ in range(12)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, lines[0]]))
    series = {"column": "a", "pair": "b", "width": 16, "layers": 1, "views": 2, "augmentation": "autotcl"}
    raw = {
        "data": {"train": str(tmp_path / "pairs.jsonl")},
        "modalities": {"series": series},
        "embed_dim": 8,
        "objective": {"name": "nt-xent"},
        "train": {"steps": 1, "batch_size": 6},
        "eval": [],
    }
    made = Config.model_validate(raw)
    train(made, tmp_path / "run", silent)
    seen = look(checkpoint.load(tmp_path / "run"), load_splits(made.data, 0)["train"], 13, print)
    assert seen.things["series"].tolist() == [*range(12), 0]
    [found] = views(seen)
    for line in found["lines"]:
        first, second = (one["curves"][0] for one in line["sample"]["pair"])
        for view in line["views"]:
            ours, theirs = (one["curves"][0] for one in view["pair"])
            like = np.corrcoef([first, second, ours, theirs])
            assert like[0, 2] > like[1, 2] + 0.3
            assert like[1, 3] > like[0, 3] + 0.3


def test_features_over_time_are_one_projection_of_the_encoders_steps(tmp_path: Path) -> None:
    raw = {
        "data": {"train": "digits", "label": "label"},
        "modalities": {"series": {"width": 64, "layers": 1, "views": 2, "augmentation": {"crops": 0.3, "autotcl": 1}}},
        "embed_dim": 8,
        "objective": {"name": "nt-xent"},
        "train": {"steps": 2, "batch_size": 16},
        "eval": [],
    }
    train(Config.model_validate(raw), tmp_path / "run", Silent())
    run = load(tmp_path / "run")
    (manifest,) = choose(run.config.data, 0, None, None).values()
    seen = look(run, manifest, 30, pytest.fail)
    (found,) = sample_views.over_time(seen)
    every, drawn, mapped = [], [], []
    for line in found["lines"]:
        sample = seen.read(seen.items[line["item"]]["row"], "series")[1]
        with torch.no_grad():
            steps, _ = run.model.towers["series"].encoder.steps(**run.modalities["series"].collate([sample]))
        assert len(line["parts"][0]) == steps.shape[1]
        every.append(steps[0].double())
        drawn.append(np.array(line["parts"], dtype=float).T)
        mapped.append(np.array(line["features"], dtype=float).T)
    x, mine = torch.cat(every).numpy(), np.concatenate(drawn)
    axes = np.linalg.svd(x - x.mean(0))[2][:3]
    assert np.abs(mine).max(0).tolist() == [99, 99, 99]
    for k, part in enumerate(((x - x.mean(0)) @ axes.T).T):
        assert abs(np.corrcoef(part, mine[:, k])[0, 1]) > 0.99
    assert found["width"] == x.shape[1] > 16
    most = x.std(0).argsort()[::-1][:16]
    features, shown = (x - x.mean(0))[:, most], np.concatenate(mapped)
    np.testing.assert_allclose(shown, features / np.abs(features).max() * 99, atol=0.51)
    assert mistakes.answers(seen)[0]["how"] == "by the 10 nearest other rows"
    (views,) = sample_views.views(seen)
    assert views["augmentation"] == "crops 0.3, autotcl 1"
    assert views == sample_views.views(seen)[0]  # drawn anew, the same
    for line in views["lines"]:
        whole, cut = line["sample"]["curves"][0], [view["curves"][0] for view in line["views"]]
        assert None not in whole
        assert len(cut) == 4
        assert any(None in view for view in cut)  # what a crop leaves out
        assert all(len(view) == len(whole) for view in cut)
        like = []
        for view in cut:
            both = np.array([(a, b) for a, b in zip(whole, view, strict=True) if b is not None])
            like.append(np.corrcoef(both.T)[0, 1])
        assert like[0] > 0.999  # the first is a crop and nothing else
        assert max(like[1:]) < 0.99
