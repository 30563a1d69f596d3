"""Views of samples, as the page shows them."""

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
from clx.pipelines.report.snapshot import Snapshot, look
from clx.pipelines.runs import checkpoint
from clx.pipelines.system.progress import Silent
from configs import pair_config, small


def test_a_page_shows_both_of_a_pair_and_of_its_views(sentence_pairs: Path, tmp_path: Path, silent: Any) -> None:
    made = pair_config(sentence_pairs, augmentation="strong")
    train(made, tmp_path / "run", silent)
    run = checkpoint.load(tmp_path / "run")
    seen = look(run, load_splits(made.data, 0)["train"], 40, print)
    seen.item(1, "text")
    assert [one["text"] for one in seen.items[0]["pair"]] == ["a cat", "the sun"]
    [found] = sample_views.views(seen)
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
    [found] = sample_views.views(seen)
    for line in found["lines"]:
        first, second = (one["curves"][0] for one in line["sample"]["pair"])
        for view in line["views"]:
            ours, theirs = (one["curves"][0] for one in view["pair"])
            like = np.corrcoef([first, second, ours, theirs])
            assert like[0, 2] > like[1, 2] + 0.3
            assert like[1, 3] > like[0, 3] + 0.3


@pytest.fixture(scope="module")
def motions(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """A run on series with two views, a crop and one that is learned, looked at."""
    views = {"views": 2, "augmentation": {"crops": 0.3, "autotcl": 1}}
    data = {"train": "digits", "label": "label"}
    raw = small(data, {"series": {"width": 64, "layers": 1, **views}}, "nt-xent", train={"steps": 2})
    out = tmp_path_factory.mktemp("motions") / "run"
    train(Config.model_validate(raw), out, Silent())
    run = checkpoint.load(out)
    (manifest,) = choose(run.config.data, 0, None, None).values()
    return look(run, manifest, 30, pytest.fail)


def steps_of(seen: Snapshot, line: dict[str, Any]) -> torch.Tensor:
    """The encoder's features of every time step of a line's sample `[T, F]`."""
    sample = seen.read(seen.items[line["item"]]["row"], "series")[1]
    with torch.no_grad():
        steps, _ = seen.run.model.towers["series"].encoder.steps(**seen.run.modalities["series"].collate([sample]))
    return steps[0].double()


def test_features_over_time_are_one_projection_of_the_encoders_steps(motions: Snapshot) -> None:
    (found,) = sample_views.over_time(motions)
    every = [steps_of(motions, line) for line in found["lines"]]
    assert [len(line["parts"][0]) for line in found["lines"]] == [len(steps) for steps in every]
    drawn = np.concatenate([np.array(line["parts"], dtype=float).T for line in found["lines"]])
    x = torch.cat(every).numpy()
    axes = np.linalg.svd(x - x.mean(0))[2][:3]
    assert np.abs(drawn).max(0).tolist() == [99, 99, 99]
    for k, part in enumerate(((x - x.mean(0)) @ axes.T).T):
        assert abs(np.corrcoef(part, drawn[:, k])[0, 1]) > 0.99


def test_the_features_that_vary_most_are_mapped_in_one_unit(motions: Snapshot) -> None:
    (found,) = sample_views.over_time(motions)
    x = torch.cat([steps_of(motions, line) for line in found["lines"]]).numpy()
    assert found["width"] == x.shape[1] > 16
    most = x.std(0).argsort()[::-1][:16]
    features = (x - x.mean(0))[:, most]
    shown = np.concatenate([np.array(line["features"], dtype=float).T for line in found["lines"]])
    np.testing.assert_allclose(shown, features / np.abs(features).max() * 99, atol=0.51)


def test_views_of_series_show_what_a_crop_leaves_out_and_what_is_learned(motions: Snapshot) -> None:
    (views,) = sample_views.views(motions)
    assert views["augmentation"] == "crops 0.3, autotcl 1"
    assert views == sample_views.views(motions)[0]  # drawn anew, the same
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


def test_without_a_head_the_nearest_rows_answer(motions: Snapshot) -> None:
    assert mistakes.answers(motions)[0]["how"] == "by the 10 nearest other rows"
