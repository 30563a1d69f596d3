"""Samples that are kept are those that were read, by whichever process, until their file changes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from clx.modalities.audio import Audio
from clx.modalities.base import Modality
from clx.modalities.image import Image
from clx.modalities.series import Series
from clx.modalities.text import Text
from clx.pipelines.batches import sample_cache
from clx.pipelines.batches.batch import Batch
from clx.pipelines.batches.cells import cell_at
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import batches, once
from clx.pipelines.batches.sample_cache import packed, unpacked
from clx.pipelines.config.options import options_of
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.splits import load_manifest
from clx.pipelines.system.errors import ClxWarning
from samples import png

ROWS = 6


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLX_CACHE", str(tmp_path / "caches"))
    return tmp_path / "caches"


@pytest.fixture
def rows(tmp_path: Path) -> Manifest:
    """Files of images, two of them for every second row, of sounds and of series."""
    draw = np.random.default_rng(0)
    lines = ["image,speech,walk,text"]
    for i in range(ROWS):
        (tmp_path / f"{i}.png").write_bytes(png(i))
        soundfile.write(tmp_path / f"{i}.wav", draw.normal(0, 0.1, 800 + 10 * i), 8000)
        np.save(tmp_path / f"{i}.npy", draw.normal(0, 1, (30 + i, 2)))
        lines.append(f"{i}.png,{i}.wav,{i}.npy#0:20,row {i}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    return load_manifest(str(tmp_path / "m.csv"))


def inputs(size: int = 8) -> dict[str, Modality]:
    speech = Audio(sample_rate=8000, column="speech")
    return {"image": Image(size=size), "speech": speech, "walk": Series(column="walk", scale="none"), "text": Text()}


def made(data: BatchDataset, workers: int) -> list[Batch]:
    return list(batches(data, once(len(data), 4), workers))


def same(a: list[Batch], b: list[Batch]) -> bool:
    """Whether batches have equal tensors of the inputs."""
    told: list[dict[str, torch.Tensor]] = [
        {f"{k} {n} {p}": t for k, batch in enumerate(x) for n, v in batch.inputs.items() for p, t in v.items()}
        for x in (a, b)
    ]
    return told[0].keys() == told[1].keys() and all(torch.equal(told[0][k], told[1][k]) for k in told[0])


def spoil(folder: Path, names: list[str], touch: bool) -> None:
    """Other bytes in the place of the files'; they look unchanged unless `touch`."""
    for name in names:
        before = (folder / name).stat()
        (folder / name).write_bytes(b"x" * before.st_size)
        os.utime(folder / name, ns=(before.st_atime_ns, before.st_mtime_ns + touch))


FILES = [f"{i}.{end}" for i in range(ROWS) for end in ("png", "wav", "npy")]


@pytest.mark.parametrize(
    ("where", "workers", "augment"),
    [
        *(("memory", 0, False), ("memory", 2, True), ("disk", 0, True), ("disk", 2, False)),
        *(
            pytest.param("memory", workers, augment, marks=pytest.mark.slow)
            for workers, augment in ((0, True), (2, False))
        ),
        *(
            pytest.param("disk", workers, augment, marks=pytest.mark.slow)
            for workers, augment in ((0, False), (2, True))
        ),
    ],
)
def test_the_second_epoch_needs_no_files(
    rows: Manifest, tmp_path: Path, where: Any, workers: int, augment: bool
) -> None:
    plain = made(BatchDataset(rows, inputs(), augment=augment), 0)
    data = BatchDataset(rows, inputs(), augment=augment, cache=where)
    assert same(made(data, workers), plain)
    spoil(tmp_path, FILES, touch=False)
    assert same(made(data, workers), plain)
    again = BatchDataset(rows, inputs(), augment=augment, cache=where, on_bad="skip")
    if where == "disk":
        assert same(made(again, workers), plain), "the next run has them as well"
        spoil(tmp_path, ["3.png"], touch=True)
        assert 3 not in [int(i) for batch in made(again, workers) for i in batch.sample_id]
    else:
        assert not any(len(batch) for batch in made(again, workers))


def test_other_options_and_other_rows_are_other_samples(rows: Manifest, tmp_path: Path, home: Path) -> None:
    made(BatchDataset(rows, inputs(), cache="disk"), 0)
    count = len(list((home / "samples").iterdir()))
    assert count == 3, "images, sounds and series; texts are read as fast"
    larger = made(BatchDataset(rows, inputs(size=12), cache="disk"), 0)
    assert larger[0].inputs["image"]["x"].shape[2:] == (12, 12)
    assert len(list((home / "samples").iterdir())) == count + 1
    wide = {"image": Image(size=8, width=8, augmentation="none")}
    made(BatchDataset(rows, wide, cache="disk"), 0)
    assert len(list((home / "samples").iterdir())) == count + 1, "how wide the encoder is changes no sample"
    lines = (tmp_path / "m.csv").read_text().splitlines()
    (tmp_path / "m.csv").write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    turned = load_manifest(str(tmp_path / "m.csv"))
    assert same(made(BatchDataset(turned, inputs(), cache="disk"), 0), made(BatchDataset(turned, inputs()), 0))


