"""The comparison itself, at sizes that take no time; what it measures at real sizes is in its report."""

import importlib.util
from dataclasses import replace

import pytest

from clx.pipelines.experiments import bench_losses, bench_peers

HERE = {b.peer: " " in b.peer or importlib.util.find_spec(b.peer.replace("-", "_")) for b in bench_peers.COMPARISONS}


@pytest.mark.filterwarnings("ignore")  # the peers' own
@pytest.mark.parametrize("comparison", bench_peers.COMPARISONS, ids=lambda b: b.label or b.loss)
def test_both_sides_compute_the_same(comparison: bench_peers.Comparison) -> None:
    if not HERE[comparison.peer]:
        pytest.skip(f"{comparison.peer} is not installed")
    row = bench_losses._times(replace(comparison, batch=24, width=16), repeats=1)
    assert row["value_error"] < 1e-5
    assert row["gradient_error"] < 1e-5
    assert row["speedup"] == pytest.approx(row["peer_seconds"] / row["seconds"])  # more than 1: clx is the faster one


@pytest.mark.slow
def test_each_comparison_has_processes_of_its_own() -> None:
    (row,) = bench_losses.bench_losses(["mv-dhel"], batch=512, width=16, repeats=1)
    assert row["runs"] == 1
    assert row["value_error"] < 1e-5
    if "mib" not in row:
        pytest.skip(row["memory"])
    assert 0 < row["mib"] < row["peer_mib"]


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_losses.importlib.util, "find_spec", lambda name: None)
    (row,) = bench_losses.bench_losses(["clip"])
    assert row["skipped"] == "open_clip is not installed"


def test_a_loss_without_peer() -> None:
    with pytest.raises(ValueError, match="no peer"):
        bench_losses.bench_losses(["laso"])
