"""Places among processes, as launchers say them."""

import pytest

from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.ranks import Place, place_of

MEETING = {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "1234"}
SLURM = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8", "SLURM_STEP_ID": "2", "SLURM_JOB_ID": "77"}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, None),
        ({"RANK": "", "WORLD_SIZE": ""}, None),
        ({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"} | MEETING, Place(3, 1, 4, "10.0.0.7", 1234)),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, Place(0, 0, 1)),
        (SLURM | {"SLURM_STEP_NODELIST": "gpu[07-09]"}, Place(5, 1, 8, "gpu07", 20000 + (77 * 31 + 2) % 12000)),
        (SLURM | MEETING, Place(5, 1, 8, "10.0.0.7", 1234)),
        (SLURM | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"} | MEETING, Place(0, 0, 2, "10.0.0.7", 1234)),
        (SLURM | {"SLURM_STEP_ID": ""}, None),  # the script of a batch job, in which nothing was started by srun
        (
            {f"OMPI_COMM_WORLD_{name}": value for name, value in [("RANK", "1"), ("LOCAL_RANK", "1"), ("SIZE", "2")]}
            | MEETING,
            Place(1, 1, 2, "10.0.0.7", 1234),
        ),
        ({"PMI_RANK": "1", "MPI_LOCALRANKID": "0", "PMI_SIZE": "2"} | MEETING, Place(1, 0, 2, "10.0.0.7", 1234)),
    ],
)
def test_the_first_launcher_counts(environment: dict[str, str], place: Place | None) -> None:
    assert place_of(environment) == place


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RANK": "1"}, "RANK set but not LOCAL_RANK and WORLD_SIZE"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "RANK and WORLD_SIZE set but not LOCAL_RANK"),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR and MASTER_PORT not set"),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x"}, "but MASTER_PORT not set"),
        ({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "2"} | MEETING, "RANK = 2, LOCAL_RANK = 0, WORLD_SIZE = 2"),
        ({"RANK": "one", "LOCAL_RANK": "0", "WORLD_SIZE": "2"} | MEETING, "RANK = 'one' is no whole number"),
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0"}, "SLURM_PROCID set but not SLURM_LOCALID and SLURM_NTASKS"),
    ],
)
def test_half_a_place_is_refused(environment: dict[str, str], said: str) -> None:
    with pytest.raises(BadInput) as error:
        place_of(environment)
    assert said in str(error.value)