OTHER: dict[str, Any] = {
    **{"column": "other", "views": 2, "drop": 0.1, "head": "mlp", "augmentation": "strong", "several": "one"},
    **{"lora": None, "checkpointing": True, "freeze": True, "width": 64, "depth": 2, "norm": "group", "flip": True},
    **{"size": 12, "channels": 1, "white": 200, "sample_rate": 4000, "max_seconds": 0.05, "seconds": 0.2, "mels": 32},
    **{"layers": 2, "dropout": 0.3, "pool": "last", "scale": "per-series", "gaps": "indicate", "max_steps": 5},
    **{"time": True, "layout": "channels-first", "head_dropout": 0.3, "noise": 0.1, "step_encoder": {}},
}
"""Another value of each option."""
BY_ENCODER = {"encoder", "pretrained", "unlocked", "like", "pair", "mix", "crop"}
"""Options that go with others; the first two say how large an image is."""


@pytest.mark.parametrize("kind", [Image, Audio, Series])
def test_options_that_change_nothing_in_reading_keep_the_cache(kind: Any, rows: Manifest, home: Path) -> None:
    column = {Image: "image", Audio: "speech", Series: "walk"}[kind]
    speech = {"encoder": "mel-transformer", "sample_rate": 8000}
    given = {Image: {"encoder": "cnn", "size": 8}, Audio: speech, Series: {"scale": "none"}}[kind]

    def folder_and_sample(**changed: Any) -> tuple[Path, Any]:
        modality = kind(**given | changed)
        cell = cell_at(rows, 1, column, kind(**given | {"column": column}))
        return sample_cache._folder("x", modality, rows), modality.read(cell)

    before, sample = folder_and_sample()
    for option in options_of(kind(**given)):
        if option in BY_ENCODER:
            continue
        encoder = {"encoder": "dilated"} if option == "pool" else {}
        after, other = folder_and_sample(**{option: OTHER[option]}, **encoder)
        assert (after == before) == (option not in kind.read_by), option
        if option not in kind.read_by:
            assert torch.equal(other, sample), option


def test_old_caches_go(rows: Manifest, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_cache, "KEPT", 2)
    for size in (4, 5, 6):
        made(BatchDataset(rows, {"image": Image(size=size)}, cache="disk"), 0)
    assert len(list((home / "samples").iterdir())) == 2


def test_what_cannot_be_kept_is_said_and_read_anew(rows: Manifest, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = made(BatchDataset(rows, inputs()), 0)
    data = BatchDataset(rows, inputs(), cache="disk")
    monkeypatch.setattr("clx.pipelines.system.row_store.RowStore.room", lambda *_: False)
    with pytest.warns(ClxWarning, match="data.cache: disk: the disk is almost full; samples that are not kept"):
        assert same(made(data, 2), plain)
    assert same(made(data, 2), plain), "and said once"
    monkeypatch.setattr(sample_cache, "free_memory", lambda: (1, 100))
    with pytest.warns(ClxWarning, match="data.cache: memory: memory is almost full"):
        assert same(made(BatchDataset(rows, inputs(), cache="memory"), 0), plain)
    with monkeypatch.context() as windows:
        windows.delattr("os.pread")
        with pytest.warns(ClxWarning, match="data.cache: memory: pread: this system"):
            assert same(made(BatchDataset(rows, inputs(), cache="memory"), 2), plain)
    home.parent.joinpath("file").write_text("")
    for folder, said in ((str(home.parent / "file"), "file"), ("", "CLX_CACHE: the variable is set empty")):
        monkeypatch.setenv("CLX_CACHE", folder)
        with pytest.warns(ClxWarning, match=said):
            assert same(made(BatchDataset(rows, inputs(), cache="disk"), 0), plain)


def test_any_sample_of_tensors_is_packed() -> None:
    numbers = torch.arange(6, dtype=torch.float64).view(2, 3)
    kinds: list[Any] = [numbers, [numbers[0], numbers.byte()], (numbers, torch.ones(0, 2)), torch.tensor(3), []]
    for sample in kinds:
        content = packed(sample)
        assert content is not None
        found = unpacked(bytearray(content))
        assert type(found) is type(sample)
        if isinstance(sample, torch.Tensor):
            found, sample = [found], [sample]
        for a, b in zip(found, sample, strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)
    assert packed("text") is packed([numbers, "text"]) is packed(numbers.to(torch.complex64)) is None
