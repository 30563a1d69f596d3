"""The table of accuracies: its figures, its log that goes on where it ends, what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from clx.pipelines.experiments import bench_series
from clx.pipelines.system.errors import BadInput


def test_a_table_is_logged_and_not_made_twice(tmp_path: Path) -> None:
    told: list[str] = []
    log = tmp_path / "log.jsonl"
    rows = bench_series.table(["UnitTest"], ["ts2vec"], 2, 3, log, told.append)
    assert [row["method"] for row in rows] == ["ts2vec svm", "ts2vec probe", "ts2vec 1nn"]
    assert all(row["seeds"] == 2 and 0 <= row["accuracy"] <= 1 for row in rows)
    assert len(told) == 6
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert np.mean([line["accuracy"] for line in lines if line["method"] == "ts2vec svm"]) == pytest.approx(
        rows[0]["accuracy"], abs=1e-4
    )
    assert bench_series.table(["UnitTest"], ["ts2vec"], 2, 3, log, told.append) == rows
    assert len(told) == 6, "nothing was made anew"
    log.write_text("half a li")
    with pytest.raises(BadInput, match="not a log"):
        bench_series.table(["UnitTest"], ["ts2vec"], 1, 3, log, told.append)


@pytest.mark.parametrize(
    ("sets", "methods", "reason"),
    [(["GunPoynt"], ["ts2vec"], "'GunPoint'"), (["GunPoint"], ["minirockt"], "'minirocket'")],
)
def test_unknown_names(sets: list[str], methods: list[str], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        bench_series.table(sets, methods, 1, 1, None, print)


def test_series_of_unequal_length_are_padded_to_the_longest_training_one() -> None:
    rows = [np.ones((2, n)) for n in (3, 5)]
    train, test = bench_series._equal(rows, [np.ones((2, 9)), np.ones((2, 4))])
    assert train.shape == (2, 2, 5)
    assert train.sum((1, 2)).tolist() == [6, 10]
    assert test.sum((1, 2)).tolist() == [10, 8]


@pytest.mark.slow
def test_peers_classify(tmp_path: Path) -> None:
    rows = bench_series.table(["ItalyPowerDemand"], ["minirocket", "1nn-dtw"], 1, 1, None, print)
    assert {row["method"]: row["accuracy"] > 0.9 for row in rows} == {"minirocket": True, "1nn-dtw": True}
