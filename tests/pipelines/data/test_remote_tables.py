"""Tables and cells elsewhere are read as those of this machine are."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clx.modalities.base import CellError
from clx.modalities.image import Image
from clx.pipelines.batches.cells import cell_at, read_cell
from clx.pipelines.config.data_schema import Data
from clx.pipelines.data import remote_tables
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.patterns import expanded
from clx.pipelines.data.splits import load_manifest, load_splits
from clx.pipelines.system import remote
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.remote import Unreachable
from clx.pipelines.use.embed import describe
from file_server import FileServer, served

pytest.importorskip("aiohttp", reason="clx[remote] is not installed")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    monkeypatch.setenv("CLX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "there").mkdir()
    with served(tmp_path / "there") as made:
        yield made
    remote.known_once.cache_clear()


def contents(first: int = 0) -> dict[str, bytes]:
    """The same table in every form, some in pieces."""
    rows = [{"text": f"row {i}, said", "number": i} for i in range(first, first + 6)]
    table = pa.table({key: [row[key] for row in rows] for key in rows[0]})
    held = io.BytesIO()
    pq.write_table(table, held, row_group_size=2)
    csv = "text,number\n" + "".join(f'"{row["text"]}",{row["number"]}\n' for row in rows)
    return {
        "a.csv": csv.encode(),
        "a.tsv": csv.replace(",", "\t").replace("\t said", ", said").encode(),
        "a.jsonl": "".join(f'{{"text": "{row["text"]}", "number": {row["number"]}}}\n' for row in rows).encode(),
        "a.parquet": held.getvalue(),
    }


def put(server: FileServer, where: str, files: dict[str, bytes]) -> str:
    """The files at a place called `where`: the folder's URL."""
    if where == "memory":
        fsspec.filesystem("memory").pipe({f"/tables/{name}": content for name, content in files.items()})
        return "memory://tables"
    for name, content in files.items():
        (server.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (server.folder / name).write_bytes(content)
    return server.url


@pytest.mark.parametrize("where", ["memory", "web"])
def test_each_form_is_read(where: str, server: FileServer) -> None:
    folder = put(server, where, contents())
    for name in contents():
        found = load_manifest(f"{folder}/{name}")
        assert [(row["text"], int(row["number"])) for row in map(found.row, range(6))] == [
            (f"row {i}, said", i) for i in range(6)
        ]
        assert found.where(0) == f"{folder}/{name} row 1"


@pytest.mark.parametrize("where", ["memory", "web"])
def test_folders_and_patterns_are_shards(where: str, server: FileServer) -> None:
    shards = {f"s/part-{k:02}.parquet": contents(10 * k)["a.parquet"] for k in range(8, 11)}
    folder = put(server, where, shards | {"s/notes.md": b"none"})
    for source in ("s/", "s/*.parquet", "s/part-{08..10}.parquet", "s/part-{08,09,10}.parquet"):
        found = load_manifest(f"{folder}/{source}")
        assert found.column("number") == [*range(80, 86), *range(90, 96), *range(100, 106)], source
        assert found.where(7) == f"{folder}/s/part-09.parquet row 2"
    assert load_manifest(f"{folder}/s/part-1?.parquet".replace("?", "[0]")).column("number") == [*range(100, 106)]
    with pytest.raises(BadInput, match=r"s/\*.csv: no file there matches"):
        load_manifest(f"{folder}/s/*.csv")
    with pytest.raises(BadInput, match=r"part-11.parquet: no such file there"):
        load_manifest(f"{folder}/s/part-{{10..11}}.parquet")
    splits = {f"t/{split}/0.csv": contents()["a.csv"] for split in ("train", "test")}
    put(server, where, splits)
    assert list(load_splits(Data(train=f"{folder}/t/"), 0)) == ["train", "test"]


def test_braces() -> None:
    assert expanded("a{1..3}b{x,y}") == ["a1bx", "a1by", "a2bx", "a2by", "a3bx", "a3by"]
    assert expanded("plain") == ["plain"]
    with pytest.raises(BadInput, match="stands for over 100000 files"):
        expanded("{0..999999}")
    with pytest.raises(BadInput, match="{9..0} counts down"):
        expanded("a{9..0}")


def test_a_table_is_fetched_once_and_again_when_it_changes(server: FileServer) -> None:
    source = put(server, "web", contents()) + "/a.csv"
    first = load_manifest(source)
    load_manifest(source)
    assert server.asked["a.csv"] == 1
    remote.known_once.cache_clear()  # as another command
    assert describe(load_manifest(source)) == describe(first)
    assert server.asked["a.csv"] == 1
    put(server, "web", {"a.csv": contents(7)["a.csv"]})
    remote.known_once.cache_clear()
    changed = load_manifest(source)
    assert (changed.cell(0, "number"), server.asked["a.csv"]) == ("7", 2)
    assert describe(changed) != describe(first)


def test_where_nothing_tells_of_a_change_each_command_fetches(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.etags = False
    source = put(server, "web", contents()) + "/a.csv"
    first = load_manifest(source)
    monkeypatch.setattr(remote_tables, "_fetched", set())
    assert describe(load_manifest(source)) == describe(first)
    assert server.asked["a.csv"] == 2


def test_without_a_folder_for_caches(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLX_CACHE", "")
    assert len(load_manifest(put(server, "web", contents()) + "/a.jsonl")) == 6


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.csv?sig=SECRET", "none.csv: no such file there (404)"),
        ("denied.csv?sig=SECRET", "denied.csv: access denied (403)"),
        ("cut.csv?sig=SECRET", "cut.csv: the file breaks off before its end (tried 4 times)"),
        ("page.csv", "page.csv: there is a header but no rows of data"),
        ("empty/", "empty/: no table in this folder"),
    ],
)
def test_what_cannot_be_had_is_one_line(name: str, said: str, server: FileServer) -> None:
    put(
        server,
        "web",
        {"denied.csv": b"a\n1\n", "cut.csv": contents()["a.csv"], "page.csv": b"<html>\n", "empty/x.md": b""},
    )
    server.faults |= {"denied.csv": 403, "cut.csv": "cut"}
    with pytest.raises(BadInput) as error:
        load_manifest(f"{server.url}/{name}")
    assert said in str(error.value)
    assert "SECRET" not in str(error.value)
    assert "\n" not in str(error.value)
    cache = Path(os.environ["CLX_CACHE"])
    assert not [path for path in cache.rglob("cut.csv")]


@pytest.fixture
def pictures(server: FileServer) -> Manifest:
    """Images by paths beside their table, by URLs, and some that are not to be had."""
    from PIL import Image as Pillow

    held = io.BytesIO()
    Pillow.fromarray(np.full((4, 4, 3), 200, dtype=np.uint8)).save(held, "PNG")
    far = f"{server.url}/elsewhere/c d.png"
    cells = ["i/a b.png", f"{far}?sig=SECRET", "i/none.png", "../x.png", "file:///etc/passwd", "i/cut.png", "i/bad.png"]
    files = {"i/a b.png": held.getvalue(), "elsewhere/c d.png": held.getvalue(), "i/cut.png": held.getvalue()}
    table = "image,text\n" + "".join(f"{cell},one\n" for cell in cells)
    put(server, "web", {f"sub/{name}" if name[0] == "i" else name: content for name, content in files.items()})
    put(server, "web", {"sub/p.csv": table.encode(), "sub/i/bad.png": b"\x89PNG\r\n\x1a\nno"})
    server.faults["sub/i/cut.png"] = "cut"
    return load_manifest(f"{server.url}/sub/p.csv")


def test_cells_count_from_the_folder_of_their_table(pictures: Manifest, server: FileServer) -> None:
    image = Image(size=4)
    for row in (0, 1):
        assert read_cell(image, cell_at(pictures, row, "image", image)).unique().tolist() == [200]
    for row, said in [(2, r"sub/i/none.png: no such file there \(404\)"), (6, "truncated PNG")]:
        with pytest.raises(CellError, match=said):
            read_cell(image, cell_at(pictures, row, "image", image))
    for row, said in [(3, "leaves http"), (4, "of a kind that is not read")]:
        with pytest.raises(BadInput, match=said):
            cell_at(pictures, row, "image", image)
    with pytest.raises(Unreachable, match="cut.png: the file breaks off"):
        read_cell(image, cell_at(pictures, 5, "image", image))
