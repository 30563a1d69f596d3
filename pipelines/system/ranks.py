"""Which of several processes that work on one thing this is: what launchers say by their environment variables."""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from clx.pipelines.system.errors import BadInput


class Place(NamedTuple):
    """The place of a process among those of its job."""

    rank: int
    """0 to `size` - 1; 0 is the one that prints and writes."""
    local_rank: int
    """Its number on its machine, which is that of its GPU."""
    size: int
    """Processes of the job."""
    address: str = "127.0.0.1"
    """Machine of rank 0."""
    port: int = 29500
    """Where the processes meet there."""


LAUNCHERS = (
    ("torchrun", ("RANK", "LOCAL_RANK", "WORLD_SIZE")),
    ("srun", ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS")),
    ("mpirun", ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE")),
    ("mpirun", ("PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE")),
    ("mpirun", ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_SIZE")),
)
"""Who sets which variables: rank, rank on the machine, number. The first that is set counts."""


def place_of(environment: Mapping[str, str] = os.environ) -> Place | None:
    """The place that a launcher has given this process; None where none has.

    Raises `BadInput` where variables contradict each other or only some of them are set.
    """
    for launcher, names in LAUNCHERS:
        found = [name for name in names if environment.get(name, "") != ""]
        if not found or (launcher == "srun" and not _in_a_step(environment)):
            continue
        if len(found) < len(names):
            absent = [name for name in names if name not in found]
            raise BadInput(
                f"{' and '.join(found)} set but not {' and '.join(absent)}: a launcher sets all of "
                f"{', '.join(names)}; for one process, unset {' and '.join(found)}"
            )
        rank, local, size = (_number(environment, name) for name in names)
        if not (0 <= local <= rank < size):
            said = ", ".join(f"{name} = {environment[name]}" for name in names)
            raise BadInput(f"{said}: ranks go from 0 to {names[2]} - 1, and none is below its rank on its machine")
        return Place(rank, local, size, *_meeting(environment, launcher, size))
    return None


def _in_a_step(environment: Mapping[str, str]) -> bool:
    """Whether srun has started this process. The script of a batch job has the other variables, too, but is alone."""
    return bool(environment.get("SLURM_STEP_ID") or environment.get("SLURM_STEPID"))


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise BadInput(f"{name} = {environment[name]!r} is no whole number") from None


def _meeting(environment: Mapping[str, str], launcher: str, size: int) -> tuple[str, int]:
    """Where the processes meet: as MASTER_ADDR and MASTER_PORT say, or else as SLURM's variables do."""
    address, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT")
    if size == 1:
        return address or "127.0.0.1", _number(environment, "MASTER_PORT") if port else 29500
    if launcher == "srun":
        nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST") or "127.0.0.1"
        address = address or first_host(nodes)
        job = [int(environment.get(name) or 0) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")]
        port = port or str(20000 + (job[0] * 31 + job[1]) % 12000)
    absent = [name for name, value in (("MASTER_ADDR", address), ("MASTER_PORT", port)) if not value]
    if absent:
        raise BadInput(
            f"{size} processes, but {' and '.join(absent)} not set: the machine of rank 0 and a free port there"
        )
    return str(address), _number({"MASTER_PORT": str(port)}, "MASTER_PORT")


def first_host(nodes: str) -> str:
    """The first machine of a list as SLURM writes it.

    >>> first_host("gpu[07-09,12],login1"), first_host("a,b"), first_host("rack[2,5]-n[1-3]")
    ('gpu07', 'a', 'rack2-n1')
    """
    head = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    assert head is not None
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", head.group())
