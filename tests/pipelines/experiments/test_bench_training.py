"""Both sides train the same rows; what cannot be compared is said before anything starts."""

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from clx.pipelines.experiments import bench_training as bench
from clx.pipelines.system.errors import BadInput, Failed

ASKED = bench.Asked("ViT-S-32-alt", 2, 5, 0, "cpu", 32)
THERE = all(importlib.util.find_spec(name) is not None for name in bench.NEEDED)


def test_what_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "NEEDED", ("json", "not_installed"))
    with pytest.raises(BadInput, match="needs not_installed: pip install 'open_clip_torch\\[training\\]'"):
        bench.bench_training(ASKED)
    monkeypatch.setattr(bench, "NEEDED", ("json",))
    with pytest.raises(BadInput, match="--steps 3: the first 3 are not counted"):
        bench.bench_training(replace(ASKED, steps=3))
    with pytest.raises(BadInput, match="no model 'ViT-none'"):
        bench.bench_training(replace(ASKED, model="ViT-none"))


def test_times_are_read_from_the_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def said(command: list[str], folder: Path) -> Iterator[str]:
        assert command[command.index("--precision") + 1] == "fp32"
        yield "INFO | Start epoch 0\n"
        for k in range(5):
            yield f"INFO | Train Epoch: 0 [{k}/5] Data (t): 0.1 Batch (t): {k}.250, 6.09/s, 6.09/s/gpu LR: 0.000500\n"

    monkeypatch.setattr(bench, "output_of", said)
    side = bench.Side(processor=[7.0])
    bench.theirs(tmp_path, ASKED, "run", side)
    assert side.steps == [3.25, 4.25]
    row = bench.row_of("open_clip", side, 15)
    assert (row["rows_per_s"], row["step_s"], row["processor_s"]) == (4.0, 3.75, 7.0)
    assert row["before_first_step_s"] >= 0


def test_rows_are_pictures_with_captions_of_their_own(tmp_path: Path) -> None:
    bench.write_rows(tmp_path, ASKED)
    head, *lines = (tmp_path / "rows.tsv").read_text().splitlines()
    assert head == "image\ttext"
    assert len({line.split("\t")[1] for line in lines}) == len(lines) == 10
    assert all(Path(line.split("\t")[0]).read_bytes().startswith(b"\xff\xd8") for line in lines)


def test_a_program_that_fails_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="open_clip_train failed: no such thing"):
        list(bench.output_of(["import sys; sys.exit('no such thing')", "x"], tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(not THERE, reason="open_clip's training script or what it imports is not installed")
def test_both_train() -> None:
    ours, theirs = bench.bench_training(bench.Asked("ViT-S-32-alt", 2, 4, 0, "cpu"), 1)
    assert (ours["trainer"], theirs["trainer"]) == ("clx", "open_clip")
    assert ours["ratio"] == ours["rows_per_s"] / theirs["rows_per_s"] > 0
    for row in (ours, theirs):
        assert 0 < row["before_first_step_s"] < row["processor_s"] * 100
