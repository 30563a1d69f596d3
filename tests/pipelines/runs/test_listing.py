"""What is told of runs, from their folders alone."""

import json
import shutil
from pathlib import Path

import pytest

from clx.cli.runs import _narrow as narrow
from clx.pipelines.runs import checkpoint, listing
from command import Command


@pytest.fixture
def folder(tmp_path: Path, digits_run: Path) -> Path:
    """A good run, deeper a copy of it, and four kinds of damage."""
    place = tmp_path / "runs"
    shutil.copytree(digits_run, place / "b")
    shutil.copytree(digits_run, place / "sweep" / "a")
    text = (place / "b" / "config.yaml").read_text()
    (place / "b" / "config.yaml").write_text(text.replace("temperature: 0.1", "temperature: 0.2"))
    for name, file, content in (
        ("x1", "config.yaml", "data: ["),
        ("x2", "results.json", "{"),
        ("x3", "config.yaml", "data: 3"),
        ("x4", "results.json", "[]"),
    ):
        (place / name).mkdir()
        shutil.copy(digits_run / "config.yaml", place / name / "config.yaml")
        (place / name / file).write_text(content)
    return place


def test_list_names_the_damaged_and_goes_on(clx: Command, folder: Path) -> None:
    done = clx("runs", "list", folder, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["run"] for row in rows] == ["b", "sweep/a"]
    results = json.loads((folder / "b" / "results.json").read_text())
    assert rows[0]["metric"] == "zeroshot.image+table.top1"
    assert rows[0]["value"] == pytest.approx(results["zeroshot"]["image+table"]["top1"], rel=1e-5)
    assert (rows[0]["state"], rows[0]["step"], rows[0]["steps"], rows[0]["data"]) == ("finished", 60, 60, "few.csv")
    scores = [one.score for one in checkpoint.checkpoints(folder / "b")]
    assert rows[0]["val_loss"] == pytest.approx(min(scores), rel=1e-5)
    assert [f"x{k}" in line for k, line in enumerate(done.stderr.splitlines(), 1)] == [True] * 4
    lines = clx("runs", "list", folder, "--metric", "retrieval.*.R@1", "--sort", "run", "-r").stdout.splitlines()
    assert [json.loads(line)["run"] for line in lines] == ["sweep/a", "b"]
    directions = [line["R@1"] for line in results["retrieval"].values()]
    assert json.loads(lines[0])["retrieval.*.R@1"] == pytest.approx(sum(directions) / len(directions), rel=1e-5)
    assert clx("runs", "list", folder, "--state", "failed", "--json").stdout == "[]\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["list", "nowhere"], "nowhere: no such folder"),
        (["list", "RUNS", "--sort", "vall_loss"], "did you mean 'val_loss'"),
        (["list", "RUNS", "--state", "done"], "--state done"),
        (["show", "RUNS/x1"], "x1/config.yaml cannot be read"),
        (["compare", "RUNS/b"], "two runs or more"),
        (["compare", "RUNS/b", "RUNS/sweep"], "not a run folder"),
    ],
)
def test_bad_questions(clx: Command, folder: Path, args: list[str], said: str) -> None:
    done = clx("runs", *(arg.replace("RUNS", str(folder)) for arg in args))
    assert done.returncode == 2
    assert said in done.stderr


def test_show_tells_all(clx: Command, folder: Path) -> None:
    found = json.loads(clx("runs", "show", folder / "b", "--json").stdout)
    assert [one["step"] for one in found["checkpoints"]] == [30, 60]
    assert sum(one["best"] for one in found["checkpoints"]) == 1
    assert found["bytes"] == sum(file.stat().st_size for file in (folder / "b").rglob("*") if file.is_file())
    assert found["curves"]["loss"][-1][0] == 60
    assert [step for step, _ in found["curves"]["val_loss"]] == [30, 60]
    assert found["config"]["train"]["steps"] == 60
    assert found["figures"]["zeroshot.table.top1"] > 0.5


def test_compare_shows_what_differs(clx: Command, folder: Path) -> None:
    b, a = str(folder / "b"), str(folder / "sweep" / "a")
    found = json.loads(clx("runs", "compare", b, a, "--json").stdout)
    assert found["config"] == {"objective.temperature": {b: 0.2, a: 0.1}}
    assert found["figures"]["zeroshot.table.top1"][a] == found["figures"]["zeroshot.table.top1"][b]
    lines = [json.loads(line) for line in clx("runs", "compare", b, a).stdout.splitlines()]
    assert lines[0] == {"config": "objective.temperature", b: 0.2, a: 0.1}


def test_it_is_said_of_which_step_the_figures_are(folder: Path) -> None:
    b, a = folder / "b", folder / "sweep" / "a"
    result = json.loads((b / "results.json").read_text())
    (b / "results.json").write_text(json.dumps(result | {"step": 4}))
    assert listing.compare([b, a])["figures"]["figures of step"] == {str(b): 4, str(a): result["step"]}
    row = listing.summary(b)
    assert (row["step"], row["of_step"]) == (60, 4)
    assert [line["step"] for line in narrow([row, listing.summary(a)])] == ["60/60, figures of 4", "60/60"]


def test_looking_at_runs_needs_no_torch(folder: Path) -> None:
    import subprocess
    import sys

    code = (
        f"import sys; sys.argv = ['clx', 'runs', 'list', {str(folder)!r}]\n"
        "from clx.cli.main import run\nassert run() == 0\nassert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_not_finite_or_named_twice_is_borne(folder: Path) -> None:
    (folder / "b" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": NaN}\n')
    assert listing.curves(folder / "b") == {"loss": [(1, 2.0)]}
    both = [folder / "b", folder / "sweep" / "a"]
    assert listing.compare([*both, both[0]]) == listing.compare(both)


def test_losses_of_unlike_objectives_are_not_compared(folder: Path) -> None:
    unlike = listing.compare([folder / "b", folder / "sweep" / "a"])  # of two temperatures
    assert "val_loss" not in unlike["figures"]
    assert unlike["notes"] == [listing.UNLIKE]
    shutil.copy(folder / "sweep" / "a" / "config.yaml", folder / "b" / "config.yaml")
    assert "val_loss" in listing.compare([folder / "b", folder / "sweep" / "a"])["figures"]
