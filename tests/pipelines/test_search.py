"""Exact neighbours chunk by chunk, and an index beside the file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from clx.pipelines import search
from clx.pipelines.config import BadInput
from clx.pipelines.search import Stored, approximate, neighbours


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stored:
    rows = np.random.default_rng(0).normal(size=(1000, 24)).astype(np.float32)
    rows[17] = np.nan
    np.save(tmp_path / "plain.npy", rows)
    monkeypatch.setattr(search, "CHUNK", 4 * 24 * 64)  # 64 rows at a time
    return Stored.open(tmp_path / "plain.npy")


def oracle(stored: Stored, asked: torch.Tensor, count: int) -> tuple[list[list[float]], list[list[int]]]:
    rows = torch.nn.functional.normalize(torch.from_numpy(np.load(stored.path)), dim=1)
    best = (asked @ rows.nan_to_num(0).T).index_fill(1, torch.tensor([17]), -9).topk(count)
    return best.values.tolist(), best.indices.tolist()


def test_chunks_give_what_a_full_matrix_gives(stored: Stored) -> None:
    asked = torch.randn(5, 24, generator=torch.Generator().manual_seed(1))
    values, places = oracle(stored, asked, 100)
    found = neighbours(stored, "", asked, 100)
    assert [[place for place, _ in hits] for hits in found] == places
    assert [[score for _, score in hits] for hits in found] == [pytest.approx(v, abs=1e-5) for v in values]
    assert len(neighbours(stored, "", asked, 2000)[0]) == 999
    with pytest.raises(BadInput, match="24 numbers, the query has 8"):
        neighbours(stored, "", torch.randn(1, 8), 3)


def test_an_index_finds_nearly_the_same_and_follows_its_file(stored: Stored) -> None:
    pytest.importorskip("usearch", reason="the extra `search` is not installed")
    asked = torch.randn(20, 24, generator=torch.Generator().manual_seed(1))
    values, places = oracle(stored, asked, 10)
    found = approximate(stored, "", asked, 10)
    same = [len(set(expected) & {place for place, _ in hits}) for expected, hits in zip(places, found, strict=True)]
    assert sum(same) >= 190
    assert found[0][0][1] == pytest.approx(values[0][0], abs=1e-4)
    index = stored.path.with_name("plain.npy.usearch")
    made = index.stat().st_mtime_ns
    approximate(stored, "", asked, 1)
    assert index.stat().st_mtime_ns == made
    np.save(stored.path, np.eye(24, dtype=np.float32))
    assert approximate(stored, "", torch.eye(24)[3:4], 1)[0][0] == (3, pytest.approx(1.0))


def test_ids_of_other_rows_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    np.save(tmp_path / "e.npy", np.ones((3, 4), np.float32))
    meta = {"clx": '{"format": 1, "embed_dim": 4, "modalities": {"image": "image"}}'}
    parquet.write_table(pa.table({"id": ["a", "b"]}).replace_schema_metadata(meta), tmp_path / "e.ids.parquet")
    with pytest.raises(BadInput, match="do not belong together"):
        neighbours(Stored.open(tmp_path / "e.npy"), "image", torch.ones(1, 4), 1)
