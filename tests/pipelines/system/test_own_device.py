"""Which device a process takes that a launcher has numbered."""

import pytest
import torch

from clx.pipelines.system.devices import own_device


@pytest.mark.parametrize(
    ("asked", "environment", "devices", "expected"),
    [
        ("auto", {"LOCAL_RANK": "3"}, 8, "cuda:3"),
        ("auto", {"SLURM_LOCALID": "5"}, 4, "cuda:1"),
        ("auto", {"LOCAL_RANK": "3"}, 1, "auto"),
        ("auto", {}, 8, "auto"),
        ("cuda:0", {"LOCAL_RANK": "3"}, 8, "cuda:0"),
    ],
)
def test_a_numbered_process_takes_its_device(
    asked: str, environment: dict[str, str], devices: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    assert own_device(asked, environment) == expected
