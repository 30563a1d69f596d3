"""Exact neighbours chunk by chunk, and an index beside the file."""

import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from clx.pipelines.system.errors import BadInput
from clx.pipelines.use import codes
from clx.pipelines.use.approximate import Finder, Way
from clx.pipelines.use.embedding_files import EmbeddingFile
from clx.pipelines.use.neighbours import Hit, neighbours


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


def test_equal_scores_are_taken_in_the_order_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(2)
    np.save(tmp_path / "alike.npy", np.eye(4, dtype=np.float32)[draw.integers(4, size=500)])
    file = EmbeddingFile.open(tmp_path / "alike.npy")
    rows = np.load(file.path)
    asked = torch.eye(4)[:2] + torch.tensor([0.0, 0, 0.5, 0.25])
    expected = [np.argsort(-(rows @ one), kind="stable")[:150].tolist() for one in asked.numpy()]
    for chunk in (1, 7, 64, 1000):
        monkeypatch.setattr("clx.pipelines.use.embedding_files.ROWS", chunk)
        assert [[place for place, _ in hits] for hits in neighbours(file, "", asked, 150)] == expected


def same(places: list[list[int]], found: list[list[Hit]]) -> float:
    """The share of true neighbours that was found."""
    shares = [len(set(one) & {p for p, _ in hits}) / len(one) for one, hits in zip(places, found, strict=True)]
    return float(np.mean(shares))


@pytest.mark.parametrize(
    ("way", "least"),
    [
        (Way("exact", "int8", 1), 0.97),
        (Way("exact", "int8", 4), 1.0),
        (Way("exact", "binary", 4), 0.6),
        (Way("exact", "binary", 40), 0.98),
        (Way("usearch"), 0.95),
        (Way("usearch", "int8", 2), 0.95),
        (Way("usearch", "binary", 10), 0.6),
    ],
    ids=str,
)
def test_less_than_the_vectors_finds_nearly_the_same_and_follows_its_file(
    stored: EmbeddingFile, way: Way, least: float
) -> None:
    if way.index == "usearch":
        pytest.importorskip("usearch", reason="the extra `search` is not installed")
    asked = torch.randn(20, 24, generator=torch.Generator().manual_seed(1))
    values, places = oracle(stored, asked, 10)
    finder = Finder(stored, "", way)
    found = finder.find(asked, 10)
    assert same(places, found) >= least
    assert 17 not in {place for hits in found for place, _ in hits}, "a row without a vector is no answer"
    true = dict(zip(places[0], values[0], strict=True))
    assert {place: score for place, score in found[0] if place in true} == pytest.approx(
        {place: true[place] for place, _ in found[0] if place in true}, abs=1e-5
    )
    assert [score for _, score in found[0]] == sorted((score for _, score in found[0]), reverse=True)
    recall, number = finder.recall("", 10)
    assert number in (63, 64)
    assert least - 0.1 <= recall <= 1
    kind = f"{way.precision}.{'usearch' if way.index == 'usearch' else 'npy'}"
    [kept] = stored.path.parent.glob(f"plain.npy.*.{kind}")
    made = kept.stat()
    again = Finder(stored, "", way).find(asked[:1], 10)[0]
    assert [place for place, _ in again] == [place for place, _ in found[0]]
    assert kept.stat().st_mtime_ns == made.st_mtime_ns
    np.save(stored.path, np.eye(24, dtype=np.float32))
    hour = 3600 * 10**9
    os.utime(stored.path, ns=(made.st_mtime_ns - hour, made.st_mtime_ns - hour))  # the clock was set back
    changed = Finder(EmbeddingFile.open(stored.path), "", way)
    assert changed.find(torch.eye(24)[3:4], 1)[0][0] == (3, pytest.approx(1.0))
    assert kept not in list(stored.path.parent.glob(f"plain.npy.*.{kind}"))
    with pytest.raises(BadInput, match="24 numbers, the query has 8"):
        changed.find(torch.randn(1, 8), 3)


def test_recall_is_what_comparing_every_row_says_and_is_kept(stored: EmbeddingFile) -> None:
    finder = Finder(stored, "", Way("exact", "binary", 1))
    recall, number = finder.recall("", 5)
    drawn = np.sort(np.random.default_rng(0).choice(1000, 64, replace=False))
    asked = stored.vectors("", drawn.tolist())
    true, mine = neighbours(stored, "", asked, 6), finder.find(asked, 6)
    shares = []
    for place, expected, found in zip(drawn, true, mine, strict=True):
        others = [[hit[0] for hit in hits if hit[0] != place][:5] for hits in (expected, found)]
        shares.append(len(set(others[0]) & set(others[1])) / 5)
    assert number == 64
    assert recall == pytest.approx(np.mean(shares))
    assert 0.1 < recall < 0.9
    [kept] = stored.path.parent.glob("*.recall.json")
    told = json.loads(kept.read_text())
    kept.write_text(json.dumps({name: [0.25, 3] for name in told}))
    assert Finder(stored, "", Way("exact", "binary", 1)).recall("", 5) == (0.25, 3)


@pytest.mark.parametrize("kind", ["int8", "binary"])
def test_codes_stand_for_the_rows(kind: str) -> None:
    rows = torch.nn.functional.normalize(torch.randn(50, 21, generator=torch.Generator().manual_seed(3)), dim=1)
    rows[7] = torch.nan
    rows[8] = 0
    asked = torch.randn(4, 21, generator=torch.Generator().manual_seed(4))
    made = codes.encode(rows, kind)
    assert made.shape == (50, codes.length(21, kind))
    assert made.dtype == np.uint8
    expected = asked @ (rows if kind == "int8" else (2.0 * (rows > 0) - 1).masked_fill(rows.isnan(), torch.nan)).T
    found = codes.scores(made, asked, kind)
    step = asked.abs().sum(1, keepdim=True) * rows.nan_to_num(0).abs().amax(1) / 127 / 2  # half a step in each number
    assert torch.equal(found.isnan(), expected.isnan())
    assert bool(((found - expected).nan_to_num(0).abs() <= (step if kind == "int8" else 0) + 1e-5).all())


def test_without_usearch_it_is_said_in_a_line(stored: EmbeddingFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usearch", None)
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(BadInput, match=r"--index usearch needs usearch: pip install '\.\[search\]'"):
        Finder(stored, "", Way("usearch")).find(torch.zeros(1, 24), 1)


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

    def view(self, path: str) -> None:
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

    def first() -> Hit:
        return Finder(EmbeddingFile.open(stored.path), "", Way("usearch")).find(asked, 1)[0][0]

    def slow(self: Plain, path: str) -> None:
        monkeypatch.setattr(Plain, "save", plain)
        with open(path, "wb") as file:
            file.write(b"half")
            file.flush()
            assert first() == (5, pytest.approx(1.0))
        plain(self, path)

    monkeypatch.setattr(Plain, "save", slow)
    assert first() == (5, pytest.approx(1.0))
    assert Plain.made == 2
    assert first() == (5, pytest.approx(1.0))
    assert Plain.made == 2
    assert len(list(stored.path.parent.iterdir())) == 2
    before = stored.path.stat().st_mtime_ns
    np.save(stored.path, np.eye(24, dtype=np.float32)[::-1])
    os.utime(stored.path, ns=(before - 3600 * 10**9,) * 2)
    assert first() == (18, pytest.approx(1.0))
    assert len(list(stored.path.parent.iterdir())) == 2
