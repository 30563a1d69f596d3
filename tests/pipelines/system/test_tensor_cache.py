"""Tensors that are kept on disk: found again, made anew where they cannot be read, and the oldest let go."""

import os
from pathlib import Path

import pytest
import torch

from clx.pipelines.system import tensor_cache
from clx.pipelines.system.tensor_cache import cached


def test_the_last_used_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLX_CACHE", str(tmp_path))
    monkeypatch.setattr(tensor_cache, "KEPT", 2)
    made: list[int] = []

    def ask(number: int) -> float:
        rows = cached({"number": number}, lambda: made.append(number) or torch.full((1,), float(number)))
        for age, path in enumerate(sorted(tmp_path.rglob("*.safetensors"), key=lambda p: -p.stat().st_mtime)):
            os.utime(path, (1e9 - age, 1e9 - age))  # a file system's clock may be too coarse to tell them apart
        return float(rows)

    assert [ask(number) for number in (1, 2, 1, 3, 1, 2)] == [1, 2, 1, 3, 1, 2]
    assert made == [1, 2, 3, 2]
    assert len(list(tmp_path.rglob("*.*"))) == 2


def test_without_a_folder_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLX_CACHE", "")
    made: list[int] = []
    for _ in range(2):
        cached({}, lambda: made.append(1) or torch.ones(1))
    assert len(made) == 2
