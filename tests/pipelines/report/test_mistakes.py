"""What the page draws of a run's rows agrees with oracles."""

import csv
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import choose
from clx.pipelines.evaluation.evaluate import evaluate
from clx.pipelines.evaluation.evaluated_rows import Source
from clx.pipelines.experiments.train import train
from clx.pipelines.report import mistakes, sample_views, space_map
from clx.pipelines.report.snapshot import Snapshot, look
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.system.progress import Silent


@pytest.fixture(scope="module")
def seen(digits_run: Path) -> Snapshot:
    run = load(digits_run)
    (manifest,) = choose(run.config.data, 0, None, None).values()
    return look(run, manifest, 200, pytest.fail)


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


def test_similarity_is_the_mean_over_pairs_of_other_rows() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 9, 4, generator=draw)
    number = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    for x, y, same in ((a, b, False), (a, a, True)):
        found = space_map._group_means(x, y, number, 4, same)
        for g in range(3):
            for h in range(3):
                among = itertools.product(torch.where(number == g)[0], torch.where(number == h)[0])
                pairs = [x[i] @ y[j] for i, j in among if not (same and i == j)]
                assert found[g, h].item() == pytest.approx(torch.stack(pairs).mean().item(), abs=1e-5)
        assert found[3].isnan().all()
        assert space_map.thousandths(found)[3] == [None] * 4  # no pair is no cosine of 0
        assert space_map.thousandths(found)[0][1] == round(found[0, 1].item() * 1000)


def test_partners_and_others(seen: Snapshot) -> None:
    line = next(pair for pair in space_map.paired(seen) if pair["inputs"] == "image and text")
    matrix = seen.unit["image"] @ seen.unit["text"].T
    off = matrix[~torch.eye(len(matrix), dtype=torch.bool)]
    assert line["paired"] == pytest.approx(matrix.diag().mean().item(), abs=1e-5)
    assert line["others"] == pytest.approx(off.mean().item(), abs=1e-5)


def test_neighbours_are_the_nearest_distinct_things(seen: Snapshot) -> None:
    found = space_map.neighbours(seen)["directions"]
    ways = {(way["from"], way["to"]): way["lines"] for way in found}
    assert ("image", "text") in ways
    assert ("image+table", "text") in ways
    for line in ways["image", "text"]:
        row = seen.items[line["asked"][0]]["row"]
        scores = seen.unit["text"] @ seen.unit["image"][row]
        best = sorted({(round(float(s), 4), int(t)) for s, t in zip(scores, seen.things["text"], strict=True)})
        assert [hit[1] / 1000 for hit in line["hits"]] == pytest.approx([s for s, _ in best[::-1][:5]], abs=1e-3)
        words = [seen.items[hit[0]]["text"] for hit in line["hits"]]
        assert len(set(words)) == len(words)
        for item, _, partner in line["hits"]:
            same = seen.things["text"][seen.items[item]["row"]] == seen.things["text"][row]
            assert bool(partner) == bool(same)


def test_map_is_sklearns_pca_of_distinct_things(seen: Snapshot) -> None:
    from sklearn.decomposition import PCA

    found = space_map.space(seen, 150)
    assert 150 <= len(found["item"]) < 160
    shown = [seen.items[k] for k in found["item"]]
    names = [seen.names[item["modality"]] for item in shown]
    assert names == [seen.names[k] for k in found["modality"]]
    keys = [(name, int(seen.things[name][item["row"]])) for name, item in zip(names, shown, strict=True)]
    assert len(set(keys)) == len(keys)
    x = torch.stack([seen.unit[name][item["row"]] for name, item in zip(names, shown, strict=True)]).double().numpy()
    pca = PCA(2).fit(x)
    assert found["pca"]["share"] == pytest.approx(pca.explained_variance_ratio_.tolist(), abs=1e-6)
    mine = np.array(found["pca"]["xy"], dtype=float)
    for k, axis in enumerate(pca.transform(x).T):
        assert abs(np.corrcoef(mine[k], axis)[0, 1]) > 0.9999
    assert all(len(points) == len(seen.names) for points in found["of"])
    assert np.ptp(np.array(found["tsne"]["xy"])) == 999


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
    said = mistakes._ridge(seen, known, noise)
    assert abs(np.corrcoef(said, noise)[0, 1]) < 0.9
    assert np.abs(said - noise).mean() > 0.5 * np.abs(noise - noise.mean()).mean()


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


def test_votes_leave_a_row_itself_out(seen: Snapshot) -> None:
    from sklearn.neighbors import NearestNeighbors

    rows = seen.embedded.labels >= 0
    x, labels = seen.unit["image"].numpy(), seen.embedded.labels.numpy()
    near = NearestNeighbors(n_neighbors=mistakes.VOTERS).fit(x).kneighbors(return_distance=False)
    expected = np.stack([(labels[near] == c).mean(1) for c in range(len(seen.embedded.classes))], 1)
    found = mistakes._votes(seen, "image", rows).numpy()
    assert (np.abs(found - expected).max(1) < 1e-9).mean() > 0.97  # equal but for ties in distance
