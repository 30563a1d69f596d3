"""Cores that a process may use."""

from pathlib import Path

import pytest

from clx.pipelines.system import cores
from clx.pipelines.system.read_ahead import default_workers


@pytest.mark.parametrize(("quota", "usable"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 64), ("", 64)])
def test_the_quota_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, usable: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(64)), raising=False)
    monkeypatch.setattr(cores, "QUOTA", tmp_path / "cpu.max")
    (tmp_path / "cpu.max").write_text(quota)
    assert cores.usable_cores() == usable
    assert default_workers() == min(8, usable)


STEP = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_CPUS_ON_NODE": "8"}


@pytest.mark.parametrize(
    ("environment", "bound", "expected"),
    [
        ({}, 8, 8),
        ({"LOCAL_WORLD_SIZE": "4"}, 8, 2),
        ({"LOCAL_WORLD_SIZE": "40"}, 8, 1),
        ({**STEP, "LOCAL_WORLD_SIZE": "2", "SLURM_CPUS_PER_TASK": "8"}, 8, 4),
        ({**STEP, "SLURM_CPUS_PER_TASK": "3"}, 8, 3),
        ({**STEP, "SLURM_CPUS_PER_TASK": "3"}, 2, 2),
        ({**STEP, "SLURM_TASKS_PER_NODE": "4"}, 8, 2),
        ({**STEP, "SLURM_TASKS_PER_NODE": "4"}, 2, 2),
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_NODEID": "2"}, 8, 4),
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_NODEID": "3"}, 8, 8),
        ({"SLURM_TASKS_PER_NODE": "4", "SLURM_CPUS_PER_TASK": "2"}, 8, 8),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, 8, 2),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, 2, 2),
    ],
)
def test_a_process_takes_its_part(
    environment: dict[str, str], bound: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: bound)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert cores.own_cores(environment) == expected
