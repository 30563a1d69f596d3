"""Sweeps: what is executed, what is kept, and the table of runs."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

from clx.pipelines.experiments import sweep
from clx.pipelines.experiments.sweep_grid import Plan, Point, points
from clx.pipelines.experiments.sweep_shards import share
from clx.pipelines.system.durable_files import locked
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.shard import Shard
from command import Command, ended, start
from configs import Make

BASE = {
    "data": {"train": "sklearn:iris", "label": "label", "val": {"fraction": 0.2}},
    "modalities": {
        "table": {"columns": ["*"], "width": 32},
        "text": {"column": "label", "layers": 1, "width": 32},
    },
    "embed_dim": 8,
    "objective": {"name": "clip", "temperature": 0.1, "exclude": "labels"},
    "train": {"steps": 6, "batch_size": 32, "validate_every": 3, "lr": 1e-2},
    "eval": ["zeroshot"],
}


def test_runs_are_tried_with_the_labels_of_their_data(make_config: Make) -> None:
    image = {"encoder": "cnn", "width": 4, "size": 8, "views": 2}
    for background, wrong in (
        ("zero", None),
        ("ten", "run one: loss 'sepclr': background 'ten' is no label; there is eight"),
    ):
        term = {"name": "sepclr", "background": background}
        config = make_config(data__train="mislabelled:0.4", modalities={"image": image}, objective=term)
        with pytest.raises(BadInput, match=wrong) if wrong else nullcontext():
            sweep.ready([Point("one", {}, config)])


def test_means_and_deviations_over_seeds() -> None:
    made = [
        {"run": f"{m}{s}", "method": m, "seed": s, "state": state, "top1": value, "error": None}
        for m, s, state, value in [
            ("a", 0, "finished", 0.2),
            ("a", 1, "finished", 0.4),
            ("b", 0, "finished", 0.5),
            ("b", 1, "failed", None),
        ]
    ]
    first, second = sweep.table(made, ["method", "seed"])
    assert first["method"] == "a"
    assert first["top1"] == pytest.approx(0.3)
    assert first["top1_std"] == pytest.approx(0.02**0.5)
    assert (first["seeds"], first["state"]) == (2, "finished")
    assert (second["top1"], second["top1_std"], second["seeds"], second["state"]) == (0.5, None, 1, "failed")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    return tmp_path


def test_a_sweep_runs_once_and_grows(clx: Command, base: Path) -> None:
    first = clx("sweep", "base.yaml", "--grid", "train.lr=1e-2,1e-3", "--json", cwd=base)
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert told["folder"] == "runs/sweep-base"
    assert [row["train.lr"] for row in told["table"]] == [0.01, 0.001]
    results = json.loads((base / "runs/sweep-base/lr=0.01/results.json").read_text())
    assert told["runs"][0]["zeroshot.table.top1"] == pytest.approx(results["zeroshot"]["table"]["top1"], rel=1e-5)
    again = clx("sweep", "base.yaml", "--grid", "train.lr=1e-2,1e-3", "--json", cwd=base)
    assert again.stdout == first.stdout
    assert "step" not in again.stderr
    more = clx("sweep", "base.yaml", "--grid", "train.lr=1e-2,5e-3", "--metric", "val_loss", cwd=base)
    assert "1 of 2 runs are done already" in more.stderr
    assert [set(json.loads(line)) for line in more.stdout.splitlines()] == [{"train.lr", "val_loss", "state"}] * 2
    changed = clx("sweep", "base.yaml", "--grid", "train.lr=1e-2", "-s", "train.steps=7", cwd=base)
    assert changed.returncode == 2
    assert "train.steps was 6 and is 7" in changed.stderr
    anew = clx("sweep", "base.yaml", "--grid", "train.lr=1e-2", "-s", "train.steps=7", "--overwrite", cwd=base)
    assert anew.returncode == 0, anew.stderr
    listed = clx("runs", "list", "runs/sweep-base", "--sort", "steps", "--json", cwd=base)
    assert [row["steps"] for row in json.loads(listed.stdout)] == [6, 6, 7]
    shutil.rmtree(base / "runs/sweep-base/lr=0.01")  # of what is gone nothing can be lost
    other = clx("sweep", "base.yaml", "--grid", "train.lr=1e-2", "-s", "train.steps=8", cwd=base)
    assert other.returncode == 0, other.stderr


def test_losses_of_unlike_objectives_are_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "best_loss", lambda run: 1.0)
    for grid, columns in (
        ({"train.lr": [1e-2, 1e-3]}, {"val_loss"}),
        ({"objective.name": ["clip", "siglip"], "objective.exclude": ["none"]}, set()),
    ):
        found = points(Plan(grid=grid), json.loads(json.dumps(BASE)), [])
        for point in found:
            out = tmp_path / point.name
            (out / "checkpoints" / "step-6").mkdir(parents=True)
            (out / "config.yaml").write_text("x")
            (out / "state.json").write_text('{"state": "finished"}')
            (out / "results.json").write_text('{"zeroshot": {"text": {"top1": 0.5}}}')
        sweep.SweepFile(tmp_path, {point.name: sweep.asked(point) for point in found}).write()
        lines: list[str] = []
        made = sweep.rows(found, tmp_path, say=lines.append)
        assert {key for key in made[0] if key in ("zeroshot.text.top1", "val_loss")} == {"zeroshot.text.top1", *columns}
        assert ["--metric val_loss" in line for line in lines] == ([] if columns else [True])


def test_a_failed_run_does_not_stop_the_others(clx: Command, base: Path) -> None:
    rows = ["size,label,split"] + [f"{k % 7},{'ab'[k % 2]},{'train' if k < 64 else 'test'}" for k in range(80)]
    (base / "good.csv").write_text("\n".join(rows))
    (base / "bad.csv").write_text("\n".join([*rows, "big,a,test"]))
    args = ("sweep", "base.yaml", "--grid", "data.train=bad.csv,good.csv", "-s", "data.val=null", "-o", "out")
    first = clx(*args, cwd=base)
    assert first.returncode == 1, first.stderr
    assert "1 of 2: train=bad.csv failed: trained and saved" in first.stderr
    assert [json.loads(line)["state"] for line in first.stdout.splitlines()] == ["failed", "finished"]
    again = clx(*args, cwd=base)
    assert (again.returncode, again.stdout) == (1, first.stdout)
    assert "step" not in again.stderr
    (base / "bad.csv").write_text("\n".join(rows))
    mended = clx(*args, "--retry-failed", cwd=base)
    assert mended.returncode == 0, mended.stderr
    assert "from step 6" in mended.stderr  # it was trained; only the evaluation is made up for
    assert [json.loads(line)["state"] for line in mended.stdout.splitlines()] == ["finished", "finished"]


def test_what_a_kill_left_undone_is_not_taken_for_done(tmp_path: Path) -> None:
    """A run that was to start anew, or whose failure no sweep has noted, is executed by the next one."""

    def killed(todo: Any, folder: Path) -> Any:
        raise KeyboardInterrupt
        yield

    for steps in (6, 7):
        [point] = points(Plan(seeds=[0]), json.loads(json.dumps(BASE)), [f"train.steps={steps}"])
        out = tmp_path / point.name
        (out / "checkpoints" / "step-6").mkdir(parents=True, exist_ok=True)
        (out / "config.yaml").write_text("x")
        (out / "state.json").write_text('{"state": "finished"}')
        if steps == 6:
            sweep.SweepFile(tmp_path, {point.name: sweep.asked(point)}).write()
            assert sweep.SweepFile.open(tmp_path).outcome(point) == "finished"
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep([point], tmp_path, killed, print, overwrite=True)
    assert sweep.SweepFile.open(tmp_path).changed(point) is None
    assert sweep.SweepFile.open(tmp_path).outcome(point) == "new"
    assert not any((out / "checkpoints").iterdir())
    (out / "state.json").write_text('{"state": "failed"}')
    assert sweep.SweepFile.open(tmp_path).outcome(point) == "interrupted"


def test_a_metric_that_no_run_has_is_told_before_the_runs_or_after_the_first(clx: Command, base: Path) -> None:
    args = ("sweep", "base.yaml", "--grid", "train.lr=1e-2,1e-3", "-o", "out")
    for metric, hint in (("val_los", "'val_loss'"), ("zeroshoot.table.top1", "'zeroshot'"), ("regression.*.mae", "")):
        refused = clx(*args, "--metric", metric, cwd=base)
        assert refused.returncode == 2
        assert f"--metric {metric}: no run evaluates" in refused.stderr
        assert hint in refused.stderr
        assert not (base / "out").exists()
    warned = clx(*args, "--metric", "zeroshot.table.top_1", "--metric", "val_loss", cwd=base)
    assert warned.returncode == 0, warned.stderr
    told = "--metric zeroshot.table.top_1: no run has such a figure (did you mean 'zeroshot.table.top1'?)"
    assert warned.stderr.count(told) == 1
    assert warned.stderr.index(told) < warned.stderr.index("2 of 2")
    again = clx(*args, "--metric", "zeroshot.table.top_1", cwd=base)
    assert (again.returncode, again.stdout) == (2, "")
    assert told in again.stderr
    fine = clx(*args, "--metric", "zeroshot.*.top1", "--metric", "*.table.top1", cwd=base)
    assert fine.returncode == 0, fine.stderr
    assert "warning" not in fine.stderr


def test_everything_is_checked_before_the_first_run(clx: Command, base: Path) -> None:
    grid = "modalities.table.columns=['*'],['nothing']"
    done = clx("sweep", "base.yaml", "--grid", grid, "-o", "out", cwd=base)
    assert done.returncode == 2
    assert "run columns=nothing" in done.stderr
    assert "no column 'nothing'" in done.stderr
    assert not (base / "out").exists()
    (base / "precious").mkdir()
    (base / "precious" / "thesis.txt").write_text("x")
    done = clx("sweep", "base.yaml", "--seeds", "0", "-o", "precious", cwd=base)
    assert done.returncode == 2
    assert "is no sweep" in done.stderr


def test_shards_of_a_sweep_train_each_run_once(
    clx: Command, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once on one folder; each tells of all runs, and whoever comes without --shard finds them done."""
    grid = ["sweep", "base.yaml", "--grid", "train.lr=1e-2,1e-3,10,1e-4", "-o", "out"]
    monkeypatch.chdir(base)
    began = {}
    for number in (1, 0):
        out, err = tmp_path / f"{number}.out", tmp_path / f"{number}.err"
        began[number] = start([*grid, "--shard", f"{number}/2", "--json"], out, err)
    assert [ended(process) for process in began.values()] == [0, 0]
    trained = {number: (tmp_path / f"{number}.err").read_text() for number in began}
    for number, names in ((0, ("lr=0.01", "lr=10")), (1, ("lr=0.001", "lr=0.0001"))):
        assert [line for line in trained[number].splitlines() if line.endswith("finished")] == [
            f"{k} of 2: {name} finished" for k, name in enumerate(names, 1)
        ]
    last = max((tmp_path / f"{number}.out" for number in began), key=lambda path: path.stat().st_mtime_ns)
    told = json.loads(last.read_text())
    assert [row["state"] for row in told["runs"]].count("finished") >= 3
    dry = clx(*grid, "--shard", "1/2", "--dry-run", "--json", cwd=base)
    assert [row["run"] for row in json.loads(dry.stdout)] == ["lr=0.001", "lr=0.0001"]
    for words, said in (
        ([*grid, "--shard", "0/3"], "shared out among 2 shards, not 3"),
        ([*grid, "train.weight_decay=0,1", "--shard", "0/2"], "shared out with other runs"),
    ):
        refused = clx(*words, cwd=base)
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
        assert said in refused.stderr
    with locked(base / "out/_shards/00001-of-00002"):
        for words in (grid, [*grid, "--shard", "1/2"]):
            busy = clx(*words, cwd=base)
            assert (busy.returncode, "00001-of-00002 is being trained by another" in busy.stderr) == (2, True)
        assert clx(*grid, "--shard", "0/2", cwd=base).returncode == 0
    rest = clx(*grid, "--json", cwd=base)
    assert (rest.returncode, rest.stderr) == (0, "")
    assert {row["state"] for row in json.loads(rest.stdout)["runs"]} == {"finished"}
    assert not list((base / "out/_shards").glob("*/sweep.json"))
    (base / "alone").mkdir()
    sweep.SweepFile(base / "alone").write()
    late = clx("sweep", "base.yaml", "--seeds", "0,1", "-o", "alone", "--shard", "0/2", cwd=base)
    assert (late.returncode, "alone was begun without --shard" in late.stderr) == (2, True)


def test_what_a_shard_notes_outlives_it_and_counts_before_what_was_known(base: Path) -> None:
    found = points(Plan(seeds=[0, 1, 2]), BASE)
    known = {each.name: sweep.asked(each) for each in found}
    everyone = sweep.SweepFile(base / "out", known, {"seed=0": "a", "seed=1": "b"})
    (base / "out" / "_shards" / "00000-of-00002").mkdir(parents=True)
    everyone.write()
    shard = Shard(0, 2)
    mine = sweep.SweepFile.open(base / "out", shard)
    del mine.failed["seed=0"]
    mine.failed["seed=2"] = "c"
    mine.write(share(found, shard))
    assert sweep.SweepFile.open(base / "out").failed == {"seed=1": "b", "seed=2": "c"}
    noted = json.loads((base / "out/_shards/00000-of-00002/sweep.json").read_text())
    assert list(noted["asked"]) == ["seed=0", "seed=2"]
