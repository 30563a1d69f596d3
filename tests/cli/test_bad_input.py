"""The bad-input matrix through the command: one line, file and row named, exit code, nothing half-written."""

import csv
import json
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from clx.pipelines.batches.loader import Order
from command import Command

COLORS = ["red", "green", "blue"]


def write_wav(path: Path, samples: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, samples, "NONE", ""))
        tone = np.sin(np.arange(samples) * 0.3) * 8000
        file.writeframes(tone.astype("<i2").tobytes())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a manifest of 12 rows in four modalities, and a config."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = []
    for k in range(12):
        Image.new("RGB", (8, 8), COLORS[k % 3]).save(folder / f"{k}.png")
        write_wav(folder / f"{k}.wav", 2000)
        np.save(folder / f"{k}.npy", np.sin(np.arange(40.0) * (1 + k % 3)))
        split = "train" if k < 9 else "test"
        cells = [f"{k}.png", f"{k}.wav", f"{k}.npy", str(k * 0.5), COLORS[k % 3], COLORS[k % 3], split]
        rows.append(dict(zip(["image", "audio", "series", "size", "hue", "text", "split"], cells, strict=True)))
    write_rows(folder / "pairs.csv", rows)
    config = {
        "data": {"train": "data/pairs.csv", "label": "text"},
        "modalities": {
            "image": {"encoder": "cnn", "width": 4, "size": 8},
            "audio": {"encoder": "mel-cnn", "sample_rate": 8000},
            "series": {"encoder": "tcn"},
            "table": {"columns": ["size", "hue"]},
            "text": {"layers": 1, "width": 32},
        },
        "embed_dim": 8,
        "objective": {"name": "clip"},
        "train": {"steps": 2, "batch_size": 4},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    return folder


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def change(folder: Path, row: int, column: str, value: str) -> None:
    """Set a cell; rows count from 1, as in messages."""
    with (folder / "pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    rows[row - 1][column] = value
    write_rows(folder / "pairs.csv", rows)


def header_only(folder: Path) -> None:
    text = (folder / "pairs.csv").read_text().splitlines()[0]
    (folder / "pairs.csv").write_text(text + "\n")


def truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def noise(path: Path, size: tuple[int, int] = (40, 40)) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def truncated_png(folder: Path) -> None:
    noise(folder / "2.png")
    truncate(folder / "2.png", 400)


def nan_series(folder: Path) -> None:
    np.save(folder / "2.npy", np.full(40, np.nan))


def ragged_series(folder: Path) -> None:
    (folder / "2.csv").write_text("1,2\n3\n4,5\n")
    change(folder, 3, "series", "2.csv")


MATRIX: list[tuple[str, Callable[[Path], object] | None, list[str], int, list[str]]] = [
    ("missing manifest", lambda f: (f / "pairs.csv").unlink(), [], 2, ["data/pairs.csv"]),
    ("missing file", lambda f: (f / "2.png").unlink(), [], 2, ["pairs.csv row 3", "image", "no such file"]),
    ("missing column", None, ["-s", "modalities.image.column=photo"], 2, ["'photo'", "pairs.csv", "image, audio"]),
    ("empty file", lambda f: (f / "pairs.csv").write_text(""), [], 2, ["pairs.csv", "empty"]),
    ("header only", header_only, [], 2, ["pairs.csv", "no rows"]),
    ("not UTF-8", lambda f: (f / "pairs.csv").write_bytes(b"image,text\na.png,\xff\xfe\n"), [], 2, ["UTF-8"]),
    ("truncated PNG", truncated_png, [], 2, ["pairs.csv row 3", "image", "truncated"]),
    ("zero-byte WAV", lambda f: (f / "2.wav").write_bytes(b""), [], 2, ["pairs.csv row 3", "audio", "zero bytes"]),
    ("one-sample WAV", lambda f: write_wav(f / "2.wav", 1), [], 2, ["pairs.csv row 3", "audio", "1 sample"]),
    ("NaN series", nan_series, [], 2, ["pairs.csv row 3", "series", "NaN"]),
    ("ragged series", ragged_series, [], 2, ["pairs.csv row 3", "series", "ragged"]),
    (
        "text in a number",
        lambda f: change(f, 3, "size", "big"),
        ["-s", "modalities.table.categorical=[hue]"],
        2,
        ["big"],
    ),
    ("batch larger than data", None, ["--batch-size", "64"], 2, ["64", "9 training rows"]),
    ("unknown config key", None, ["-s", "train.epohcs=3"], 2, ["'train.epohcs'", "'epochs'"]),
    ("unknown modality option", None, ["-s", "modalities.image.widht=3"], 2, ["'widht'", "'width'"]),
    ("unknown loss option", None, ["-s", "objective.temprature=3"], 2, ["'temprature'", "'temperature'"]),
    ("value out of range", None, ["-s", "objective.temperature=-1"], 2, ["temperature = -1", "greater than 0"]),
    ("unknown objective", None, ["-s", "objective.name=clup"], 2, ["'clup'", "'clip'"]),
    ("unknown encoder", None, ["-s", "modalities.image.encoder=cmm"], 2, ["'cmm'", "'cnn'"]),
    ("unknown device", None, ["--device", "cuda:7"], 2, ["cuda:7"]),
    ("path outside", lambda f: change(f, 3, "image", "../../x.png"), [], 2, ["pairs.csv row 3", "../../x.png"]),
]


def test_a_run_stopped_by_a_bad_row_goes_on_without_it(clx: Command, data: Path) -> None:
    """As its message says; and so it does after the next stop."""
    (first,) = Order(rows=9, batch_size=4, seed=0, start=0, stop=1)
    bad = min({*range(9)} - {*first.rows.tolist()})
    (data / f"{bad}.png").write_bytes(b"")
    done = clx("train", "c.yaml", "-o", "run", "--steps", "6", cwd=data.parent)
    assert done.returncode == 2
    assert f"row {bad + 1}, " in done.stderr
    assert "data.on_bad_row=skip trains without such rows, up to 1 of 9; with -s data.bad_row_budget=0.5" in done.stderr
    done = clx("train", "--resume", "run", "-s", "data.on_bad_row=skip", "--json", cwd=data.parent)
    assert done.returncode == 0, done.stderr
    assert "is not the one" not in done.stderr
    summary = json.loads(done.stdout)
    assert 0 < summary["steps_now"] < summary["steps"] == 6
    assert yaml.safe_load((data.parent / "run" / "config.yaml").read_text())["data"]["on_bad_row"] == "skip"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--grid", "objective.nam=clip"], "'nam'"),
        (["--grid", "objective.name=clip,nope"], "'nope'"),
        (["--grid", "objective.name=clip,siglip", "--metric", "knn.*"], "no run evaluates 'knn'"),
    ],
)
def test_a_dry_sweep_refuses_what_a_sweep_would(clx: Command, data: Path, args: list[str], said: str) -> None:
    done = clx("sweep", "c.yaml", *args, "--dry-run", cwd=data.parent)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr


