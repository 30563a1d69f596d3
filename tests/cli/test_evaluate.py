"""`clx eval` through the terminal: what it prints, what it refuses, how a signal ends it."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from clx.cli.evaluation_tables import compact
from command import CLX, Command


@pytest.fixture(scope="module")
def copy(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(digits_run, tmp_path_factory.mktemp("copy") / "run"))


def test_json_lines_and_a_second_time(clx: Command, copy: Path) -> None:
    args = ["eval", copy, "--task", "knn", "--task", "zeroshot", "--k", "5", "--features", "head"]
    done = clx(*args, "--resamples", "30", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["knn"]["image"]["k"] == 5
    assert (result["settings"]["features"], result["settings"]["resamples"]) == ("head", 30)
    low, high = result["zeroshot"]["image"]["top1_ci"]
    assert 0 < low < result["zeroshot"]["image"]["top1"] < high < 1
    again = clx(*args, "--resamples", "30")
    assert "evaluated before" in again.stderr
    lines = [json.loads(line) for line in again.stdout.splitlines()]
    assert lines[0]["top1"] == result["zeroshot"]["image"]["top1"]
    assert [line["task"] for line in lines] == ["zeroshot"] * 3 + ["knn"] * 4
    assert all("confusion" not in line and isinstance(line["top1_ci"], list) for line in lines)


def test_wrong_usage_is_one_line(clx: Command, copy: Path, files: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("one\ntwo\n")
    for args, words in (
        ([], ["say what to evaluate"]),
        ([copy, "--k", "0"], ["k = 0"]),
        ([copy, "--features", "heads"], ["features", "'heads'"]),
        ([copy, "--weights", "some"], ["weights", "'some'"]),
        ([copy, "--confidence", "1"], ["confidence"]),
        ([copy, "--task", "regresion"], ["'regresion'", "'regression'"]),
        ([copy, "--column", "image"], ["MODALITY=COLUMN"]),
        ([copy, "--label", "x"], ["--data"]),
        ([copy, "--data", "digits", "--target", "x"], ["--target: 1 given, and the run's targets are none"]),
        ([copy, "--data", "digits", "--column", "imag=x"], ["no modality 'imag' (did you mean 'image'?)"]),
        ([copy, "--data", "digits", "--label", "clas"], ["no column 'clas'"]),
        ([copy, "--task", "zeroshot", "--labels-file", tmp_path / "words.txt"], ["no words for class"]),
        (["ViT-B-32", "--data", tmp_path], ["--pretrained"]),
    ):
        done = clx("eval", *args)
        assert (done.returncode, done.stdout) == (2, ""), args
        *begun, error = done.stderr.splitlines()
        assert begun == ([f"embedding 100 rows of {files}/few.csv", "zeroshot"] if "--labels-file" in args else [])
        assert all(word in error for word in words), done.stderr


def test_other_data_may_call_its_columns_otherwise(clx: Command, copy: Path, files: Path, tmp_path: Path) -> None:
    """The figures are those of the same rows under the run's own names; a column of the old name is not looked at."""
    first, *rows = (files / "manifest.csv").read_text().splitlines()
    names = {"image": "photo", "label": "digit", "text": "image"}
    tests = [row for row in rows if row.endswith(",test") or ",test," in row][:200]
    (files / "own.csv").write_text("\n".join([first, *tests]) + "\n")
    (files / "theirs.csv").write_text("\n".join([",".join(names.get(n, n) for n in first.split(",")), *tests]) + "\n")
    args = ["--task", "zeroshot", "--resamples", "0", "--json"]
    own = json.loads(clx("eval", copy, "--data", files / "own.csv", *args).stdout)
    renamed = ["--column", "image=photo", "--column", "text=image", "--label", "digit"]
    theirs = clx("eval", copy, "--data", files / "theirs.csv", *renamed, *args)
    assert theirs.returncode == 0, theirs.stderr
    assert json.loads(theirs.stdout)["zeroshot"] == own["zeroshot"]
    assert own["rows"] == 200


def test_a_drawn_table_has_intervals_in_cells_and_says_once_what_rows_share() -> None:
    rows = [
        {"task": "knn", "input": "a", "top1": 0.5, "top1_ci": [0.4, 0.6], "k": 20, "rows": 9, "hubness": 1.5},
        {"task": "knn", "input": "b", "top1": 0.7, "top1_ci": [0.6, 0.8], "k": 20, "rows": 8, "hubness": 1.0},
    ]
    shown, shared = compact(rows)
    assert shared == {"k": 20}
    assert shown[1] == {"task": "knn", "input": "b", "top1": "0.700 (0.600-0.800)", "rows": 8, "hubness": 1.0}
    assert compact(rows[:1]) == (
        [{"task": "knn", "input": "a", "top1": "0.500 (0.400-0.600)", "hubness": 1.5}],
        {"k": 20, "rows": 9},
    )


def test_figures_are_explained(clx: Command) -> None:
    told = {line["figure"]: line["meaning"] for line in map(json.loads, clx("eval", "--explain").stdout.splitlines())}
    assert "median query" in told["median_rank"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_quietly_and_leaves_nothing_half_written(copy: Path, number: int, code: int) -> None:
    before = {path: path.read_bytes() for path in copy.rglob("*.json")}
    args = [CLX, "eval", str(copy), "--task", "all", "--resamples", "200000", "--force"]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        time.sleep(12)
        assert started.poll() is None
        os.kill(started.pid, number)
        out, said = started.communicate(timeout=60)
    ended = started.returncode
    assert (128 - ended if ended < 0 else ended) == code  # as a shell counts
    assert out == ""
    assert "Traceback" not in said
    assert {path: path.read_bytes() for path in copy.rglob("*.json")} == before
    assert not list(copy.rglob("*.tmp"))
