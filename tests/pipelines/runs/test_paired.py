"""Paired differences of runs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from clx.pipelines.measures.bootstrap import figures, means
from clx.pipelines.runs.paired import differences


def evaluated(folder: Path, name: str, right: np.ndarray, **changes: object) -> Path:
    """A run whose probe is right on these rows."""
    run = folder / name
    run.mkdir()
    line = figures(len(right), means({"top1": right}), keep=True)
    settings = {"seed": 0, "resamples": 1000, "confidence": 0.95}
    probe = {"table": {"top1": line["top1"], "top1_ci": line["top1_ci"], "rows": len(right)}}
    told = {"schema": 2, "key": name, "data": "d", "split": "test", "rows_key": "r", "settings": settings}
    (run / "results.json").write_text(json.dumps(told | {"probe": probe} | changes))
    np.savez_compressed(run / "results.npz", key=np.array(name), **{"probe.table.top1": line["top1_draws"]})
    return run


@pytest.fixture
def right() -> np.ndarray:
    return np.random.default_rng(0).random(400) < 0.7


def test_pairs_tell_what_intervals_of_each_do_not(tmp_path: Path, right: np.ndarray) -> None:
    better = right.copy()
    better[np.flatnonzero(~right)[:12]] = True  # .03 better, always on the same rows
    a, b = evaluated(tmp_path, "a", right), evaluated(tmp_path, "b", better)
    (row,), reasons = differences([a, b])
    gaps = better.astype(float) - right  # the interval of paired differences, resampled by itself
    draw = np.random.default_rng(1)
    low, high = np.quantile([gaps[draw.integers(0, 400, 400)].mean() for _ in range(2000)], [0.025, 0.975])
    assert row["difference"] == pytest.approx(0.03)
    assert (row["low"], row["high"]) == (pytest.approx(low, abs=0.004), pytest.approx(high, abs=0.004))
    assert row["differ"]
    assert not reasons
    alone = figures(400, means({"top1": right})), figures(400, means({"top1": better}))
    assert alone[0]["top1_ci"][1] > alone[1]["top1_ci"][0]  # intervals of each overlap


def test_chance_is_no_difference(tmp_path: Path, right: np.ndarray) -> None:
    other = right.copy()
    other[np.flatnonzero(~right)[:10]], other[np.flatnonzero(right)[:7]] = True, False
    (row,), _ = differences([evaluated(tmp_path, "a", right), evaluated(tmp_path, "b", other)])
    assert not row["differ"]
    (row,), _ = differences([tmp_path / "a", evaluated(tmp_path, "same", right)])
    assert (row["difference"], row["low"], row["high"], row["differ"]) == (0, 0, 0, False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows_key": "other"}, "different rows"),
        ({"settings": {"seed": 1, "resamples": 1000, "confidence": 0.95}}, "seed, resamples, confidence"),
        ({"key": "newer"}, "keeps no resamples"),
    ],
)
def test_runs_that_cannot_be_paired(tmp_path: Path, right: np.ndarray, changes: dict[str, object], said: str) -> None:
    rows, (reason,) = differences([evaluated(tmp_path, "a", right), evaluated(tmp_path, "b", right, **changes)])
    assert not rows
    assert said in reason
    (tmp_path / "b" / "results.npz").write_bytes(b"PK")
    (tmp_path / "b" / "results.json").unlink()
    assert "not evaluated" in differences([tmp_path / "a", tmp_path / "b"])[1][0]


def test_a_trained_run_keeps_its_resamples(tmp_path: Path, digits_run: Path) -> None:
    shutil.copytree(digits_run, tmp_path / "b")
    rows, reasons = differences([digits_run, tmp_path / "b"])
    assert not reasons
    assert {"zeroshot.table.top1", "zeroshot.table.mean_per_class"} <= {row["figure"] for row in rows}
    assert not any(row["differ"] for row in rows)
