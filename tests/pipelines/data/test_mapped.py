"""Large tables are converted once to Arrow files, which are mapped into memory."""

import errno
import gzip
import json
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clx.pipelines.config.data_schema import Data, Fraction
from clx.pipelines.data import json_files, mapped, shared_content
from clx.pipelines.data.draw import draw
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.missing_cells import missing_in
from clx.pipelines.data.splits import load_manifest
from clx.pipelines.system.errors import BadInput, ClxWarning

ROWS = 1000


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where tables are kept, of which all are large."""
    monkeypatch.setenv("CLX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mapped, "LARGE", 1)
    return tmp_path / "cache" / "tables"


def table(rows: int = ROWS) -> pa.Table:
    kinds = pa.array([f"kind {i % 3}" for i in range(rows)]).dictionary_encode()
    texts = [None if i % 7 == 0 else f"number {i}, a text" for i in range(rows)]
    return pa.table({"text": texts, "kind": kinds, "at": np.arange(rows)})


def write(path: Path, form: str) -> Path:
    path = path / f"a.{form}"
    if form == "parquet":
        pq.write_table(table(), path, row_group_size=128)
    elif form == "jsonl":
        path.write_text("".join(json.dumps({"at": i, "text": f"number {i}, a text"}) + "\n" for i in range(ROWS)))
    else:
        lines = ["text,at", *(f'"number {i}, a text",{i}' for i in range(ROWS))]
        path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_a_large_table_is_the_same_mapped_and_read(
    form: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, form)
    before = pa.total_allocated_bytes()
    ours = load_manifest(str(path))
    most, until = ours.table.nbytes / 4, time.monotonic() + 10
    while pa.total_allocated_bytes() - before >= most and time.monotonic() < until:
        time.sleep(0.02)  # threads of the reader let go of their blocks a little later
    held = pa.total_allocated_bytes() - before
    assert len(list(cache.glob("*.arrow"))) == 1
    monkeypatch.setattr(mapped, "LARGE", 1 << 40)
    theirs = load_manifest(str(path))
    assert ours.columns == theirs.columns
    assert [ours.row(i) for i in range(ROWS)] == [theirs.row(i) for i in range(ROWS)]
    assert (missing_in(ours, "text") == missing_in(theirs, "text")).all()
    assert held < most


def test_lines_of_json_have_the_columns_and_types_of_all_blocks(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[dict[str, object]] = [{"a": i, "t": f"text {i}"} for i in range(20)]
    rows += [
        {"a": 1.5, "b": {"x": "2024-01-01"}, "l": [1, 2]},
        {"b": {"y": 3, "x": "none"}, "t": "2024-01-02", "n": None},
    ]
    rows += [{"c": True, "d": ["2020-01-01"], "l": [0.5]}, {"d": ["x" * 300]}]
    text = "\ufeff" + "\n\n".join(map(json.dumps, rows))
    (tmp_path / "a.jsonl").write_text(text)
    monkeypatch.setattr(json_files, "BLOCK", 100)
    ours = load_manifest(str(tmp_path / "a.jsonl")).table
    assert list(cache.glob("*.arrow"))
    monkeypatch.undo()
    theirs = load_manifest(str(tmp_path / "a.jsonl")).table
    assert ours.schema == theirs.schema
    assert ours.to_pylist() == theirs.to_pylist()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"a": "x"}', "line 41: 'a' is text here and a number in line 1"),
        ('{"a": ', "line 41: not JSON"),
        ("[1, 2]", "line 41: expected one JSON object per line, found a list"),
    ],
)
def test_a_line_at_fault_is_named_also_where_it_is_in_another_block(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, line: str, said: str
) -> None:
    monkeypatch.setattr(json_files, "BLOCK", 100)
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' * 40 + line + "\n")
    with pytest.raises(BadInput, match=said):
        load_manifest(str(tmp_path / "a.jsonl"))


def test_a_table_is_weighed_as_it_is_in_memory(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one text as often as any"] * 100_000}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"at": np.arange(100_000)}), tmp_path / "b.parquet", use_dictionary=False)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 100_000))
    (tmp_path / "a.csv").write_bytes(b"a,b\n1,2\n")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and no more")
    found = {path.name: mapped.weight(path) for path in tmp_path.iterdir()}
    assert found["a.parquet"] == found["b.parquet"] // 100_000 * 100_000 == 800_000
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    assert found["a.csv.gz"] == 400_004
    assert found["a.csv"] == 8
    assert found["damaged.parquet"] == 16


def test_a_table_is_converted_once_and_anew_where_the_file_has_changed(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path, "parquet")
    load_manifest(str(path))
    (kept,) = cache.glob("*.arrow")
    inode = kept.stat().st_ino
    load_manifest(str(path))
    assert [one.stat().st_ino for one in cache.glob("*.arrow")] == [inode]
    pq.write_table(table(ROWS + 1), path)
    assert len(load_manifest(str(path))) == ROWS + 1


def test_a_full_disk_is_said_and_the_table_read_into_memory(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(mapped, "_convert", full)
    with pytest.warns(ClxWarning, match=r"No space left on device: a\.parquet is read into memory.*CLX_CACHE"):
        assert len(load_manifest(str(write(tmp_path, "parquet")))) == ROWS


def test_what_a_killed_conversion_leaves_is_no_table(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "csv")
    with monkeypatch.context() as patch:
        patch.setattr(mapped.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            load_manifest(str(path))
    assert not list(cache.glob("*.arrow"))
    assert len(load_manifest(str(path))) == ROWS


def test_a_large_table_that_is_damaged_is_an_error_in_one_line(tmp_path: Path, cache: Path) -> None:
    whole = write(tmp_path, "parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[:4000] + bytes(2000) + whole[6000:])
    with pytest.raises(BadInput, match=r"a\.parquet: "):
        load_manifest(str(tmp_path / "a.parquet"))
    (tmp_path / "b.csv").write_text("a,b\n1,2\n" + "3\n4,5\n")
    with pytest.raises(BadInput, match="row 2: 1 cells"):
        load_manifest(str(tmp_path / "b.csv"))
    assert not list(cache.glob("*.arrow"))


def test_rows_that_share_content_are_held_together_where_there_are_very_many(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"a sentence about thing {i % 450} there" for i in range(900)]
    manifest = Manifest("a", Path(), pa.table({"text": texts}), np.arange(900))
    few = shared_content.sharing(manifest, {"text": False})
    monkeypatch.setattr(shared_content, "LARGE", 100)
    many = shared_content.sharing(manifest, {"text": False})
    assert many.columns == few.columns == ("text",)
    same = few.groups[:, None] == few.groups
    assert (same == (many.groups[:, None] == many.groups)).all()
    train, val = draw(manifest, Fraction(fraction=0.2), Data(train="a"), 0, {"text": False})
    assert not {*train.column("text")} & {*val.column("text")}


def test_shards_are_mapped_where_they_are_large_together(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for split in ("train", "val"):
        pq.write_table(table(), folder / f"{split}-00000-of-00001.parquet")
    size = mapped.weight(folder / "train-00000-of-00001.parquet")
    monkeypatch.setattr(mapped, "LARGE", size + 1)
    manifest = load_manifest(str(folder))
    assert len(list(cache.glob("*.arrow"))) == 2
    assert [manifest.row(i)["split"] for i in (0, ROWS)] == ["train", "val"]
    monkeypatch.setattr(mapped, "LARGE", 2 * size + 1000)
    (tmp_path / "one.parquet").write_bytes((folder / "val-00000-of-00001.parquet").read_bytes())
    load_manifest(str(tmp_path / "one.parquet"))
    assert len(list(cache.glob("*.arrow"))) == 2
