"""Which shard a job is, by its words or a launcher's variables, and what shards agree on."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.shard import Shard, agree, difference, shard_of


def array(task: int, count: int, **more: int) -> dict[str, str]:
    """The variables of one task of a SLURM array."""
    given = {"ID": task, "COUNT": count, **more}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in given.items()}


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        (array(3, 16, MIN=0, MAX=15), "3/16"),
        (array(16, 16, MIN=1, MAX=16), "15/16"),
        (array(20, 3, MIN=10, MAX=20, STEP=5), "2/3"),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, "1/4"),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "3", "SLURM_STEP_ID": "0"}, "2/3"),
        ({**array(1, 2, MIN=0), "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, "1/2"),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}, "0/2"),
        ({**array(5, 8, MIN=0), "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_STEP_ID": "0"}, "5/8"),
        ({"RANK": "2", "WORLD_SIZE": "3", "SLURM_PROCID": "2", "SLURM_NTASKS": "3", "SLURM_STEP_ID": "0"}, "2/3"),
        ({"RANK": "0", "WORLD_SIZE": "1"}, "0/1"),
    ],
)
def test_launchers_say_which_shard(environment: dict[str, str], shard: str) -> None:
    assert str(Shard.of("env", environment)) == shard


@pytest.mark.parametrize(
    ("text", "environment", "said"),
    [
        ("3", {}, "expected NUMBER/COUNT"),
        ("-1/3", {}, "expected NUMBER/COUNT"),
        ("16/16", {}, "16 shards are 0/16 to 15/16"),
        ("0/0", {}, "no 0 shards"),
        ("env", {}, "SLURM_PROCID, OMPI_COMM_WORLD_RANK, PMI_RANK, MV2_COMM_WORLD_RANK is set"),
        ("env", {"RANK": "1"}, "is set"),
        ("env", {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, "is set"),
        ("env", {"RANK": "4", "WORLD_SIZE": "4"}, "RANK=4 with WORLD_SIZE=4: 4 shards are 0/4 to 3/4"),
        ("env", {"RANK": "one", "WORLD_SIZE": "4"}, "RANK: expected a number, found 'one'"),
        ("env", {"SLURM_ARRAY_TASK_ID": "4"}, "SLURM_ARRAY_TASK_COUNT: expected a number, found nothing"),
        ("env", array(7, 3, MIN=1, MAX=7), "array of 3 tasks does not go by 1 from 1 on"),
        ("env", array(4, 3, MIN=1, MAX=7, STEP=2), "ID=4: its array of 3 tasks does not go by 2"),
        (
            "env",
            {**array(1, 8, MIN=0), "SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"},
            "SLURM_ARRAY_TASK_ID says 1/8 and SLURM_PROCID says 2/4",
        ),
    ],
)
def test_what_names_no_shard_is_refused(text: str, environment: dict[str, str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Shard.of(text, environment)


def test_shards_hold_everything_once_in_order() -> None:
    for length in (1, 2, 7, 64):
        for count in (1, 2, 3, 7):
            slices = [Shard(k, count).slice(length) for k in range(count)]
            assert [place for each in slices for place in each] == list(range(length))
            assert max(map(len, slices)) - min(map(len, slices)) <= 1


def test_variables_of_several_processes_are_told_of_and_not_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert shard_of(None, "embeds a share") == (None, None)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    shard, told = shard_of(None, "embeds a share")
    assert shard is None
    assert told == "RANK says that this is process 1 of 4, and it does all of the work; --shard env embeds a share"
    assert shard_of("2/4", "") == (Shard(2, 4), None)


@pytest.mark.parametrize("links", [True, False])
def test_of_many_at_once_one_is_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    ready, found = threading.Barrier(16), list[dict[str, Any]]()

    def begin(number: int) -> None:
        ready.wait()
        found.append(agree(tmp_path / "out" / "plan.json", {"first": number, "long": "x" * 100_000}))

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert all(each == found[0] for each in found)
    assert json.loads((tmp_path / "out" / "plan.json").read_text()) == found[0]
    assert not [path for path in (tmp_path / "out").glob(".*") if "first" not in path.name]


def test_a_damaged_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"shards": 1')
    with pytest.raises(BadInput, match=r"plan.json cannot be read .*remove it"):
        agree(tmp_path / "plan.json", {})


def test_the_first_difference_of_plans_is_named() -> None:
    one = {"shards": 16, "data": [{"name": "a", "digest": "1"}], "keep": []}
    assert difference(one, json.loads(json.dumps(one))) is None
    assert difference(one | {"shards": 5}, one) == "shards was 16 and is 5"
    assert difference(one | {"data": [{"name": "a", "digest": "2"}]}, one) == 'data.0.digest was "1" and is "2"'
    assert difference(one | {"keep": ["a"]}, one) == 'keep was [] and is ["a"]'
