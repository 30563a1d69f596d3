"""`clx bench data`: rates as lines, advice beside them, and one line for what cannot be."""

import json
from pathlib import Path

import pytest

from command import Command
from samples import png


def test_stages_of_a_source_are_told(clx: Command, tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    (tmp_path / "m.csv").write_text("image,label\n" + "".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(12)))
    done = clx("bench", "data", "m.csv", "--rows", "6", "--seconds", "0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["stage"] == "rows of the table"
    assert lines[-1]["stage"] == "step from the memory cache"
    assert "cache: disk" not in [line["stage"] for line in lines]
    assert "CLX_CACHE: the variable is set empty" in done.stderr, "as tests have it"
    assert all(line["rows_per_s"] > 0 for line in lines)
    assert "workers" in done.stderr.splitlines()[-1] or "processes" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nothing.csv"], "nothing.csv"),
        (["nothing.yaml"], "nothing.yaml"),
        (["digits", "-s", "data.cache=ram"], "data.cache"),
        (["digits", "--rows", "1"], "rows"),
    ],
)
def test_what_cannot_be_measured_is_one_line(args: list[str], said: str, clx: Command, tmp_path: Path) -> None:
    done = clx("bench", "data", *args, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_mined_columns_on_pairs_are_measured_and_kept(clx: Command, tmp_path: Path) -> None:
    folder = tmp_path / "stsb_dir"
    folder.mkdir()
    for k, name in enumerate(("train", "val", "test")):
        rows = [
            f"a {k} red thing {i},the thing {i} of {k},{5 if i else 1}" for i in range(240 if name == "train" else 9)
        ]
        (folder / f"{name}.csv").write_text("\n".join(["sentence1,sentence2,score", *rows]) + "\n")
    call = ["bench", "mine", "merged", "--data", tmp_path, "--seeds", "1", "--steps", "1", "--encoder", "transformer"]
    done = clx(*call, "--log", "log.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    runs = ("base", "a", "b", "average", "delta", "slerp")
    assert [line["figure"] for line in lines] == [f"R@1 {name}" for name in runs]
    assert all(line["experiment"] == "merged" and 0 <= line["mean"] <= 1 for line in lines)
    again = clx(*call, "--log", "log.jsonl", cwd=tmp_path)
    assert again.stdout == done.stdout
    assert "seed 0" not in again.stderr, "what is known is not made again"


@pytest.mark.parametrize(("args", "said"), [(["stbs"], "did you mean 'stsb'"), (["stsb"], "--data names the folder")])
def test_what_cannot_be_mined_is_one_line(args: list[str], said: str, clx: Command, tmp_path: Path) -> None:
    done = clx("bench", "mine", *args, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr
