"""How many cores this process may use."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of CPU time that the control group may take in so many, in Linux's version 2."""


def usable_cores() -> int:
    """Cores by affinity, and no more than the quota of the control group, as containers have it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = QUOTA.read_text().split()
        cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


def own_cores(environment: Mapping[str, str] = os.environ) -> int:
    """Those of this process where several are started together: its own where the launcher has bound it to some, else
    its part of what all processes on this machine may use.

    >>> own_cores({"SLURM_STEP_ID": "0", "SLURM_CPUS_PER_TASK": "1"})
    1
    """
    cores = usable_cores()

    def told(*names: str) -> int:
        return next((int(environment[name]) for name in names if environment.get(name, "").isdecimal()), 0)

    if together := told("LOCAL_WORLD_SIZE"):  # torchrun and `--processes` bind none
        return max(1, cores // together)
    if environment.get("SLURM_STEP_ID") or environment.get("SLURM_STEPID"):
        if each := told("SLURM_CPUS_PER_TASK"):
            return min(cores, each)
        if cores < told("SLURM_CPUS_ON_NODE"):
            return cores
        return max(1, cores // _tasks(environment, told("SLURM_NODEID")))
    together = told("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE")
    return cores if together < 2 or cores < (os.cpu_count() or 1) else max(1, cores // together)


def _tasks(environment: Mapping[str, str], node: int) -> int:
    """Processes on a machine of a step, as SLURM counts them: `2(x3),1` of four machines."""
    given = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE") or "1"
    found: list[int] = []
    for count, _, times in re.findall(r"(\d+)(\(x(\d+)\))?", given):
        found += [int(count)] * int(times or 1)
    return found[min(node, len(found) - 1)] if found else 1
