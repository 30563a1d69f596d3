"""Rows that are one item, as hits of a search: folded, or each by itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from clx.pipelines.use import folded
from clx.pipelines.use.approximate import Way
from clx.pipelines.use.embedding_files import EmbeddingFile
from clx.pipelines.use.search import Searcher
from command import Command

ITEMS, EACH = 6, 5
VECTORS = np.repeat(np.random.default_rng(0).normal(size=(ITEMS, 8)).astype(np.float32), EACH, 0)
"""Six pictures with five captions each, row 1 to 30."""


def written(
    path: Path, ids: list[str], kinds: dict[str, str], keep: dict[str, list[str]], **meta: Any
) -> EmbeddingFile:
    """A file as `clx embed` writes it, of the vectors above for each modality."""
    lists = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.reshape(-1)), VECTORS.shape[1])
    table = pa.table({"row": range(1, len(ids) + 1), "id": ids} | dict.fromkeys(kinds, lists) | keep)
    noted = {"format": 1, "embed_dim": 8, "modalities": kinds, "weights": "w", "run": "r", "step": 1, "keep": [*keep]}
    noted |= {"columns": {name: name for name in kinds} | {"text": "caption"}, "id": None, "dtype": "float32"} | meta
    parquet.write_table(table.replace_schema_metadata({"clx": json.dumps(noted)}), path)
    return EmbeddingFile.open(path)


PLACES = [f"rows.csv row {k}" for k in range(1, 31)]
PATHS = [f"{k // EACH}.png" for k in range(30)]
OTHERS = [f"{k}.png" for k in range(30)]
HALVES = [f"{k // EACH}, {k % EACH // 3}" for k in range(30)]
IMAGE = {"image": "image"}
CASES: dict[str, tuple[list[str], dict[str, str], dict[str, list[str]], Any, list[list[int]]]] = {
    "pictures by their paths": (PATHS, IMAGE, {}, None, [[26, 27, 28, 29]]),
    "pictures in the table": (PLACES, IMAGE, {}, None, [[26, 27, 28, 29]]),
    "pictures of two names": (HALVES, IMAGE, {}, None, [[26, 27, 28], [29]]),
    "things that the user names": (HALVES, IMAGE, {}, "name", [[26, 27, 28], [29]]),
    "things called like places": (PLACES, IMAGE, {}, "name", [[26], [27], [28], [29]]),
    "texts beside pictures": (OTHERS, {"text": "text"} | IMAGE, {}, None, [[26, 27, 28, 29]]),
    "texts that were kept": (PLACES, {"text": "text"}, {"caption": HALVES}, None, [[26, 27, 28], [29]]),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_are_one_item_unless_the_file_says_that_their_cells_differ(tmp_path: Path, case: str) -> None:
    ids, kinds, keep, named, expected = CASES[case]
    file = written(tmp_path / "e.parquet", ids, kinds, keep, id=named)
    (found,) = Searcher(file.path, among=next(iter(kinds))).near_rows([30], top=len(expected))
    assert [hit["rows"] for hit in found.hits] == expected
    assert [(hit["rank"], hit["row"]) for hit in found.hits] == [(k, rows[0]) for k, rows in enumerate(expected, 1)]
    assert [hit["score"] for hit in found.hits] == pytest.approx([1.0] * len(expected))


@pytest.mark.parametrize("way", [Way(), Way("exact", "int8")], ids=str)
def test_as_many_items_are_found_as_are_wanted_with_all_their_rows(
    tmp_path: Path, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path / "e.parquet", PATHS, {"image": "image"}, {})
    asked = torch.from_numpy(VECTORS[7:8])
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    order = np.argsort(-(unit @ VECTORS[7])[::EACH], kind="stable").tolist()
    searcher = Searcher(file.path, way=way)

    def find(some: Any, count: int) -> list[list[tuple[int, float]]]:
        counts.append(count)
        return searcher._finder.find(asked, count)

    for top in (1, 3, 6, 40):
        counts: list[int] = []
        [found] = folded.folded(file, "image", find, 1, top)
        assert [[place for place, _ in item] for item in found] == [
            list(range(k * EACH, (k + 1) * EACH)) for k in order[:top]
        ]
        assert len(counts) <= 3
    monkeypatch.setattr(folded, "MOST", 7)
    [found] = folded.folded(file, "image", find, 1, 3)
    assert [len(item) for item in found] == [5, 2]
    assert [len(item) for item in folded.single(find, 1, 8)[0]] == [1] * 8


def test_where_no_scores_are_equal_the_file_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "e.npy", VECTORS[::EACH])
    file = EmbeddingFile.open(tmp_path / "e.npy")
    monkeypatch.setattr(EmbeddingFile, "vectors", None)  # which nothing asks for
    calls = []

    def find(some: Any, count: int) -> list[list[tuple[int, float]]]:
        calls.append(count)
        return [[(k, 1 - k / 10) for k in range(count)]] * len(some)

    assert folded.folded(file, "", find, 2, 3) == [[[(0, 1.0)], [(1, 0.9)], [(2, 0.8)]]] * 2
    assert calls == [4]


def test_equal_scores_of_unlike_rows_are_hits_each(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.eye(4, dtype=np.float32)[[0, 1, 0, 2]])
    (found,) = Searcher(tmp_path / "e.npy").near_rows([4], top=3)
    assert [(hit["score"], hit["rows"]) for hit in found.hits] == [(0.0, [1, 3]), (0.0, [2])]


def test_each_row_and_rows_on_the_command_line(clx: Command, tmp_path: Path) -> None:
    written(tmp_path / "e.parquet", PATHS, {"image": "image"}, {})
    asked = ("search", tmp_path / "e.parquet", "--row", "1", "--top", "3", "--json")
    hits = json.loads(clx(*asked).stdout)["hits"]
    assert [len(hit["rows"]) for hit in hits] == [4, 5, 5]
    each = json.loads(clx(*asked, "--each-row").stdout)["hits"]
    assert [hit["rows"] for hit in each] == [[2], [3], [4]]
