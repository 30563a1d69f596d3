"""Every stage from files to a step has a rate."""

import json
from pathlib import Path

import pytest

from clx.pipelines.experiments import bench_data
from clx.pipelines.system.errors import BadInput
from samples import png


def test_every_stage_has_a_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLX_CACHE", str(tmp_path / "caches"))
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    (tmp_path / "m.csv").write_text("image,text\n" + "".join(f"{i}.png,row {i}\n" for i in range(8)))
    raw = {
        "data": {"train": "m.csv"},
        "modalities": {"image": {"size": 8, "width": 4}, "text": {"width": 32, "layers": 1}},
        "objective": "clip",
        "train": {"batch_size": 4},
    }
    (tmp_path / "c.yaml").write_text(json.dumps(raw))
    monkeypatch.chdir(tmp_path)
    *rows, last = bench_data.bench_data(bench_data.config_for("c.yaml", ["train.seed=1"]), 8, 0.0)
    assert [(row["stage"], row["input"]) for row in rows] == [
        ("rows of the table", None),
        *((stage, "image") for stage in ("files", "bare decoder", "decode and resize", "views", "collate")),
        *((stage, "text") for stage in ("read", "views", "collate")),
        *((f"cache: {where}" if where else "first epoch", None) for where in ("", *CACHES)),
        *((stage, None) for stage in ("first epoch with views", "model step", "step from the memory cache")),
    ]
    assert all(row["rows_per_s"] > 0 for row in rows)
    assert [row["stage"] for row in rows if "ratio" in row] == [*(f"cache: {w}" for w in CACHES), rows[-1]["stage"]]
    assert "train.workers" in last["advice"] or "processes" in last["advice"]
    with pytest.raises(BadInput, match="-s changes a config"):
        bench_data.config_for("m.csv", ["train.seed=1"])


CACHES = ("memory", "memory shared by workers", "disk")


def test_advice_follows_the_slower_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_data, "usable_cores", lambda: 8)
    assert "no bottleneck" in bench_data.advice(1000, 100, 99)
    assert "train.workers: 3 keep" in bench_data.advice(100, 200, 150)
    assert "a step is 1.33 times one" in bench_data.advice(100, 200, 150)
    assert "the model takes what 12 processes make" in bench_data.advice(100, 1000, 500)
