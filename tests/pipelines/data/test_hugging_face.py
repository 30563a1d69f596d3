"""Structs and class names as Hugging Face's `datasets` writes them."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import soundfile

from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.readers import read_file


def manifest(table: pa.Table) -> Manifest:
    return Manifest("t", Path("."), table, np.arange(len(table)))


def test_structs_are_what_they_stand_for() -> None:
    table = pa.table(
        {
            "image": pa.array([{"bytes": b"x", "path": "a.png"}, {"bytes": None, "path": "b.png"}, None]),
            "images": pa.array([[{"bytes": b"x", "path": None}, {"bytes": None, "path": "b.png"}], [], None]),
            "words": pa.array([[{"raw": "a cat", "sentid": 1}, {"raw": " ", "sentid": 2}], None, [{"raw": "b"}]]),
            "box": pa.array([{"x": 1}, None, {"x": 2}]),
            "path": pa.array([{"path": "a.wav"}, {"path": None}, None]),
        }
    )
    rows = manifest(table)
    assert rows.column("image") == [b"x", "b.png", None]
    assert rows.column("images") == [[b"x", "b.png"], [], None]
    assert rows.column("words") == [["a cat"], None, ["b"]]
    assert rows.column("box") == [{"x": 1}, None, {"x": 2}]
    assert rows.column("path") == ["a.wav", None, None]


def test_decoded_sound_is_a_file_of_the_same_samples() -> None:
    samples = [0.0, 0.25, -0.5, 1.0]
    stereo = [[0.0, 0.25, 0.5], [1.0, 0.5, 0.0]]
    alone = manifest(pa.table({"audio": pa.array([{"array": samples, "sampling_rate": 8000}])}))
    both = manifest(pa.table({"audio": pa.array([{"array": stereo, "sampling_rate": 16000}])}))
    for rows, rate, expected in ((alone, 8000, samples), (both, 16000, np.transpose(stereo))):
        wave, found = soundfile.read(io.BytesIO(rows.cell(0, "audio")))
        assert found == rate
        np.testing.assert_array_equal(wave, expected)


def test_classes_have_their_names(tmp_path: Path) -> None:
    one, set_of = {"names": ["plane", "ship"], "_type": "ClassLabel"}, {"_type": "Sequence"}
    features = {"a": one, "b": {"feature": one, **set_of}, "c": [one], "d": {"dtype": "int64", "_type": "Value"}}
    table = pa.table({"a": [1, 0, -1], "b": [[0, 1], [], None], "c": [[1], [0], [1]], "d": [1, 0, 1]})
    described = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(described, tmp_path / "a.parquet")
    read = read_file(tmp_path / "a.parquet", "a.parquet").to_pydict()
    assert read == {
        "a": ["ship", "plane", None],
        "b": [["plane", "ship"], [], None],
        "c": [["ship"], ["plane"], ["ship"]],
        "d": [1, 0, 1],
    }


def test_a_description_of_another_shape_is_none(tmp_path: Path) -> None:
    for text in ("{}", "[]", "no json", '{"info": {"features": [1]}}'):
        table = pa.table({"a": [1, 0]}).replace_schema_metadata({"huggingface": text})
        parquet.write_table(table, tmp_path / "a.parquet")
        assert read_file(tmp_path / "a.parquet", "a.parquet").to_pydict() == {"a": [1, 0]}
