"""Mistakes of a run, by classes and by region of a target, agree with oracles."""

import csv
from collections.abc import Callable

import numpy as np
import pytest
import torch

from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import choose
from clx.pipelines.evaluation.evaluate import evaluate
from clx.pipelines.evaluation.evaluated_rows import Source
from clx.pipelines.experiments.train import train
from clx.pipelines.report import mistakes, space_map
from clx.pipelines.report.snapshot import Snapshot, look
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.system.progress import Silent


def test_answers_are_those_of_the_evaluation(seen: Snapshot) -> None:
    expected = evaluate(seen.run, Source("test", seen.manifest), ["zeroshot"])["zeroshot"]
    found = {given["input"]: given for given in mistakes.answers(seen)}
    assert set(found) == set(expected)
    for name, given in found.items():
        right = sum(n for i, j, n in given["cells"] if i == j)
        assert right / given["rows"] == pytest.approx(expected[name]["top1"])
        counts = np.zeros((len(seen.embedded.classes),) * 2, dtype=int)
        for i, j, n in given["cells"]:
            counts[i, j] = n
        assert expected[name]["confusion"] == {"classes": seen.embedded.classes, "counts": counts.tolist()}
        assert given["wrong"] == given["rows"] - right
        sure = [mistake["sure"] for mistake in given["mistakes"]]
        assert sure == sorted(sure, reverse=True)
        for mistake in given["mistakes"]:
            assert mistake["said"] != seen.rows[mistake["row"]][1]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Snapshot]:
    """A run with a numeric target, looked at, by the name of its objective."""
    folder = tmp_path_factory.mktemp("numbers")
    draw = np.random.default_rng(0)
    with (folder / "rows.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["a", "b", "y", "split"])
        for k in range(200):
            a, b = draw.normal(size=2)
            rows.writerow([a, b, "" if k == 4 else a + 0.3 * b, "test" if k % 4 == 0 else "train"])

    def make(objective: str) -> Snapshot:
        raw = {
            "data": {"train": str(folder / "rows.csv"), "target": ["y"]},
            "modalities": {"table": {"columns": ["a", "b"], "width": 32, "layers": 1}},
            "embed_dim": 8,
            "objective": {"name": objective},
            "train": {"steps": 5, "batch_size": 32},
            "eval": [],
        }
        train(Config.model_validate(raw), folder / objective, Silent())
        run = load(folder / objective)
        (manifest,) = choose(run.config.data, 0, None, None).values()
        return look(run, manifest, 1000, pytest.fail)

    return make


def test_regression_by_region(numbers: Callable[[str], Snapshot]) -> None:
    seen = numbers("l1")
    splits = choose(seen.run.config.data, 0, None, "train")["train"]
    found = mistakes.regression(seen, splits)
    known = seen.targets.isfinite()
    assert int(known.sum()) == 49  # one test row has no target
    with torch.no_grad():
        said = seen.run.model.predict({"table": seen.embedded.z["table"]}, seen.embedded.present)[:, 0]
    error = (said - seen.targets).abs()
    assert found["how"] == "by the trained head"
    assert found["mae"] == pytest.approx(error[known].mean().item(), rel=1e-5)
    edges = found["edges"]
    assert sum(found["rows"]) == 49
    assert sum(found["train"]) == 150
    for k, mean in enumerate(found["error"]):
        last = k == len(edges) - 2
        part = known & (seen.targets >= edges[k]) & ((seen.targets < edges[k + 1]) | last)
        assert found["rows"][k] == int(part.sum())
        if part.any():
            assert mean == pytest.approx(error[part].mean().item(), rel=1e-5)
        else:
            assert mean is None
    by = space_map.similarity(seen)
    assert by["by"] == "target"
    assert len(by["names"]) == len(by["matrices"][0]["values"]) == 20


def test_regression_without_a_head_never_predicts_a_row_from_itself(numbers: Callable[[str], Snapshot]) -> None:
    seen = numbers("rank-n-contrast")
    known = seen.targets.isfinite()
    noise = np.random.default_rng(0).normal(size=int(known.sum()))
    seen.unit["table"] = torch.eye(len(seen))  # a row tells nothing about any other
    seen.targets[known] = torch.from_numpy(noise).to(seen.targets.dtype)
    found = mistakes.regression(seen, None)
    assert found["how"].startswith("by ridge regression")
    points = dict(found["points"])
    said = np.array([points[row] for row in np.flatnonzero(known.numpy()).tolist()])
    assert abs(np.corrcoef(said, noise)[0, 1]) < 0.9
    assert np.abs(said - noise).mean() > 0.5 * np.abs(noise - noise.mean()).mean()


def test_votes_leave_a_row_itself_out(seen: Snapshot) -> None:
    from sklearn.neighbors import NearestNeighbors

    rows = seen.embedded.labels >= 0
    x, labels = seen.unit["image"].numpy(), seen.embedded.labels.numpy()
    near = NearestNeighbors(n_neighbors=mistakes.VOTERS).fit(x).kneighbors(return_distance=False)
    expected = np.stack([(labels[near] == c).mean(1) for c in range(len(seen.embedded.classes))], 1)
    found = mistakes._votes(seen, "image", rows).numpy()
    assert (np.abs(found - expected).max(1) < 1e-9).mean() > 0.97  # equal but for ties in distance
