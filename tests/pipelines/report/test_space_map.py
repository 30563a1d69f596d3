"""The map of a run's space agrees with oracles."""

import itertools

import numpy as np
import pytest
import torch

from clx.pipelines.report import space_map
from clx.pipelines.report.snapshot import Snapshot


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
