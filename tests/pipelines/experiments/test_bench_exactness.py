"""What is known of each scheme's gradient comes out of the table."""

from typing import Any

import pytest

from clx.pipelines.experiments import bench_exactness as bench
from clx.pipelines.system.errors import BadInput

Table = dict[tuple[str, float], dict[str, Any]]


def table(**sizes: int) -> Table:
    return {(row["scheme"], row["dropout"]): row for row in bench.bench_exactness(**sizes)}


def exact(row: dict[str, Any]) -> bool:
    return bool(row["error"] < 1e-13 and abs(row["norm"] - 1) < 1e-13)


def test_chunks_by_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    found = table(batch=12, chunks=4, ranks=1)
    assert len(found) == 10
    for dropout in (0.0, 0.5):
        for scheme in ("train.chunk: 3", "GradCache"):
            row = found[scheme, dropout]
            assert exact(row)
            assert row["temperature"] == pytest.approx(1, abs=1e-12), scheme
        assert found["plain accumulation of 4, sentence-transformers' default", dropout]["error"] > 0.1
    assert exact(found["open_clip --accum-freq 4", 0.0])
    assert found["open_clip --accum-freq 4", 0.0]["temperature"] == pytest.approx(4, abs=1e-12)
    assert exact(found["GradCache, random state not replayed", 0.0])
    for scheme in ("open_clip --accum-freq 4", "GradCache, random state not replayed"):
        assert found[scheme, 0.5]["error"] > 0.5
    monkeypatch.setattr(bench, "has_open_clip", lambda: False)
    agrees(found, table(batch=12, chunks=4, ranks=1))


@pytest.mark.slow
def test_ranks_by_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    found = table(batch=16, chunks=4, ranks=2)
    assert len(found) == 24
    for dropout in (0.0, 0.5):
        for scheme in ("--processes 2", "--processes 2, train.chunk: 2", "open_clip --gather-with-grad --local-loss"):
            row = found[scheme, dropout]
            assert exact(row)
            assert row["temperature"] == pytest.approx(1, abs=1e-12), scheme
        row = found["open_clip's default", dropout]
        assert [row[key] for key in ("cosine", "norm", "temperature")] == pytest.approx([1, 0.5, 1], abs=1e-12)
        row = found["open_clip's default, loss times 2", dropout]
        assert exact(row)
        assert row["temperature"] == pytest.approx(2, abs=1e-12)
        row = found["open_clip --local-loss", dropout]
        assert row["error"] > 0.2
        assert row["temperature"] == pytest.approx(1, abs=1e-12)
        row = found["nothing gathered", dropout]
        assert row["error"] > 0.02
        assert abs(row["temperature"] - 1) > 0.005
    monkeypatch.setattr(bench, "has_open_clip", lambda: False)
    agrees(found, table(batch=16, chunks=4, ranks=2))


def agrees(found: Table, formula: Table) -> None:
    """What open_clip's code and its formula give."""
    assert {row["code"] for row in formula.values()} == {"clx", "formula"}
    assert {row["code"] for row in found.values()} == {"clx", "formula", "open_clip"}
    for key, row in found.items():
        for name in ("error", "cosine", "norm", "temperature"):
            assert row[name] == pytest.approx(formula[key][name], abs=1e-9), key


@pytest.mark.parametrize(("sizes", "said"), [((48, 5, 1), "--chunks, 5"), ((48, 4, 5), "--ranks, 5")])
def test_parts_have_as_many_rows_each(sizes: tuple[int, int, int], said: str) -> None:
    with pytest.raises(BadInput, match=f"--batch 48 is no multiple of {said}"):
        next(bench.bench_exactness(*sizes))
