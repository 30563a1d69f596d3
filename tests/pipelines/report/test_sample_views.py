"""Two columns through one tower: what the head gets, missing halves, views, checks, and learning from them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clx.modalities.table import Table
from clx.modalities.text import Text
from clx.pipelines.batches.cells import collate, read_cell, vary
from clx.pipelines.batches.check import check_source
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import once
from clx.pipelines.config.load import dump
from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import load_splits
from clx.pipelines.experiments.train import train
from clx.pipelines.model.towers import Tower
from clx.pipelines.report.sample_views import views
from clx.pipelines.report.snapshot import look
from clx.pipelines.runs import checkpoint

ROWS = [("a cat", "a cat", 5), ("a cat", "the sun", 0), ("sun", "", 2), ("ü", "u and v", 1), ("one two", "two one", 4)]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.csv"
    path.write_text("first,second,score\n" + "".join(f"{a},{b},{s}\n" for a, b, s in ROWS * 8))
    return path


def config(path: Path, **text: Any) -> Config:
    options = {"column": "first", "pair": "second", "width": 32, "layers": 1, **text}
    return Config.model_validate(
        {
            "data": {"train": str(path), "target": ["score"]},
            "modalities": {"text": options},
            "embed_dim": 8,
            "objective": {"name": "l1"},
            "train": {"steps": 4, "batch_size": 16},
            "eval": [],
        }
    )


def test_the_head_gets_both_their_difference_and_product() -> None:
    text = Text(width=32, layers=1, pair="second", head="none")
    torch.manual_seed(0)
    tower = Tower(text, 128).eval()
    samples = [read_cell(text, (a, b)) for a, b, _ in ROWS if b]
    z = tower(collate(text, samples))
    u, v = (tower.encoder(**text.collate([s[side] for s in samples])) for side in (0, 1))
    torch.testing.assert_close(z, torch.cat([u, v, (u - v).abs(), u * v], 1))
    torch.testing.assert_close(z[0, 64:96], torch.zeros(32))  # equal sentences


def test_views_vary_both_sides_and_keep_them_apart() -> None:
    text = Text(pair="second", augmentation="strong", templates=["{}", "say {}"])
    samples = [read_cell(text, ("one two three four five six seven", "EIGHT NINE TEN ELEVEN TWELVE"))] * 20
    [varied] = vary(text, [samples], torch.Generator().manual_seed(0))
    assert {v[0].template for v in varied} == {"{}", "say {}"}
    assert len({v[0].text for v in varied}) > 5
    assert all(v[0].text.islower() and v[1].text.isupper() for v in varied)


def test_a_pair_needs_both_halves_and_trains(pairs: Path, tmp_path: Path, silent: Any) -> None:
    made = config(pairs)
    train(made, tmp_path / "run", silent)
    run = checkpoint.load(tmp_path / "run")
    rows = BatchDataset(load_splits(made.data, 0)["train"], run.modalities, target=["score"])
    batch = rows[once(40, 5)[0]]
    assert batch.present["text"].tolist() == [True, True, False, True, True]
    z = run.model(batch.inputs, batch.present)
    assert z["text"].shape == (5, 8)
    assert "pair: second" in dump(checkpoint.read_config(tmp_path / "run"))


def test_a_page_shows_both_of_a_pair_and_of_its_views(pairs: Path, tmp_path: Path, silent: Any) -> None:
    made = config(pairs, augmentation="strong")
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


def test_data_check_opens_both_columns(pairs: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump(config(pairs)))
    told = check_source(None, str(path))["splits"]["train"]["inputs"]["text"]
    assert told["column"] == ["first", "second"]
    assert (told["cells"], told["missing"]) == (32, 8)
    assert told["length"]["max"] == 7


def test_tables_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="one column"):
        Table(pair="x")
