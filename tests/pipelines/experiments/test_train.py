"""Whole trainings: from every kind of source, into which folders, and what is refused before and told after."""

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

from clx.pipelines.experiments.train import train
from clx.pipelines.runs import checkpoint
from clx.pipelines.system.errors import BadInput
from configs import Make
from trained import weights

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
    make_config: Make,
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
    ours, theirs = (weights(tmp_path / n) for n in ("run", "plain"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_learns_and_reports(digits_run: Path) -> None:
    result = json.loads((digits_run / "results.json").read_text())
    assert result["zeroshot"]["table"]["top1"] > 0.5  # chance is 0.1
    lines = [json.loads(line) for line in (digits_run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0] - 0.5
    assert lines[-1]["step"] == 60
    assert (digits_run / "config.yaml").exists()


def test_unbroken_runs_are_equal(tmp_path: Path, make_config: Make, silent: Any) -> None:
    config = make_config(eval=[], train__steps=3)
    for name in ("a", "b"):
        train(config, tmp_path / name, silent)
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_nothing_to_train_is_refused_before_anything_is_written(tmp_path: Path, make_config: Make, silent: Any) -> None:
    with pytest.raises(BadInput, match="only 240 training rows"):
        train(make_config(train__batch_size=6000), tmp_path / "run", silent)
    assert not (tmp_path / "run").exists()


def test_existing_folders(tmp_path: Path, make_config: Make, silent: Any) -> None:
    out = tmp_path / "run"
    config = make_config(eval=[], train__steps=1)
    train(config, out, silent)
    with pytest.raises(BadInput, match="--overwrite"):
        train(config, out, silent)
    train(config, out, silent, overwrite=True)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("x")
    with pytest.raises(BadInput, match="not a run folder"):
        train(config, tmp_path / "precious", silent, overwrite=True)
    assert (tmp_path / "precious" / "thesis.txt").exists()


def test_predictions_train_in_the_units_of_the_target(tmp_path: Path, make_config: Make, silent: Any) -> None:
    config = make_config(
        data={"train": "sklearn:diabetes", "target": ["target"]},
        objective=[{"name": "l1"}],
        eval=[],
        train={"steps": 60, "batch_size": 64, "lr": 0.01},
    )
    config = config.model_copy(update={"modalities": {"table": {"columns": ["*"], "encoder": "mlp"}}})
    train(config, tmp_path / "run", silent)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[0] > 50  # the target's spread is about 77
    assert losses[-1] < losses[0] * 0.9


def test_a_bad_test_row_is_told_after_training(tmp_path: Path, make_config: Make, silent: Any) -> None:
    rows = ["size,label,split"] + [f"{k % 7},{'ab'[k % 2]},{'train' if k < 16 else 'test'}" for k in range(20)]
    rows.append("big,a,test")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    config = make_config(
        data={"train": str(tmp_path / "t.csv"), "label": "label"},
        modalities={"table": {"columns": ["size"]}, "text": {"column": "label", "layers": 1, "width": 32}},
        train={"steps": 2, "batch_size": 8},
        eval=["zeroshot"],
    )
    with pytest.raises(BadInput, match="trained and saved in .* row 21"):
        train(config, tmp_path / "fail", silent)
    assert checkpoint.last(tmp_path / "fail").step == 2
    skipping = config.model_copy(update={"data": config.data.model_copy(update={"on_bad_row": "skip"})})
    summary = train(skipping, tmp_path / "skip", silent)
    assert summary["evaluation"]["rows"] == 4
    assert "row 21" in (tmp_path / "skip" / "bad_rows.jsonl").read_text()


def test_a_run_finds_its_data_from_another_folder(
    tmp_path: Path, make_config: Make, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clx.pipelines.evaluation.evaluate import evaluate_run

    rows = ["size,label"] + [f"{k % 7},{'ab'[k % 2]}" for k in range(16)]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    config = make_config(
        data={"train": "t.csv", "label": "label"},
        modalities={"table": {"columns": ["*"]}, "text": {"column": "label", "layers": 1, "width": 32}},
        train={"steps": 1, "batch_size": 8},
    )
    train(config, tmp_path / "run", silent)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = evaluate_run(tmp_path / "run", ["zeroshot"], say=print)
    assert result["rows"] == 16
    assert checkpoint.read_config(tmp_path / "run").modalities["table"]["columns"] == ["size"]
