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
