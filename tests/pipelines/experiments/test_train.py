"""The same pairs train from every kind of manifest, to the same weights."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clx.pipelines.experiments.train import train
from clx.pipelines.runs import checkpoint
from clx.pipelines.training.dry_run import dry_run

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}


def picture(colour: str, seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(-20, 20, (8, 8, 3))
    pixels = (np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def csv(folder: Path, rows: list[tuple[str, bytes]]) -> str:
    lines = ["image;label"]
    for k, (colour, content) in enumerate(rows):
        (folder / f"{k}.png").write_bytes(content)
        lines.append(f"{k}.png;{colour}")
    (folder / "pairs.csv").write_text("\n".join(lines))
    return "pairs.csv"


def jsonl(folder: Path, rows: list[tuple[str, bytes]]) -> str:
    csv(folder, rows)
    lines = [json.dumps({"image": f"{k}.png", "label": colour}) for k, (colour, _) in enumerate(rows)]
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    return "pairs.jsonl"


def parquet(folder: Path, rows: list[tuple[str, bytes]]) -> str:
    cells = [{"bytes": content, "path": None} for _, content in rows]
    table = pa.table({"image": cells, "label": [colour for colour, _ in rows]})
    pq.write_table(table, folder / "pairs.parquet")
    return "pairs.parquet"


def metadata(folder: Path, rows: list[tuple[str, bytes]]) -> str:
    csv(folder, rows)
    lines = ["file_name,label"] + [f"{k}.png,{colour}" for k, (colour, _) in enumerate(rows)]
    (folder / "pairs.csv").unlink()
    (folder / "metadata.csv").write_text("\n".join(lines))
    return "."


def classes(folder: Path, rows: list[tuple[str, bytes]]) -> str:
    for k, (colour, content) in enumerate(rows):
        (folder / colour).mkdir(exist_ok=True)
        (folder / colour / f"{k:03}.png").write_bytes(content)
    return "."


@pytest.mark.parametrize("write", [csv, jsonl, parquet, metadata, classes])
def test_every_source_trains(
    tmp_path: Path,
    make_config: Callable[..., Any],
    silent: Any,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path, list[tuple[str, bytes]]], str],
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [(colour, picture(colour, 3 * k + j)) for k in range(8) for j, colour in enumerate(sorted(COLOURS))]
    rows.sort(key=lambda row: row[0])  # the order in which class folders are read
    data = tmp_path / "data"
    data.mkdir()
    name = write(data, rows)
    column = "file_name" if write is metadata else "image"
    config = make_config(
        data={"train": str(data / name), "label": "label"},
        train={"steps": 3, "batch_size": 8},
        modalities={
            "image": {"column": column, "encoder": "cnn", "width": 4, "size": 8},
            "text": {"column": "label", "layers": 1, "width": 32},
        },
        eval=["zeroshot"],
    )
    summary = train(config, tmp_path / "run", silent)
    assert summary["evaluation"]["zeroshot"]["image"]["rows"] == 24
    reference = tmp_path / "reference"
    reference.mkdir()
    plain = config.model_copy(
        update={
            "data": config.data.model_copy(update={"train": str(reference / csv(reference, rows))}),
            "modalities": config.modalities | {"image": config.modalities["image"] | {"column": "image"}},
        }
    )
    train(plain, tmp_path / "plain", silent)
    ours, theirs = (load_file(checkpoint.last(tmp_path / n).path / "model.safetensors") for n in ("run", "plain"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_tensorboard_and_dry_run(tmp_path: Path, make_config: Callable[..., Any], silent: Any) -> None:
    config = make_config(eval=[], train__tensorboard=True, train__steps=2)
    plan = dry_run(config)
    assert plan["steps"] == 2
    assert plan["rows"] == {"train": 5188, "val": 140, "test": 1080}
    assert plan["parameters"]["learned"] > 1000
    assert plan["memory"]["total"] > plan["memory"]["weights"] > 0
    train(config, tmp_path / "run", silent)
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
