"""What the doctor finds, on a machine as it is and on ones with something wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clx.cli import doctor as command
from clx.pipelines.system import doctor
from clx.pipelines.system.errors import Refused


def test_a_good_machine(clx: Callable[..., Any], tmp_path: Path) -> None:
    done = clx("doctor", "--json", cwd=tmp_path, env={"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    rows = {row["check"]: row for row in json.loads(done.stdout)}
    import torch

    assert rows["torch"]["value"] == torch.__version__.partition("+")[0]
    assert {"python", "clx", "cores", "threads", "disk", "soundfile", "extra hf"} <= set(rows)
    assert "offline (HF_HUB_OFFLINE is set)" in rows["hugging face"]["value"]
    assert {"WAV", "MP3"} <= set(rows["soundfile"]["value"].replace(",", "").split())


def found(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> dict[str, doctor.Row]:
    plain = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda name: versions.get(name, plain(name)))
    return {row["check"]: row for row in doctor.packages()}


def test_packages_that_lack_or_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = found(monkeypatch, timm=None, torch="2.10.0", transformers=None)
    assert (rows["timm"]["level"], rows["timm"]["value"]) == ("broken", "not installed")
    assert rows["torch"]["level"] == "broken"
    assert rows["torch"]["value"].startswith("2.10.0, wanted ")
    assert rows["torch"]["advice"].startswith("pip install 'torch")
    assert rows["extra hf"]["level"] == "note"
    assert rows["extra hf"]["advice"] == "pip install '.[hf]'"


def test_broken_is_exit_3(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [doctor.row("torch", "gone", "broken", "install it"), doctor.row("cores", "2")]
    monkeypatch.setattr(doctor, "examine", lambda runs, imports: iter(rows))
    with pytest.raises(Refused, match="broken: torch"):
        command.doctor(runs=Path("runs"), imports=False, json=False)
    printed = capsys.readouterr()
    assert [json.loads(line)["check"] for line in printed.out.splitlines()] == ["torch", "cores"]
    assert printed.err == "broken: torch: gone. What to do: install it\n"


def test_a_check_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def boom() -> Any:
        raise RuntimeError("no\nsuch thing")

    [row] = doctor.guarded(boom)
    assert (row["level"], row["value"]) == ("problem", "RuntimeError: no such thing")


def test_little_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = type("Usage", (), {"free": 2**28, "total": 2**33})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    [row] = doctor.disk(tmp_path / "not" / "yet" / "there")
    assert (row["level"], row["advice"] is None) == ("problem", False)
    shared = next(row for row in doctor.files() if row["check"] == "shared memory")
    assert shared["level"] == "problem"
    assert "train.workers=0" in shared["advice"]


def test_a_gpu_that_torch_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "hidden" in next(doctor.cuda())["value"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.version.cuda", None)
    assert "this torch is for CPUs" in next(doctor.cuda())["value"]
