"""Rows whose images are elsewhere: many are fetched at once, by this process and by workers."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from clx.modalities.image import Image
from clx.pipelines.batches.cells import cells
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import Lost, batches, once
from clx.pipelines.data.splits import load_manifest
from clx.pipelines.system import remote
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.remote import Unreachable
from command import Command
from file_server import FileServer, served

pytest.importorskip("aiohttp", reason="clx[remote] is not installed")
ROWS = 12


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    (tmp_path / "i").mkdir()
    for i in range(ROWS):
        held = io.BytesIO()
        Pillow.fromarray(np.full((4, 4, 3), 10 * i, dtype=np.uint8)).save(held, "PNG")
        (tmp_path / "i" / f"{i}.png").write_bytes(held.getvalue())
    lines = [f"i/{i}.png,{'ab'[i % 2]}\n" for i in range(ROWS)]
    (tmp_path / "p.csv").write_text("image,label\n" + "".join(lines))
    with served(tmp_path) as made:
        yield made


def levels(data: BatchDataset, workers: int) -> list[int]:
    """The grey of each row, told by batches of four."""
    made = batches(data, once(ROWS, 4), workers)
    return [int(x) for batch in made for x in batch.inputs["image"]["x"].float().amax((1, 2, 3))]


def test_workers_fetch_what_this_process_fetches(server: FileServer) -> None:
    manifest = load_manifest(f"{server.url}/p.csv")
    alone = levels(BatchDataset(manifest, {"image": Image(size=4)}), 0)
    assert len(alone) == len(set(alone)) == ROWS
    assert levels(BatchDataset(manifest, {"image": Image(size=4)}), 2) == alone
    assert all(server.asked[f"i/{i}.png"] == 2 for i in range(ROWS))


def test_what_the_cache_holds_is_not_fetched_again(server: FileServer) -> None:
    manifest = load_manifest(f"{server.url}/p.csv")
    for workers in (0, 1):
        data = BatchDataset(manifest, {"image": Image(size=4)}, cache="memory")
        server.asked.clear()
        assert levels(data, workers) == levels(data, workers)
        assert all(server.asked[f"i/{i}.png"] == 1 for i in range(ROWS))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_server_that_fails_ends_the_work_with_one_line(server: FileServer, workers: int) -> None:
    server.faults["i/7.png"] = 503
    for on_bad in ("fail", "skip"):  # to leave rows out because a network is down would lose them unseen
        data = BatchDataset(load_manifest(f"{server.url}/p.csv"), {"image": Image(size=4)}, on_bad=on_bad)
        with pytest.raises(Lost, match=rf"^{server.url}/i/7.png: the server answers 503 \(tried 4 times\)$"):
            levels(data, workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_not_there_is_a_bad_row(server: FileServer, workers: int) -> None:
    (server.folder / "i" / "7.png").unlink()
    manifest = load_manifest(f"{server.url}/p.csv")
    with pytest.raises(BadInput, match=r"p.csv row 8, column image: .*i/7.png: no such file there \(404\)$"):
        levels(BatchDataset(manifest, {"image": Image(size=4)}), workers)
    assert len(levels(BatchDataset(manifest, {"image": Image(size=4)}, on_bad="skip"), workers)) == ROWS - 1


def test_fit_is_given_bytes(server: FileServer) -> None:
    image = Image(size=4)
    found = list(cells(load_manifest(f"{server.url}/p.csv"), "image", image))
    assert [torch.is_tensor(image.read(cell)) for cell in found if isinstance(cell, bytes)] == [True] * ROWS
    server.faults["i/3.png"] = 500
    with pytest.raises(Unreachable, match=r"i/3.png: the server answers 500"):
        list(cells(load_manifest(f"{server.url}/p.csv"), "image", image))


def test_the_command_says_one_line_and_no_secret(server: FileServer, clx: Command, tmp_path: Path) -> None:
    done = clx("data", "check", f"{server.url}/none.csv?sig=SECRET")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [f"error: {server.url}/none.csv: no such file there (404)"]
    source = f"{server.url.replace('//', '//me:SECRET@')}/p.csv"
    train, image = {"batch_size": 4, "steps": 1}, {"size": 8, "views": 2}
    config = {"data": {"train": source}, "modalities": {"image": image}, "objective": "nt-xent", "train": train}
    (tmp_path / "closed.yaml").write_text(json.dumps(config))
    assert clx("train", tmp_path / "closed.yaml", "--dry-run", "--profile").returncode == 2
    done = clx("train", tmp_path / "closed.yaml", "--dry-run")
    assert ("SECRET" in done.stdout + done.stderr, done.returncode) == (False, 0), done.stderr
    done = clx("data", "check", f"{server.url}/p.csv", "--json")
    assert done.returncode == 0, done.stderr
