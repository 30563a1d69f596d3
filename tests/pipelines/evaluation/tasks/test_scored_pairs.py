"""Pairs with a score: the task `sts`, and retrieval graded by the scores."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import ndcg_score, roc_auc_score
from torch.nn.functional import normalize

from clx.pipelines.config.schema import Config
from clx.pipelines.evaluation.embeddings import embed_manifest
from clx.pipelines.evaluation.evaluate import evaluate
from clx.pipelines.evaluation.evaluated_rows import evaluated_rows
from clx.pipelines.evaluation.results import Settings
from clx.pipelines.experiments.train import train
from clx.pipelines.runs.checkpoint import load
from configs import small

TEXT = {"kind": "text", "width": 32, "layers": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hardly trained run on sixty pairs: a first sentence has three seconds, scored 0 to 5, and one has no score."""
    from clx.pipelines.system.progress import Silent

    folder = tmp_path_factory.mktemp("pairs")
    draw = np.random.default_rng(0)
    rows = [f"first {i // 3},second {(7 * i) % 60},{draw.integers(0, 6)}" for i in range(60)] + ["first 0,second 1,"]
    (folder / "m.csv").write_text("\n".join(["one,two,score", *rows]) + "\n")
    modalities = {"one": {**TEXT, "column": "one"}, "two": {**TEXT, "column": "two"}}
    data = {"train": str(folder / "m.csv"), "target": "score"}
    train(Config.model_validate(small(data, modalities, "clip")), folder / "run", Silent())
    return folder / "run"


def test_figures_are_those_of_scipy_and_of_a_loop_over_pairs(run: Path) -> None:
    opened = load(run)
    opened.model.eval()
    source = evaluated_rows(opened.config.data, 0, None, None, None)
    found = evaluate(opened, source, ["sts", "retrieval"], Settings(resamples=20))
    embedded = embed_manifest(opened, source.rows)
    scores = embedded.targets[:, 0].numpy()
    known = np.isfinite(scores)
    z: dict[str, Any] = {name: normalize(rows.double(), dim=1) for name, rows in embedded.z.items()}
    cosines = (z["one"] * z["two"]).sum(1).numpy()
    line = found["sts"]["one+two->score"]
    assert line["rows"] == known.sum() == 60
    assert line["spearman"] == pytest.approx(stats.spearmanr(cosines[known], scores[known]).statistic)
    assert line["pearson"] == pytest.approx(stats.pearsonr(cosines[known], scores[known]).statistic)

    line = found["retrieval"]["one->two"]
    firsts, seconds = source.rows.column("one"), source.rows.column("two")
    things = sorted(set(seconds), key=seconds.index)
    answers = z["two"][[seconds.index(thing) for thing in things]]
    asking = [i for i in range(61) if known[i] and scores[i] >= 2.5]
    gains, hits = [], []
    for i in asking:
        truth = np.zeros(len(things))
        for k in range(61):
            if firsts[k] == firsts[i] and known[k]:
                truth[things.index(seconds[k])] = scores[k]
        cosine = (answers @ z["one"][firsts.index(firsts[i])]).numpy()
        gains.append(ndcg_score([truth], [cosine], k=10))
        right = {seconds[k] for k in asking if firsts[k] == firsts[i]}
        hits.append(things[int(cosine.argmax())] in right)
    assert (line["graded_by"], line["queries"], line["candidates"]) == ("score", len(asking), len(things))
    assert line["NDCG@10"] == pytest.approx(np.mean(gains), abs=1e-5)
    assert line["R@1"] == pytest.approx(np.mean(hits))
    assert line["NDCG@10"] < 0.4, "hardly trained: by the distance between scores it was graded 0.8"


def test_of_a_flag_it_is_also_told_how_well_the_cosine_parts_the_pairs(run: Path, tmp_path: Path) -> None:
    opened = load(run)
    opened.model.eval()
    rows = [f"first {i % 4},second {i},{2 + 5 * (i % 3 == 0)}" for i in range(24)]
    (tmp_path / "f.csv").write_text("\n".join(["one,two,score", *rows]) + "\n")
    source = evaluated_rows(opened.config.data, 0, str(tmp_path / "f.csv"), None, None)
    line = evaluate(opened, source, ["sts"], Settings(resamples=20))["sts"]["one+two->score"]
    embedded = embed_manifest(opened, source.rows)
    z = {name: normalize(rows.double(), dim=1) for name, rows in embedded.z.items()}
    area = roc_auc_score(embedded.targets[:, 0] == 7, (z["one"] * z["two"]).sum(1))
    assert line["macro_AUC"] == pytest.approx(area)


def test_a_number_about_a_row_is_no_score_of_its_inputs(tmp_path: Path) -> None:
    """Two texts of a thing and its price: every row asks, as it would of two inputs of different kinds."""
    from clx.pipelines.system.progress import Silent

    rows = [f"title {i},words on {i},{i % 7}" for i in range(24)]
    (tmp_path / "m.csv").write_text("\n".join(["title,body,price", *rows]) + "\n")
    modalities = {name: {**TEXT, "column": name} for name in ("title", "body")}
    data = {"train": str(tmp_path / "m.csv"), "target": "price"}
    train(Config.model_validate(small(data, modalities, ["clip", "l1"])), tmp_path / "run", Silent())
    opened = load(tmp_path / "run")
    opened.model.eval()
    source = evaluated_rows(opened.config.data, 0, None, None, None)
    found = evaluate(opened, source, ["retrieval", "sts"], Settings(resamples=0), strict=False)
    line = found["retrieval"]["title->body"]
    assert (line["graded_by"], line["queries"]) == ("target", 24)
    assert found["skipped"] == {"sts": "price is learned as a number about each row: cosent learns the score of a pair"}


def test_a_weight_of_pairs_of_unlike_kinds_is_their_score(tmp_path: Path) -> None:
    from clx.pipelines.system.progress import Silent

    rows = [f"title {i % 8},{i},{i % 5}" for i in range(24)]
    (tmp_path / "m.csv").write_text("\n".join(["title,size,relevance", *rows]) + "\n")
    modalities = {"title": TEXT, "table": {"columns": ["size"]}}
    data = {"train": str(tmp_path / "m.csv"), "target": "relevance", "weight": "relevance"}
    train(Config.model_validate(small(data, modalities, "clip")), tmp_path / "run", Silent())
    opened = load(tmp_path / "run")
    opened.model.eval()
    source = evaluated_rows(opened.config.data, 0, None, None, None)
    assert (
        evaluate(opened, source, ["retrieval"], Settings(resamples=0))["retrieval"]["title->table"]["graded_by"]
        == "score"
    )