@pytest.mark.parametrize(("spoil", "args", "code", "words"), [m[1:] for m in MATRIX], ids=[m[0] for m in MATRIX])
def test_training_refuses_in_one_line(
    clx: Command, data: Path, spoil: Callable[[Path], object] | None, args: list[str], code: int, words: list[str]
) -> None:
    if spoil:
        spoil(data)
    done = clx("train", "c.yaml", "-o", "run", *args, cwd=data.parent)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert done.stderr.splitlines()[-1] == errors[0]
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in errors[0]
    # A run that met bad data midway keeps its folder and says there what was wrong; others leave nothing.
    if not (data.parent / "run" / "bad_rows.jsonl").exists():
        assert not (data.parent / "run").exists()


def test_good_input_then_existing_folder_then_bad_evaluation(clx: Command, data: Path) -> None:
    done = clx("train", "c.yaml", "-o", "run", "--json", cwd=data.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    again = clx("train", "c.yaml", "-o", "run", cwd=data.parent)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    assert "--overwrite" in again.stderr
    change(data, 10, "hue", "purple")  # a test row: a category that training never saw is no error
    seen = clx("eval", "run", "--json", cwd=data.parent)
    assert seen.returncode == 0, seen.stderr
    for args, words in (
        (["no-run"], ["no-run"]),
        (["run", "--task", "zeroshoot"], ["'zeroshoot'", "'zeroshot'"]),
        (["run", "--split", "val"], ["no row has the split 'val'"]),
    ):
        wrong = clx("eval", *args, cwd=data.parent)
        assert (wrong.returncode, wrong.stdout) == (2, "")
        assert all(word in wrong.stderr for word in words)
    for args, code, words in (
        (["data/0.png", "--labels-file", "no.txt"], 2, ["no.txt"]),
        (["data/0.png", "--labels", "red,red"], 2, ["'red'", "twice"]),
        (["nothing.png", "--labels", "red,blue"], 2, ["nothing.png"]),
        (["c.yaml", "--labels", "red,blue"], 1, ["skipped c.yaml"]),
    ):
        wrong = clx("zeroshot", "run", *args, cwd=data.parent)
        assert (wrong.returncode, wrong.stdout) == (code, ""), wrong.stderr
        assert all(word in wrong.stderr for word in words)
    (data / "1.png").write_bytes(b"not an image")
    some = clx("zeroshot", "run", "data/0.png", "data/1.png", "data/2.png", "--labels", "red,blue", cwd=data.parent)
    assert some.returncode == 1
    assert some.stdout.count("\n") == 2
    assert "skipped data/1.png" in some.stderr


def test_bad_rows_can_be_skipped_within_a_budget(clx: Command, data: Path) -> None:
    (data / "2.png").write_bytes(b"")
    args = ["-s", "data.on_bad_row=skip", "-s", "data.bad_row_budget=0.2", "-s", "train.steps=6"]
    done = clx("train", "c.yaml", "-o", "run", *args, cwd=data.parent)
    assert done.returncode == 0, done.stderr
    assert (data.parent / "run" / "bad_rows.jsonl").read_text().count("\n") == 1
    assert "1 of 9 training rows is left out: run/bad_rows.jsonl" in done.stderr
    (data / "3.png").write_bytes(b"")
    over = clx("train", "c.yaml", "-o", "run2", *args, cwd=data.parent)
    assert over.returncode == 2
    assert "-s data.bad_row_budget=0.5 allows 4" in over.stderr


def test_unknown_recipe_and_wrong_usage(clx: Command) -> None:
    for args, word in (
        (["train", "digit"], "did you mean 'digits'"),
        (["train", "nothing.yaml"], "no such file"),
        (["trian"], "train"),
        (["train", "digits", "--epohcs", "3"], "--epochs"),
        (["train", "digits", "-s", "train.lr=fast"], "train.lr"),
        (["train", "--resume", "nowhere"], "nowhere"),
    ):
        done = clx(*args)
        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        assert word in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "args",
    [
        ["train", "digits", "--epochs", "2", "--steps", "3"],
        ["train", "digits", "-s", "train.epochs=2", "--steps", "3"],
        ["train", "digits", "--epochs", "2", "-s", "train.steps=3"],
        ["train", "digits", "-s", "train.epochs=2", "-s", "train.steps=3"],
        ["train", "--resume", "somewhere", "--epochs", "2", "--steps", "3"],
        ["train", "digits", "--minutes", "2", "-s", "train.steps=3"],
        ["sweep", "digits", "--grid", "train.epochs=2,4", "-s", "train.steps=3", "--dry-run"],
    ],
)
def test_a_run_is_not_told_two_lengths(clx: Command, args: list[str]) -> None:
    done = clx(*args)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "both set the length of the run" in done.stderr


def test_steps_may_be_taken_back_for_epochs(clx: Command) -> None:
    done = clx("train", "digits", "--epochs", "2", "-s", "train.steps=null", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["config"]["train"]["epochs"] == 2
