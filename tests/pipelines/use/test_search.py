"""Exact neighbours chunk by chunk, and an index beside the file."""

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from clx.pipelines.system.errors import BadInput
from clx.pipelines.use.embedding_files import EmbeddingFile
from clx.pipelines.use.neighbours import approximate, neighbours


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddingFile:
    rows = np.random.default_rng(0).normal(size=(1000, 24)).astype(np.float32)
    rows[17] = np.nan
    np.save(tmp_path / "plain.npy", rows)
    monkeypatch.setattr("clx.pipelines.use.embedding_files.CHUNK", 4 * 24 * 64)  # 64 rows at a time
    return EmbeddingFile.open(tmp_path / "plain.npy")


def oracle(stored: EmbeddingFile, asked: torch.Tensor, count: int) -> tuple[list[list[float]], list[list[int]]]:
    rows = torch.nn.functional.normalize(torch.from_numpy(np.load(stored.path)), dim=1)
    best = (asked @ rows.nan_to_num(0).T).index_fill(1, torch.tensor([17]), -9).topk(count)
    return best.values.tolist(), best.indices.tolist()


def test_chunks_give_what_a_full_matrix_gives(stored: EmbeddingFile) -> None:
    asked = torch.randn(5, 24, generator=torch.Generator().manual_seed(1))
    values, places = oracle(stored, asked, 100)
    found = neighbours(stored, "", asked, 100)
    assert [[place for place, _ in hits] for hits in found] == places
    assert [[score for _, score in hits] for hits in found] == [pytest.approx(v, abs=1e-5) for v in values]
    assert len(neighbours(stored, "", asked, 2000)[0]) == 999
    with pytest.raises(BadInput, match="24 numbers, the query has 8"):
        neighbours(stored, "", torch.randn(1, 8), 3)


def test_an_index_finds_nearly_the_same_and_follows_its_file(stored: EmbeddingFile) -> None:
    pytest.importorskip("usearch", reason="the extra `search` is not installed")
    asked = torch.randn(20, 24, generator=torch.Generator().manual_seed(1))
    values, places = oracle(stored, asked, 10)
    found = approximate(stored, "", asked, 10)
    same = [len(set(expected) & {place for place, _ in hits}) for expected, hits in zip(places, found, strict=True)]
    assert sum(same) >= 190
    assert found[0][0][1] == pytest.approx(values[0][0], abs=1e-4)
    index = stored.path.with_name("plain.npy.usearch")
    made = index.stat()
    approximate(stored, "", asked, 1)
    assert index.stat().st_ino == made.st_ino
    np.save(stored.path, np.eye(24, dtype=np.float32))
    hour = 3600 * 10**9
    os.utime(stored.path, ns=(made.st_mtime_ns - hour, made.st_mtime_ns - hour))  # the clock was set back
    assert approximate(stored, "", torch.eye(24)[3:4], 1)[0][0] == (3, pytest.approx(1.0))


class Plain:
    """An index as usearch's that keeps the vectors in a file."""

    made = 0

    def __init__(self, ndim: int, metric: str, dtype: str) -> None:
        self.ndim, self.rows = ndim, np.zeros((0, ndim), np.float32)

    def add(self, keys: np.ndarray, rows: np.ndarray, threads: int) -> None:
        self.rows = np.concatenate([self.rows, rows])

    def save(self, path: str) -> None:
        Plain.made += 1
        Path(path).write_bytes(self.rows.tobytes())

    def load(self, path: str) -> None:
        self.rows = np.frombuffer(Path(path).read_bytes(), np.float32).reshape(-1, self.ndim)

    def search(self, row: np.ndarray, count: int) -> SimpleNamespace:
        scores = self.rows @ row
        keys = np.argsort(-scores)[:count]
        return SimpleNamespace(keys=keys, distances=1 - scores[keys])


def test_two_searches_that_make_one_index_do_not_mix(stored: EmbeddingFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first writes, the second begins, ends, and a third changes the vectors under an older clock."""
    monkeypatch.setitem(sys.modules, "usearch", ModuleType("usearch"))
    monkeypatch.setitem(sys.modules, "usearch.index", SimpleNamespace(Index=Plain))
    np.save(stored.path, np.eye(24, dtype=np.float32))
    asked, plain = torch.eye(24)[5:6], Plain.save

    def slow(self: Plain, path: str) -> None:
        monkeypatch.setattr(Plain, "save", plain)
        with open(path, "wb") as file:
            file.write(b"half")
            file.flush()
            assert approximate(stored, "", asked, 1)[0][0] == (5, pytest.approx(1.0))
        plain(self, path)

    monkeypatch.setattr(Plain, "save", slow)
    assert approximate(stored, "", asked, 1)[0][0] == (5, pytest.approx(1.0))
    assert Plain.made == 2
    assert approximate(stored, "", asked, 1)[0][0] == (5, pytest.approx(1.0))
    assert Plain.made == 2
    assert sorted(path.name for path in stored.path.parent.iterdir()) == ["plain.npy", "plain.npy.usearch"]
    before = stored.path.stat().st_mtime_ns
    np.save(stored.path, np.eye(24, dtype=np.float32)[::-1])
    os.utime(stored.path, ns=(before - 3600 * 10**9,) * 2)
    assert approximate(stored, "", asked, 1)[0][0] == (18, pytest.approx(1.0))
