"""Files of embeddings: what is read, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from clx.pipelines.system.errors import BadInput
from clx.pipelines.use import embedding_parts
from clx.pipelines.use.embedding_files import EmbeddingFile
from clx.pipelines.use.neighbours import neighbours


def test_ids_of_other_rows_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.ones((3, 4), np.float32))
    meta = {"format": 1, "embed_dim": 4, "modalities": {"image": "image"}, "weights": "w", "run": "r", "step": 1}
    table = pa.table({"id": ["a", "b"], "row": [1, 2]}).replace_schema_metadata({"clx": json.dumps(meta)})
    parquet.write_table(table, tmp_path / "e.ids.parquet")
    with pytest.raises(BadInput, match="do not belong together"):
        neighbours(EmbeddingFile.open(tmp_path / "e.npy"), "image", torch.ones(1, 4), 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "has format 2, and this version of clx reads format 1"),
        ({"format": 2, "weights": None}, "use the version that wrote it"),
        ({"format": None}, "format: Input should be a valid integer"),
        ({"embed_dim": "24"}, "embed_dim"),
        ({"modalities": {}}, "modalities"),
        ({"modalities": {"audio": "audio"}}, "column audio: expected vectors of 24 numbers, found null"),
        ({"embed_dim": 8}, "expected vectors of 8 numbers, found fixed_size_list"),
        ({"run": None}, "neither a run with its step nor a model with its weights"),
        ({"run": None, "model": "ViT-B-32"}, "neither a run with its step nor a model with its weights"),
        ([1], "not those of clx embed$"),
    ],
)
def test_spoiled_metadata_are_refused(tmp_path: Path, change: Any, said: str) -> None:
    meta = {"format": 1, "embed_dim": 24, "modalities": {"image": "image"}, "weights": "w", "run": "r", "step": 1}
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(48, np.float32)), 24)
    table = pa.table({"row": [1, 2], "id": ["a", "b"], "image": vectors})
    for name, noted in (("good", meta), ("bad", {**meta, **change} if isinstance(change, dict) else change)):
        parquet.write_table(table.replace_schema_metadata({"clx": json.dumps(noted)}), tmp_path / f"{name}.parquet")
    assert EmbeddingFile.open(tmp_path / "good.parquet").count() == 2
    with pytest.raises(BadInput, match=said):
        EmbeddingFile.open(tmp_path / "bad.parquet")


def test_a_row_is_found_by_its_number_in_the_data(tmp_path: Path) -> None:
    meta = {"format": 1, "embed_dim": 2, "modalities": {"image": "image"}, "weights": "w", "run": "r", "step": 1}
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(8, np.float32)), 2)
    table = pa.table({"row": [7, 9, 1, 9], "id": ["a", "b", "c", "d"], "image": vectors})
    parquet.write_table(table.replace_schema_metadata({"clx": json.dumps(meta)}), tmp_path / "e.parquet")
    file = EmbeddingFile.open(tmp_path / "e.parquet")
    assert file.places_of([7, 1]) == [0, 2]
    with pytest.raises(BadInput, match="--row 2: .* has rows 1 to 9 of the data"):
        file.places_of([2])
    with pytest.raises(BadInput, match=r"2 rows of this number, from several files \(b and d\)"):
        file.places_of([9])
    np.save(tmp_path / "plain.npy", np.ones((3, 4), np.float32))
    plain = EmbeddingFile.open(tmp_path / "plain.npy")
    assert plain.places_of([plain.about([1])[0]["row"]]) == [1]
    with pytest.raises(BadInput, match="has rows 1 to 3"):
        plain.places_of([4])


def test_small_parts_are_joined_to_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 400 bytes; a group has 1,000 at least, but for the last."""
    monkeypatch.setattr(embedding_parts, "GROUP", 1000)
    (tmp_path / "parts").mkdir()
    parts = embedding_parts.Parts(tmp_path / "parts", {}, False)
    for number in range(8):
        rows = pa.array(range(100 * number, 100 * number + (100 if number < 7 else 0)), pa.int32())
        parts.save(number, [pa.table({"row": rows})])
    out = tmp_path / "e.parquet"
    embedding_parts.write_whole(out, out, parts, 8, {"modalities": {}})
    noted = parquet.read_metadata(out)
    assert [noted.row_group(k).num_rows for k in range(noted.num_row_groups)] == [300, 300, 100]
    assert parquet.read_table(out)["row"].to_pylist() == list(range(700))
