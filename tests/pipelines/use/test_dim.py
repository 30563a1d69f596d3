"""Short vectors of a run that `dims` trained: evaluated, embedded, searched and asked at each width."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pyarrow import parquet

from clx.pipelines.evaluation import results
from clx.pipelines.evaluation.evaluate import evaluate_run
from clx.pipelines.evaluation.results import Settings
from clx.pipelines.experiments.train import train
from clx.pipelines.runs.listing import figures, read_results
from clx.pipelines.system.errors import BadInput
from clx.pipelines.use.approximate import Way
from clx.pipelines.use.embed import embed
from clx.pipelines.use.embedding_files import EmbeddingFile
from clx.pipelines.use.embedding_tables import EmbeddingOptions
from clx.pipelines.use.question import Result
from clx.pipelines.use.search import Searcher
from clx.pipelines.use.zeroshot import Classifier
from configs import Make
from conftest import Once
from trained import Heard

WIDTHS = {"name": "clip", "temperature": 0.1, "learn_temperature": True, "dims": [4, 8, 16]}
FEW: dict[str, Any] = {"resamples": 0}


@pytest.fixture(scope="module")
def run(once: Once, make_config: Make) -> Path:
    """A run that learned at 4, 8 and 16 columns."""

    def make(out: Path) -> None:
        terms = [WIDTHS, {"name": "cross-entropy", "inputs": ["image"]}]
        train(make_config(objective=terms, eval=["retrieval"], train__steps=3), out, Heard())

    return once("dims_run", make)


@pytest.fixture(scope="module")
def result(run: Path) -> dict[str, Any]:
    """Its evaluation."""
    tasks = ["zeroshot", "retrieval", "knn", "classification"]
    return evaluate_run(run, tasks, Settings(**FEW), say=lambda text: None)


def test_every_figure_by_width(run: Path, result: dict[str, Any]) -> None:
    assert result["dim"] == 16
    assert {width: list(tasks) for width, tasks in result["dims"].items()} == dict.fromkeys(
        ("4", "8"), ["zeroshot", "retrieval", "knn"]
    )
    assert result["dims"]["4"]["knn"]["image"]["features"] == "head"
    assert "dims.4.retrieval.image->text.R@1" in figures(read_results(run))  # of the training's end
    rows = results.tables(result)
    assert [row["dim"] for row in rows["zeroshot"] if row["input"] == "image"] == [16, 4, 8]
    assert {row["dim"] for row in rows["classification"]} == {16}


def test_a_width_by_itself_has_the_figures_of_that_width(run: Path, result: dict[str, Any]) -> None:
    settings = Settings(dim=4, features="head", **FEW)
    alone = evaluate_run(run, ["zeroshot", "retrieval", "knn"], settings, say=lambda text: None)
    assert "dims" not in alone
    heard: list[str] = []
    again = evaluate_run(run, ["zeroshot", "retrieval", "knn"], settings, say=heard.append)
    assert again["key"] == alone["key"] != result["key"]
    assert "evaluated before" in heard[-1]
    assert {task: alone[task] for task in ("zeroshot", "retrieval", "knn")} == result["dims"]["4"]
    assert alone["retrieval"] != result["retrieval"]
    with pytest.raises(BadInput, match="class head"):
        evaluate_run(run, ["classification"], settings, say=lambda text: None)


def test_embed_and_search(run: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.parquet", tmp_path / "cut.parquet"
    embed(run, whole, options=EmbeddingOptions(split="test"))
    embed(run, cut, options=EmbeddingOptions(split="test", dim=4))
    full, short = (np.stack(parquet.read_table(path)["image"].to_numpy()) for path in (whole, cut))
    assert np.array_equal(short, full[:, :4])
    unit = F.normalize(torch.from_numpy(short[:1].copy()), dim=1)
    scores = (unit @ F.normalize(torch.from_numpy(short.copy()), dim=1).T)[0]
    coded = Way("exact", "int8", 100)  # codes of the first columns, beside those of all
    [_] = Searcher(whole, among="image", way=coded).near_rows([int(parquet.read_table(whole)["row"][0].as_py())], top=3)
    for path, dim, way in ((whole, 4, Way()), (cut, None, Way()), (whole, 4, coded)):
        searcher = Searcher(path, among="image", dim=dim, way=way)
        row = int(parquet.read_table(path)["row"][0].as_py())
        [found] = searcher.near_rows([row], top=3)
        assert [hit["score"] for hit in found.hits] == pytest.approx(scores.sort(descending=True).values[1:4].tolist())
        [asked] = searcher.search(["seven"], top=3)
        assert len(asked.hits) == 3
    with pytest.raises(BadInput, match="have 16 columns"):
        EmbeddingFile.open(whole, 17)
    with pytest.raises(BadInput, match="--dim 17: the embeddings have 16 columns"):
        embed(run, tmp_path / "wide.parquet", options=EmbeddingOptions(dim=17))


def test_zeroshot(run: Path, tmp_path: Path) -> None:
    picture = str(tmp_path / "picture.png")
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(picture)
    labels = ["one", "two", "three"]
    [answer] = Classifier(run, labels, dim=4).classify([picture], top=3)
    [whole] = Classifier(run, labels).classify([picture], top=3)
    assert isinstance(answer, Result)
    assert isinstance(whole, Result)
    assert answer.scores != whole.scores
    with pytest.raises(BadInput, match="leave out --dim"):
        Classifier(run, labels, dim=4).calibrate("digits")
