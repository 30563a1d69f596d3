"""What can happen to a run folder: rot, crashes, full and read-only disks, two runs at once, other versions."""

import errno
import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from clx.pipelines.config.schema import Config
from clx.pipelines.experiments.train import train
from clx.pipelines.runs import checkpoint
from clx.pipelines.system import durable_files
from clx.pipelines.system.durable_files import seal
from clx.pipelines.system.errors import BadInput, ClxWarning, Failed
from clx.pipelines.system.progress import Silent
from clx.pipelines.training import trainer
from command import Command, child, ended
from trained import held

HERE = Path(__file__).parent
FILES = ["model.safetensors", "trainer.pt", "config.yaml", "facts.json", "meta.json"]


def small(**settings: Any) -> Config:
    """A run of a moment, with a checkpoint every other step."""
    raw = {
        "data": {"train": "sklearn:iris", "label": "label"},
        "modalities": {"table": {"columns": ["*"], "width": 32, "layers": 1, "views": 2}},
        "embed_dim": 4,
        "objective": {"name": "nt-xent"},
        "train": {"steps": 6, "batch_size": 8, "save_every": 2, "keep": 3, "validate_every": 6, **settings},
        "eval": [],
    }
    return Config.model_validate(raw)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with checkpoints at 2, 4 and 6."""
    out = tmp_path_factory.mktemp("made") / "run"
    train(small(), out, Silent())
    return out


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def at(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def resume(run: Path) -> None:
    train(checkpoint.read_config(run), run, Silent(), resume=True)


def same(a: Path, b: Path, step: int = 6) -> bool:
    """Whether two runs have the same weights at a step and the same log."""
    weights = [(at(one, step) / "model.safetensors").read_bytes() for one in (a, b)]
    logs = [(one / "metrics.jsonl").read_text() for one in (a, b)]
    return weights[0] == weights[1] and logs[0] == logs[1]


def flip(path: Path, place: float, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


# Rot


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_bit_of_a_checkpoint_is_noticed(run: Path, name: str) -> None:
    path, draw = at(run, 6) / name, random.Random(name)
    good = path.read_bytes()
    for _ in range(40):
        flip(path, draw.random(), draw.randrange(8))
        chosen = None
        with pytest.warns(ClxWarning, match="step-00000006"):
            chosen = checkpoint.last(run)
        assert chosen.step == 4
        path.write_bytes(good)
    assert checkpoint.last(run).step == 6


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("spoil", [flip, cut, os.remove], ids=["flipped", "cut", "gone"])
def test_resume_takes_the_previous_checkpoint_and_ends_the_same(
    run: Path, made: Path, name: str, spoil: Callable[..., None]
) -> None:
    spoil(*((at(run, 6) / name, 0.6) if spoil is flip else (at(run, 6) / name,)))
    with pytest.warns(ClxWarning) as warned:
        resume(run)
    assert len(warned) == 1
    said = str(warned[0].message)
    assert name in said
    assert "step-00000006" in said
    assert "using step-00000004" in said
    assert same(run, made)
    assert checkpoint.last(run).step == 6  # whole again, without a warning
    assert (run / "checkpoints" / "damaged-step-00000006").exists()


def test_no_checkpoint_left_is_bad_input(run: Path) -> None:
    for step in (2, 4, 6):
        cut(at(run, step) / "model.safetensors")
    for read in (checkpoint.last, checkpoint.load):
        with pytest.raises(BadInput, match=r"step-00000002 .*step-00000006 \(model.safetensors has \d+ bytes of"):
            read(run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(BadInput, match="has no checkpoint"):
        resume(run)


def test_best_gives_way_to_the_next_best(run: Path) -> None:
    for step, score in ((2, 0.5), (4, 0.1), (6, 0.3)):
        checkpoint.rescore(next(c for c in checkpoint.checkpoints(run) if c.step == step), score)
    good = checkpoint.load(run, "6")
    flip(at(run, 4) / "model.safetensors", 0.9)
    with pytest.warns(
        ClxWarning, match=r"step-00000004 \(model.safetensors is not what was written\); using step-00000006"
    ):
        found = checkpoint.load(run)
    for a, b in zip(found.model.parameters(), good.model.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(BadInput, match="checkpoint 4 of .* is damaged"):
        checkpoint.load(run, "4")


def test_facts_come_from_a_checkpoint_where_the_runs_own_are_damaged(run: Path) -> None:
    good = checkpoint.read_facts(run)
    flip(run / "facts.json", 0.5)
    with pytest.warns(ClxWarning, match="facts.json is not what was written; using the copy in step-00000006"):
        assert checkpoint.read_facts(run) == good
    (run / "facts.json").unlink()
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(BadInput, match="facts.json is missing"):
        checkpoint.read_facts(run)


def test_a_changed_config_counts_but_is_told(run: Path) -> None:
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("steps: 6", "steps: 8").replace("lr: 0.001", "lr: 0.002"))
    with pytest.warns(ClxWarning, match="config.yaml is not the one that step-00000006 was trained with"):
        resume(run)
    assert checkpoint.last(run).step == 8
    (run / "config.yaml").write_text(text.replace("steps: 6", "stepz: 6"))
    with pytest.raises(BadInput, match="stepz.*step-00000008/config.yaml is the one it was trained with"):
        checkpoint.read_config(run)


@pytest.mark.parametrize(
    "tail", ['{"step": 9, "lo', '{"step": 9, "loss": 1.0}', '{"step": 6, "loss": 1.0}', "\0\0\0\0", "[" * 9999]
)
def test_logs_after_a_crash(run: Path, made: Path, tail: str) -> None:
    """Half a line, a line without its end, lines after the checkpoint: none doubles, none is lost."""
    shutil.rmtree(at(run, 6))
    with open(run / "metrics.jsonl", "a") as file:
        file.write(tail)
    resume(run)
    assert same(run, made)


def test_a_damaged_line_within_a_log_is_told(run: Path, made: Path) -> None:
    shutil.rmtree(at(run, 6))
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(["\x80" + lines[0], *lines[1:]]) + "\n")
    with pytest.warns(ClxWarning, match="metrics.jsonl line 1 is damaged"):
        resume(run)
    assert (run / "metrics.jsonl").read_text().splitlines() == lines[1:]


# Versions


@pytest.mark.parametrize("number", [1])
def test_every_format_that_was_ever_written_is_read(tmp_path: Path, number: int) -> None:
    out = Path(shutil.copytree(HERE / f"format-{number}", tmp_path / "run"))
    known = json.loads((out / "answers.json").read_text())
    loaded = checkpoint.load(out)
    table = loaded.modalities["table"]
    flowers = [[5.1, 3.5, 1.4, 0.2], [6.0, 2.7, 4.5, 1.4], [6.9, 3.1, 5.8, 2.2]]
    cells = [dict(zip(loaded.config.modalities["table"]["columns"], f, strict=True)) for f in flowers]
    with torch.no_grad():
        z = loaded.model.towers["table"](table.collate([table.read(cell) for cell in cells]))
    torch.testing.assert_close(z, torch.tensor(known))
    text = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(text.replace("steps: 2", "steps: 3").replace("lr: 0.001", "lr: 0.002"))
    with pytest.warns(ClxWarning, match=r"config\.yaml"):
        resume(out)
    assert checkpoint.last(out).step == 3


def test_other_versions_are_refused(run: Path) -> None:
    def version(path: Path, number: object) -> None:
        content = json.loads(path.read_text())
        content.pop("digest")
        path.write_text(seal(content | {"format": number}))

    version(at(run, 4) / "meta.json", 2)
    for read in (checkpoint.last, checkpoint.load, resume):
        with pytest.raises(BadInput, match="has format 2, and this version of clx reads format 1"):
            read(run)
    shutil.rmtree(run / "checkpoints")
    version(run / "facts.json", "x" * 99)
    with pytest.raises(BadInput, match="facts.json has format 'x+"):
        checkpoint.read_facts(run)


# Disks


def refuse(number: int) -> Callable[..., Any]:
    def call(*args: object, **kwargs: object) -> Any:
        raise OSError(number, os.strerror(number))

    return call


def half_a_file(content: Any, file: Any) -> None:
    file.write(b"x" * 1000)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def rust(content: Any, path: Path) -> None:
    Path(path).write_bytes(b"half")
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


FAULTS: dict[str, tuple[Any, str, Any, str]] = {
    "full, weights": (checkpoint, "save_file", rust, "No space left"),
    "full, trainer": (torch, "save", half_a_file, "No space left"),
    "full, marker": (checkpoint, "seal", refuse(errno.ENOSPC), "No space left"),
    "EIO at fsync": (os, "fsync", refuse(errno.EIO), "Input/output error"),
    "read-only, folder": (Path, "mkdir", refuse(errno.EROFS), "Read-only file system"),
    "read-only, rename": (os, "rename", refuse(errno.EROFS), "Read-only file system"),
    "quota": (shutil, "copyfile", refuse(errno.EDQUOT), "quota"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_that_refuses_costs_nothing_older(
    run: Path, made: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    place, name, broken, said = FAULTS[fault]
    shutil.rmtree(at(run, 6))
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    real = trainer.Trainer.save
    with monkeypatch.context() as patched:

        def save(trainer: trainer.Trainer) -> None:
            patched.setattr(place, name, broken)
            real(trainer)

        patched.setattr(trainer.Trainer, "save", save)
        with pytest.raises(Failed, match=said) as failed:
            resume(run)
    assert failed.value.exit_code == 1
    assert "\n" not in str(failed.value)
    assert str(run) in str(failed.value)
    for path, content in kept.items():
        if path.name not in (".lock", "state.json", "metrics.jsonl"):
            assert path.read_bytes() == content
    assert all(json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    assert not list((run / "checkpoints").glob(".step*"))
    assert checkpoint.last(run).step == 4
    resume(run)
    assert same(run, made)


def test_a_log_takes_a_whole_line_or_none(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    durable_files.append(log, {"step": 1})

    def too_large() -> int:  # a real limit on the size of files, in a process of its own
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
        try:
            durable_files.append(log, {"step": 2, "text": "long" * 9})
        except Failed as error:
            return 7 if "File too large" in str(error) else 8
        return 0

    assert ended(child(too_large)) == 7
    assert log.read_text() == '{"step": 1}\n'
    (tmp_path / "full.jsonl").symlink_to("/dev/full")
    with pytest.raises(Failed, match="full.jsonl cannot be written: No space left on device"):
        durable_files.append(tmp_path / "full.jsonl", {"step": 1})
    with pytest.raises(Failed, match="cannot be written: No such file"):
        durable_files.write_text(tmp_path / "nowhere" / "x.json", "{}")


# Two at once


def test_two_runs_in_one_folder_are_refused_until_the_first_is_dead(
    run: Path, made: Path, clx: Command, tmp_path: Path
) -> None:
    shutil.rmtree(at(run, 6))
    config = tmp_path / "c.json"
    config.write_text(json.dumps(small().model_dump(mode="json")))
    config = config.rename(tmp_path / "c.yaml")
    with held(run) as process:
        for args in (["--resume", run], [config, "-o", run, "--overwrite"]):
            done = clx("train", *args)
            assert done.returncode == 2, done.stderr
            assert f"is being trained by another process (process {process} on" in done.stderr
        checkpoint.load(run)  # reading needs no lock
    assert clx("train", "--resume", run).returncode == 0
    assert same(run, made)
    assert clx("train", config, "-o", run, "--overwrite").returncode == 0
    assert same(run, made)


def test_overwriting_empties_a_checkpoint_folder_on_another_disk(run: Path, tmp_path: Path) -> None:
    shutil.move(run / "checkpoints", tmp_path / "scratch")
    (run / "checkpoints").symlink_to(tmp_path / "scratch")
    train(small(steps=2), run, Silent(), overwrite=True)
    assert [c.step for c in checkpoint.checkpoints(run)] == [2]
    assert (run / "checkpoints").is_symlink()


def test_a_wrong_path_to_resume_is_never_a_fresh_run(clx: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name in ("typo", "file", "empty", "empty/../typo", "\n"):
        done = clx("train", "--resume", name, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert "is not a run folder" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]
    assert not list((tmp_path / "empty").iterdir())


def test_facts_that_were_tampered_with_are_refused(run: Path) -> None:
    """With a digest put right: whatever they say, a sentence and no traceback."""
    good = json.loads((run / "facts.json").read_text())
    good.pop("digest")
    for change in (
        {"states": {"table": {}}},
        {"states": {"table": {"numbers": {"a": "bcd"}, "categories": {}}}},
        {"states": {"table": {"numbers": {"a": [0, 0, []]}, "categories": {}}}},
        {"states": {"x": {}}},
        {"states": 3},
        {"more": 1},
    ):
        (run / "facts.json").write_text(seal(good | change))
        if "more" in change:  # else the copy in the checkpoint would do
            shutil.rmtree(run / "checkpoints")
        with pytest.raises(BadInput, match="does not fit|facts.json is not"):
            checkpoint.load(run)


def test_two_that_write_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with durable_files.replacing(path) as one:
        with durable_files.replacing(path) as two:
            assert one != two
            one.write_text("one")
            two.write_text("two")
        assert path.read_text() == "two"
    assert path.read_text() == "one"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_what_killed_writers_left_goes_in_time(tmp_path: Path) -> None:
    for name, age in ((".a.json.1.tmp", 2 * durable_files.FORGOTTEN), (".a.json.2.tmp", 10), (".b.json.3.tmp", 10**6)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    assert not durable_files.is_used(tmp_path)
    durable_files.write_text(tmp_path / "a.json", "{}")
    assert {file.name for file in tmp_path.iterdir()} == {"a.json", ".a.json.2.tmp", ".b.json.3.tmp"}
    assert durable_files.is_used(tmp_path)


def test_a_mistyped_run_is_told_the_right_name(clx: Callable[..., Any], made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "runs" / "digits")
    for args, hint in (
        (["train", "--resume", "runs/digit"], "runs/digits"),
        (["eval", "digits"], "runs/digits"),
        (["predict", "runs/digist"], "runs/digits"),
        (["runs", "show", "digit"], "runs/digits"),
        (["report", "../runs/digitz"], "../runs/digits"),
    ):
        done = clx(*args, cwd=tmp_path / "runs" if hint.startswith("..") else tmp_path)
        assert done.returncode == 2
        assert f"(did you mean '{hint}'?)" in done.stderr
    assert "did you mean" not in clx("train", "--resume", "zebra", cwd=tmp_path).stderr
