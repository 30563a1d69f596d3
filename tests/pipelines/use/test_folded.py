"""Rows that are one item, as hits of a search: folded, or each by itself."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from clx.pipelines.config.schema import Config
from clx.pipelines.experiments.train import train
from clx.pipelines.system.errors import BadInput, ClxWarning
from clx.pipelines.use import folded
from clx.pipelines.use.approximate import Way
from clx.pipelines.use.embed import embed
from clx.pipelines.use.embedding_files import EmbeddingFile
from clx.pipelines.use.embedding_tables import EmbeddingOptions, refuse_kept
from clx.pipelines.use.search import Neighbours, Searcher
from command import Command
from configs import small
from trained import Heard

ITEMS, EACH = 6, 5
VECTORS = np.repeat(np.random.default_rng(0).normal(size=(ITEMS, 8)).astype(np.float32), EACH, 0)
"""Six pictures with five captions each, row 1 to 30."""


def written(
    path: Path,
    ids: list[str],
    kinds: dict[str, str],
    keep: dict[str, list[str]],
    contents: list[int] | None = None,
    vectors: Any = VECTORS,
    **meta: Any,
) -> EmbeddingFile:
    """A file as `clx embed` writes it, of the vectors above for each modality; without contents one of old."""
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    told = {} if contents is None else dict.fromkeys([f"{name}_content" for name in kinds], contents)
    table = pa.table({"row": range(1, len(ids) + 1), "id": ids} | dict.fromkeys(kinds, lists) | keep | told)
    noted = {"format": 1, "embed_dim": 8, "modalities": kinds, "weights": "w", "run": "r", "step": 1, "keep": [*keep]}
    noted |= {"columns": {name: name for name in kinds} | {"text": "caption"}, "id": None, "dtype": "float32"} | meta
    noted |= {"contents": True} if contents else {}
    parquet.write_table(table.replace_schema_metadata({"clx": json.dumps(noted)}), path)
    return EmbeddingFile.open(path)


PLACES = [f"rows.csv row {k}" for k in range(1, 31)]
PATHS = [f"{k // EACH}.png" for k in range(30)]
HALVES = [f"{k // EACH}, {k % EACH // 3}" for k in range(30)]
CONTENTS = [k // EACH for k in range(30)]
"""A number for each picture."""
CUT = [2 * (k // EACH) + k % EACH // 3 for k in range(30)]
"""Texts that are alike as far as they are read: three rows have one, two another."""
IMAGE, TEXT = {"image": "image"}, {"text": "text"}
TWO = [{"name": "a.csv"}, {"name": "b.csv"}]
SINGLE = [[26], [27], [28], [29]]
CASES: dict[str, tuple[list[str], dict[str, str], dict[str, Any], list[list[int]]]] = {
    "one cell": (PLACES, IMAGE, {"contents": CONTENTS}, []),
    "one cell with captions that were kept": (PLACES, IMAGE, {"contents": CONTENTS, "keep": {"caption": PLACES}}, []),
    "texts that differ where they are cut": (PLACES, TEXT, {"contents": CUT}, [[26, 27, 28]]),
    "things that the user names": (HALVES, IMAGE, {"contents": CONTENTS, "id": "name"}, [[26, 27, 28]]),
    "of old, paths": (PATHS, IMAGE, {}, []),
    "of old, paths in two folders": (PATHS, IMAGE, {"data": TWO}, SINGLE),
    "of old, no paths": (PLACES, IMAGE, {}, SINGLE),
    "of old, texts beside pictures": (PATHS, TEXT | IMAGE, {}, SINGLE),
    "of old, texts that were kept": (PLACES, TEXT, {"keep": {"caption": HALVES}}, [[26, 27, 28]]),
    "of old, names that the user gave": (PATHS, IMAGE, {"id": "name"}, SINGLE),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_are_one_item_where_the_file_says_that_their_cell_is_one(tmp_path: Path, case: str) -> None:
    """Row 30 asks, and its own item is no answer."""
    ids, kinds, more, expected = CASES[case]
    file = written(tmp_path / "e.parquet", ids, kinds, **{"keep": {}} | more)
    (found,) = Searcher(file.path, among=next(iter(kinds))).near_rows([30], top=max(1, len(expected)))
    if not expected:
        assert found.hits[0]["score"] < 0.9
        assert len(found.hits[0]["rows"]) == EACH
        return
    assert [hit["rows"] for hit in found.hits] == expected
    assert [(hit["rank"], hit["row"]) for hit in found.hits] == [(k, rows[0]) for k, rows in enumerate(expected, 1)]
    assert [hit["score"] for hit in found.hits] == pytest.approx([1.0] * len(expected))


@pytest.mark.parametrize("way", [Way(), Way("exact", "int8")], ids=str)
def test_as_many_items_are_found_as_are_wanted_with_all_their_rows(
    tmp_path: Path, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path / "e.parquet", PLACES, IMAGE, {}, CONTENTS)
    asked = torch.from_numpy(VECTORS[7:8])
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    order = np.argsort(-(unit @ VECTORS[7])[::EACH], kind="stable").tolist()
    searcher = Searcher(file.path, way=way)

    def find(some: Any, count: int) -> list[list[tuple[int, float]]]:
        counts.append(count)
        return searcher._finder.find(asked, count)

    def found(top: int, *own: int) -> list[list[int]]:
        [items] = folded.folded(file, "image", find, 1, top, own)
        return [[place for place, _ in item] for item in items]

    every = [list(range(k * EACH, (k + 1) * EACH)) for k in order]
    for top in (1, 3, 6, 40):
        counts: list[int] = []
        assert found(top) == every[:top]
        assert found(top, 7) == every[1 : top + 1]
        assert len(counts) <= 6
    monkeypatch.setattr(folded, "MOST", 2)  # bounds the rows of an item, not how many there are
    assert found(1) == [every[0][:2]]
    assert len(found(6)) == 6
    monkeypatch.setattr(folded, "MOST", 7)
    assert [len(item) for item in found(5)] == [EACH] * 5
    assert [len(item) for item in folded.single(find, 1, 8)[0]] == [1] * 8
    monkeypatch.setattr(folded, "LIMIT", 3 * EACH)
    with pytest.warns(ClxWarning, match=f"the {3 * EACH} nearest rows of a query are 3 things: --each-row shows"):
        assert found(5) == every[:3]
    few = folded.folded(file, "image", lambda some, count: [hits[:4] for hits in find(some, count)], 1, 5)
    assert len(few[0]) == 1, "no more rows have a vector, which is nothing to tell of"


def test_where_nothing_tells_the_file_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "e.npy", VECTORS[::EACH])
    file = EmbeddingFile.open(tmp_path / "e.npy")
    monkeypatch.setattr(EmbeddingFile, "vectors", None)  # which nothing asks for
    calls = []

    def find(some: Any, count: int) -> list[list[tuple[int, float]]]:
        calls.append(count)
        return [[(k, 1 - k / 10) for k in range(count)]] * len(some)

    assert folded.folded(file, "", find, 2, 3) == [[[(0, 1.0)], [(1, 0.9)], [(2, 0.8)]]] * 2
    assert calls == [3]


def test_equal_scores_of_unlike_rows_are_hits_each(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.eye(4, dtype=np.float32)[[0, 1, 0, 2]])
    (found,) = Searcher(tmp_path / "e.npy").near_rows([4], top=3)
    assert [(hit["score"], hit["rows"]) for hit in found.hits] == [(0.0, [1]), (0.0, [2]), (0.0, [3])]


def test_rows_that_lie_close_are_not_compared(tmp_path: Path) -> None:
    """Nor asked for one by one: a model that has collapsed gives its answers as fast as another."""
    near = (1 + 1e-5 * np.random.default_rng(0).normal(size=(9000, 8))).astype(np.float32)
    ids = [f"rows.csv row {k}" for k in range(1, 9001)]
    file = written(tmp_path / "e.parquet", ids, IMAGE, {}, [k // 2 for k in range(9000)], near)
    begun = time.process_time()
    (found,) = Searcher(file.path).near_rows([5], top=3)
    assert time.process_time() - begun < 2
    assert [len(hit["rows"]) for hit in found.hits] == [2, 2, 2]


def test_each_row_and_rows_on_the_command_line(clx: Command, tmp_path: Path) -> None:
    written(tmp_path / "e.parquet", PLACES, IMAGE, {"score": PATHS, "rank": PATHS, "rows": PATHS}, CONTENTS)
    asked = ("search", tmp_path / "e.parquet", "--row", "1", "--top", "3", "--json")
    hits = json.loads(clx(*asked).stdout)["hits"]
    assert [len(hit["rows"]) for hit in hits] == [5, 5, 5]
    assert [hit["rank"] for hit in hits] == [1, 2, 3]  # whatever was kept
    assert all(isinstance(hit["score"], float) for hit in hits)
    each = json.loads(clx(*asked, "--each-row").stdout)["hits"]
    assert [hit["rows"] for hit in each] == [[2], [3], [4]]


def test_texts_alike_as_far_as_they_are_read_are_hits_each_with_what_was_kept(tmp_path: Path) -> None:
    texts = ["a red cat sat", "a red cat ran", "a red cat sat", "an owl", "some dog", "one hen"]
    rows = [{"text": text, "caption": text[:6], "score": "1"} for text in texts]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = {"kind": "text", "encoder": "transformer", "width": 32, "layers": 1, "max_length": 8, "augmentation": "none"}
    raw = small({"train": str(tmp_path / "rows.jsonl")}, {"text": text, "caption": text}, {"name": "clip"})
    raw["train"]["batch_size"] = 6
    train(Config.model_validate(raw), tmp_path / "run", Heard())
    for column in ("score", "rank", "rows", "row", "id", "text_content", "caption_cell"):
        with pytest.raises(BadInput, match=f"--keep {column}: "):
            refuse_kept([column], ["text", "caption"])
    out = tmp_path / "e.npy"
    embed(tmp_path / "run", out, options=EmbeddingOptions(modalities=["text"], keep=["text", "caption"]))
    searcher = Searcher(out)
    assert searcher.file.vectors("text", [0]).equal(searcher.file.vectors("text", [1]))
    (same,) = searcher.search(["a red cat sat"], top=2, modality="text")
    assert isinstance(same, Neighbours)
    assert [(hit["rows"], hit["text"], hit["caption"]) for hit in same.hits] == [
        ([1, 3], "a red cat sat", "a red "),
        ([2], "a red cat ran", "a red "),
    ]
