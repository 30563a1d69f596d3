"""`clx train --profile`: where a step's time goes, in the summary, in a file of the run, and as a table."""

import json
from pathlib import Path

import pytest

from clx.cli.train import show_profile
from command import Command

CONFIG = {
    "data": {"train": "rows.csv"},
    "modalities": {
        "a": {"kind": "table", "columns": ["a"], "width": 32, "layers": 1},
        "b": {"kind": "table", "columns": ["b"], "width": 32, "layers": 1, "views": 2},
    },
    "embed_dim": 8,
    "objective": "clip",
    "train": {"steps": 8, "batch_size": 8, "chunk": 3, "validate_every": 4},
    "eval": [],
}
PHASES = ["waiting for rows", "moving", "encoding a", "encoding b", "loss", "backward", "optimiser"]


def test_a_run_tells_where_its_time_goes(clx: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{i % 7},{i % 7 + 1},{'val' if i % 5 == 4 else 'train'}" for i in range(60)]
    (tmp_path / "rows.csv").write_text("a,b,split\n" + "\n".join(lines) + "\n")
    (tmp_path / "config.yaml").write_text(json.dumps(CONFIG))
    done = clx("train", "config.yaml", "--profile", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    profile = json.loads(done.stdout)["profile"]
    assert [row["phase"] for row in profile["phases"]] == [*PHASES, "validation", "saving", "other"]
    assert all(row["ms"] > 0 for row in profile["phases"])
    assert [row["times"] for row in profile["phases"] if "times" in row] == [2, 2]
    assert (profile["turns"], len(profile["each_ms"])) == (5, 5)
    assert json.loads((tmp_path / "runs" / "config" / "profile.json").read_text())["turns"] == 5
    show_profile(profile)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "of a step, over 5 steps (a phase with `times`: over all):"
    assert [line.split("  ")[0] for line in said[1:]] == ["phase", *PHASES, "validation", "saving", "other"]
