"""Cells that are a piece of a large file: members of tar files, and cells of row groups elsewhere."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow

from clx.modalities.base import CellError
from clx.modalities.image import Image
from clx.pipelines.batches.cells import cell_at, read_cell
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import Order, batches, once
from clx.pipelines.config.data_schema import Data, Fraction
from clx.pipelines.data import mapped, row_groups
from clx.pipelines.data.cell_files import fetched, resolve
from clx.pipelines.data.column_kinds import kinds_of
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.row_groups import blocks_of, training_blocks
from clx.pipelines.data.splits import load_manifest, load_splits
from clx.pipelines.system import remote
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.remote import Unreachable
from file_server import FileServer, served

pytest.importorskip("aiohttp", reason="clx[remote] is not installed")
ROWS, GROUP = 60, 5


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Where all files are large."""
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    monkeypatch.setattr(mapped, "LARGE", 1)
    monkeypatch.setenv("CLX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "there").mkdir()
    with served(tmp_path / "there") as made:
        yield made
    forget()


def forget() -> None:
    """As a new process would."""
    remote.known_once.cache_clear()
    row_groups._footers.clear()
    row_groups._held.clear()


def grey(level: int) -> bytes:
    held = io.BytesIO()
    Pillow.fromarray(np.full((4, 4, 3), level, dtype=np.uint8)).save(held, "PNG")
    return held.getvalue()


def tar(path: Path, first: int, mode: str = "w") -> Path:
    """Ten images with texts, classes and facts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for i in range(first, first + 10):
            members = {"png": grey(i), "txt": f"number {i}".encode(), "json": b'{"size": %d}' % i, "what": grey(i)}
            for end, content in members.items():
                info = tarfile.TarInfo(f"./{i:04}.{end}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def seen(manifest: Manifest, column: str = "image") -> list[int]:
    """The grey of each row's image."""
    image = Image(size=4, column=column)
    found = [read_cell(image, cell_at(manifest, i, "image", image)) for i in range(len(manifest))]
    return [int(each.max()) for each in found]


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_members_of_tar_files_are_read_where_they_are(where: str, server: FileServer) -> None:
    for k in range(3):
        tar(server.folder / "train" / f"{k:03}.tar", 10 * k)
    tar(server.folder / "test" / "000.tar", 100)
    top = str(server.folder) if where == "here" else server.url
    splits = load_splits(Data(train=f"{top}/"), 0)
    assert {split: seen(rows) for split, rows in splits.items()} == {"train": [*range(30)], "test": [*range(100, 110)]}
    for name in ("A.TAR", "a.tar.gz"):  # which is not compressed
        assert seen(load_manifest(str(tar(server.folder / "b" / name, 0)))) == [*range(10)]
    one = load_manifest(f"{top}/test/000.tar")
    assert seen(one) == seen(one, "what") == [*range(100, 110)]
    assert one.row(3)["text"] == "number 103"
    assert (one.row(3)["size"], one.row(3)["key"]) == (103, "./0103")
    assert one.row(0)["image"].startswith("000.tar#")
    assert (kinds_of(one)["image"].kind, one.table.nbytes < 5000) == ("image", True)
    if where == "elsewhere":
        assert not list(Path(os.environ["CLX_CACHE"]).rglob("*.tar"))
        asked = server.asked.total()
        forget()
        load_manifest(f"{top}/test/000.tar")
        assert server.asked.total() == asked  # what is where is in the cache folder


@pytest.mark.parametrize("source", ["train/{000..001}.tar", "train/00[01].tar", "train/*1.tar"])
@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_patterns_name_many(where: str, source: str, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "LARGE", 1 << 30)
    for k in range(3):
        tar(server.folder / "train" / f"{k:03}.tar", 10 * k)
    manifest = load_manifest(f"{server.folder if where == 'here' else server.url}/{source}")
    assert seen(manifest) == ([*range(10, 20)] if "*" in source else [*range(20)])
    with pytest.raises(BadInput, match=r"train/x\*.tar: no (such )?file"):
        load_manifest(f"{server.folder if where == 'here' else server.url}/train/x*.tar")


def test_a_compressed_tar_is_read_as_ever(server: FileServer) -> None:
    assert seen(load_manifest(str(tar(server.folder / "a.tar.gz", 0, "w:gz")))) == [*range(10)]
    assert seen(load_manifest(f"{server.url}/a.tar.gz")) == [*range(10)]


def test_a_tar_that_breaks_off_is_one_line(server: FileServer) -> None:
    path = tar(server.folder / "a.tar", 0)
    content = path.read_bytes()
    path.write_bytes(content[:5000])
    for source in (str(path), f"{server.url}/a.tar"):
        with pytest.raises(BadInput, match="a.tar: not a whole tar file"):
            load_manifest(source)
    path.write_bytes(content)
    manifest = load_manifest(str(path))
    path.write_bytes(content[:5000])
    with pytest.raises(CellError, match="breaks off"):
        seen(manifest)


def parquet(path: Path, first: int = 0, rows: int = ROWS, nested: bool = False) -> None:
    """Images in bytes, sorted by grey."""
    images: list[object] = [grey(i) for i in range(first, first + rows)]
    kind = pa.binary()
    if nested:
        images = [{"bytes": each, "path": None} for each in images]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = [f"number {i} of many" for i in range(first, first + rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": pa.array(images, kind), "text": texts}), path, row_group_size=GROUP)


@pytest.mark.parametrize("nested", [False, True])
def test_large_parquet_is_read_by_row_groups(nested: bool, server: FileServer) -> None:
    for k in range(2):
        parquet(server.folder / f"p-{k}.parquet", 100 * k, ROWS, nested)
    manifest = load_manifest(f"{server.url}/p-*.parquet")
    assert manifest.columns == ["image", "text"]
    assert kinds_of(manifest)["image"].kind == "image"
    assert manifest.column("text")[61] == "number 101 of many"
    blocks = blocks_of(manifest)
    assert blocks is not None
    assert blocks.tolist() == list(range(0, 2 * ROWS + 1, GROUP))
    assert "24 of them; training mixes the rows of 16" in manifest.notes[0]
    assert seen(manifest) == [*range(ROWS), *range(100, 100 + ROWS)]
    tables = list(Path(os.environ["CLX_CACHE"], "tables").glob("*.arrow"))
    assert tables
    assert not any(b"PNG" in path.read_bytes() for path in tables)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_fetches_each_row_group_once(workers: int, server: FileServer) -> None:
    parquet(server.folder / "p.parquet", 0, 100)
    splits = load_splits(Data(train=f"{server.url}/p.parquet", val=Fraction(fraction=0.1)), 0)
    manifest = splits["train"]
    blocks = blocks_of(manifest)
    assert blocks is not None
    assert blocks[-1] == len(manifest) == 90
    data = BatchDataset(manifest, {"image": Image(size=4)})
    server.asked.clear()
    order = Order(len(manifest), 10, 0, start=0, stop=9, blocks=blocks)
    made = [batch.sample_id.tolist() for batch in batches(data, order, workers)]
    assert sorted(sum(made, [])) == manifest.rows.tolist()
    groups = [name for name, count in server.asked.items() for _ in range(count) if _is_group(name)]
    assert len(groups) == len(set(groups)) <= 20


def test_what_a_url_hides_and_quotes_holds_for_the_pieces_of_its_file(server: FileServer) -> None:
    parquet(server.folder / "a b" / "p q.parquet")
    tar(server.folder / "a b" / "t t.tar", 0)
    server.signature = "?sig=x"
    for url, count in (("a%20b/p%20q.parquet", ROWS), ("a%20b/t%20t.tar", 10)):
        manifest = load_manifest(f"{server.url}/{url}?sig=x")
        assert seen(manifest) == [*range(count)]
        assert "sig=x" not in f"{manifest!r} {manifest.table.to_pylist()}"
        with pytest.raises(BadInput, match="leaves"):
            resolve("%2e%2e/x.tar#0+10/a.png", manifest)


def test_many_columns_of_files(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has row groups of its own in the cache folder."""
    monkeypatch.setattr(row_groups, "KEPT", 4)
    monkeypatch.setattr(row_groups, "OPENED", 2)
    columns = ["a", "b/c", "100%", "d.png"]
    cells = [grey(i) for i in range(20)]
    pq.write_table(pa.table(dict.fromkeys(columns, cells)), server.folder / "p.parquet", row_group_size=GROUP)
    manifest = load_manifest(f"{server.url}/p.parquet")
    server.asked.clear()
    for i in [*range(0, 20, GROUP)] * 2:
        for column in columns:
            assert fetched(cell_at(manifest, i, "x", Image(column=column))) == cells[i]
    assert not [name for name, count in server.asked.items() if _is_group(name) and count > 1]


def test_samples_on_disk_are_of_the_table_as_it_is_now(server: FileServer) -> None:
    for first in (0, 100):
        parquet(server.folder / "p.parquet", first, 10)
        forget()
        data = BatchDataset(load_manifest(f"{server.url}/p.parquet"), {"image": Image(size=4)}, cache="disk")
        (batch,) = batches(data, once(10, 10))
        assert batch.inputs["image"]["x"].amax((1, 2, 3)).tolist() == [*range(first, first + 10)]


def _is_group(asked: str) -> bool:
    """Whether a request was for part of a file and not for its end."""
    return "-" in asked and not asked.endswith(f"-{asked}")


def test_rows_from_anywhere_are_refused(server: FileServer) -> None:
    parquet(server.folder / "p.parquet")
    manifest = load_manifest(f"{server.url}/p.parquet")
    assert training_blocks(manifest) is not None
    with pytest.raises(BadInput, match="p.parquet is fetched by row groups: data.balance.by: weights does not"):
        training_blocks(manifest, "data.balance.by: sampling")
    with pytest.raises(BadInput, match="train.batches takes rows from anywhere, and .*p.parquet is fetched by row"):
        training_blocks(manifest, "train.batches")
    (server.folder / "a.csv").write_text("text\nanother\n")
    several = load_splits(Data(train=[f"{server.url}/p.parquet", str(server.folder / "a.csv")]), 0)["train"]
    with pytest.raises(BadInput, match="p.parquet is fetched by row groups: a pattern"):
        training_blocks(several)


def test_a_server_that_fails_in_the_middle(server: FileServer) -> None:
    parquet(server.folder / "p.parquet")
    manifest = load_manifest(f"{server.url}/p.parquet")
    server.faults["p.parquet"] = 503
    with pytest.raises(Unreachable, match=r"p.parquet: the server answers 503 \(tried 4 times\)"):
        seen(manifest)
    server.faults["p.parquet"] = 403
    with pytest.raises(CellError, match=r"p.parquet: access denied \(403\)"):
        seen(manifest)


def test_a_server_without_ranges_says_so(server: FileServer) -> None:
    parquet(server.folder / "p.parquet")
    server.ranges = False
    with pytest.raises(BadInput, match="gives whole files only"):
        load_manifest(f"{server.url}/p.parquet")


def test_paths_of_pieces_stay_below_their_folder(server: FileServer) -> None:
    (server.folder / "in").mkdir()
    tar(server.folder / "secret.tar", 0)
    (server.folder / "in" / "a.csv").write_text("image\n../secret.tar#512+10/a.png\n/etc/x.tar#0+10/a.png\n")
    manifest = load_manifest(str(server.folder / "in" / "a.csv"))
    for row in range(2):
        with pytest.raises(BadInput, match="leaves"):
            cell_at(manifest, row, "image", Image())
    os.mkfifo(server.folder / "in" / "pipe.tar")
    for text, said in [
        ("pipe.tar#0+10/a.png", "a pipe"),
        ("x.parquet#0:1/a.png", "no row group"),
        ("b.tar#0+1/a", "no"),
    ]:
        (server.folder / "in" / "a.csv").write_text(f"image,n\n{text},1\n")
        with pytest.raises(CellError, match=said):
            seen(load_manifest(str(server.folder / "in" / "a.csv")))
