"""Rows that are compared by their steps: evaluated, embedded and searched as `late` learned it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet

from clx.losses.late import Late, late_scores
from clx.pipelines.config.schema import Config
from clx.pipelines.evaluation.evaluate import evaluate_run
from clx.pipelines.evaluation.results import Settings
from clx.pipelines.experiments.train import train
from clx.pipelines.model.token_scores import Ragged, TokenScores, tokens_of
from clx.pipelines.runs.open import open_model
from clx.pipelines.system.errors import BadInput
from clx.pipelines.use.approximate import Way
from clx.pipelines.use.embed import embed
from clx.pipelines.use.embedding_tables import EmbeddingOptions
from clx.pipelines.use.search import Neighbours, Searcher
from configs import small
from conftest import Once
from trained import Heard

QUERIES = ["red cat", "old dog", "big owl", "tiny ant", "grey elk", "wet hen"]
PASSAGES = [
    "the cat is red",
    "a dog, and old",
    "an owl that is big",
    "tiny is the ant",
    "elk in grey",
    "the hen is wet",
]


@pytest.fixture(scope="module")
def folder(once: Once) -> Path:
    """A run of queries and passages through one tower, and the embeddings of its rows, of which one has no passage."""

    def make(out: Path) -> None:
        out.mkdir()
        rows = [{"query": q, "passage": p, "split": "train"} for q, p in zip(QUERIES, PASSAGES, strict=True)]
        rows += [row | {"split": "test"} for row in rows]
        rows[-1] = {"query": "no", "split": "test"}
        (out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        text = {"kind": "text", "encoder": "transformer", "width": 32, "layers": 1, "augmentation": "none"}
        towers = {"query": text, "passage": {"like": "query", "column": "passage"}}
        raw = small(
            {"train": str(out / "rows.jsonl")}, towers, {"name": "late", "pool": "sum"}, train={"batch_size": 6}
        )
        train(Config.model_validate(raw), out / "run", Heard())
        embed(out / "run", out / "emb.parquet", options=EmbeddingOptions(split="test"))

    return once("late_run", make)


def expected(folder: Path, asked: str, queries: list[str]) -> torch.Tensor:
    """Scores of the passages of the test rows, of which the last has none."""
    run = open_model(folder / "run")
    read = {name: run.modalities[name].read for name in ("query", "passage")}
    x = tokens_of(run, asked, [read[asked](query) for query in queries]).padded(run.device)
    y = tokens_of(run, "passage", [read["passage"](each) for each in PASSAGES[:-1]]).padded(run.device)
    return late_scores(*x, *y, pool="sum")


def test_retrieval_compares_steps(folder: Path) -> None:
    found = evaluate_run(folder / "run", ["retrieval"], Settings(resamples=0), split="test", say=lambda text: None)
    line: dict[str, Any] = found["retrieval"]["query->passage"]
    scores = expected(folder, "query", QUERIES[:-1])
    right = (scores.diagonal()[:, None] > scores).sum(1) == len(scores) - 1
    assert line["R@1"] == pytest.approx(right.double().mean().item())
    back = (scores.diagonal() > scores).sum(0) == len(scores) - 1  # the queries ask this way round, too
    assert found["retrieval"]["passage->query"]["R@1"] == pytest.approx(back.double().mean().item())


def test_search_scores_every_row_by_its_steps(folder: Path) -> None:
    searcher = Searcher(folder / "emb.parquet", among="passage")
    (answer,) = searcher.search([QUERIES[1]], modality="query", top=10)
    assert isinstance(answer, Neighbours)
    scores = expected(folder, "query", [QUERIES[1]])[0]
    assert [hit["score"] for hit in answer.hits] == pytest.approx(
        scores.sort(descending=True).values.tolist(), abs=1e-5
    )
    assert {hit["row"] for hit in answer.hits} == {7, 8, 9, 10, 11}  # not the row without a passage
    assert "passage.steps" not in answer.hits[0]
    (near,) = searcher.near_rows([8], top=2)
    other = expected(folder, "passage", [PASSAGES[1]])[0]
    other[1] = -torch.inf
    assert [hit["score"] for hit in near.hits] == pytest.approx(other.topk(2).values.tolist(), abs=1e-5)


def test_the_file_has_a_list_of_vectors_for_each_row(folder: Path) -> None:
    table = parquet.read_table(folder / "emb.parquet")
    lengths = [len(row) for row in table.column("passage.steps").to_pylist()]
    assert lengths == [*map(len, PASSAGES[:-1]), 0]


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda f: Searcher(f / "emb.parquet", way=Way("usearch")), "step by step"),
        (lambda f: Searcher(f / "emb.parquet", way=Way(precision="int8")), "step by step"),
        (lambda f: [*Searcher(f / "emb.parquet").search(["a"], also=["b"], modality="query")], "--and"),
        (lambda f: embed(f / "run", f / "emb.npy"), ".parquet"),
    ],
)
def test_what_cannot_be(folder: Path, ask: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        ask(folder)


def test_who_asks() -> None:
    x, y = torch.randn(3, 4), torch.randn(5, 4)
    one, two = Ragged(x, torch.tensor([2, 0, 1])), Ragged(y, torch.tensor([1, 4]))
    cpu = torch.device("cpu")
    for asks in ("first", "each"):
        by = TokenScores(("query", "passage"), asks, "mean", 0.0)  # type: ignore[arg-type]
        there = by.scores("query", one, "passage", two, cpu)
        torch.testing.assert_close(
            there, late_scores(*one.padded(cpu), *two.padded(cpu)).masked_fill(one.counts[:, None] == 0, 0)
        )
        back = by.scores("passage", two, "query", one, cpu)
        again = late_scores(*two.padded(cpu), *one.padded(cpu))
        torch.testing.assert_close(back, there.T if asks == "first" else again)
    loss = Late()
    loss.setup(["query/0", "query/1", "passage"], 4)
    assert loss.names == ("query", "passage")
    assert loss.asks_first("passage", "query") is False
    torch.testing.assert_close(one.take(torch.tensor([2, 0])).values, x[[2, 0, 1]])
