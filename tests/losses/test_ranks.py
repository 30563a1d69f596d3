"""Primitives shared out over ranks: every objective as in one process, the same digits and collectives on every rank.

shared_step.py makes the cases; it runs once for each number of ranks.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from clx.losses.base import LOSSES
from clx.losses.primitives import ranks, tiles
from conftest import Once

pytestmark = pytest.mark.longest

SCRIPT = Path(__file__).parent / "shared_step.py"
Found = list[dict[str, dict[str, Any]]]
"""What each rank says of each case."""
WHOLE = {
    *("supremix", "rank-n-contrast", "ts2vec", "cosent", "angle", "distil-scores", "pairwise mv-dhel", "moit"),
    *(
        "simsiam",
        "byol",
        "vicreg",
        "barlow-twins",
        "swav",
        "dino",
        "distil",
        "laso",
        "late",
        "attention",
        *("masked-token", "replaced-token"),
        "reconstruct",
        "label-prototypes",
    ),
}
HEADS = {name for name in LOSSES if LOSSES[name].family == "supervised heads"}


def start(count: int, folder: Path, python: Path) -> None:
    folder.mkdir()
    given = [[python, SCRIPT, str(k), str(count), folder / "store", folder / f"{k}.json"] for k in range(count)]
    processes = [
        subprocess.Popen(
            each,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
            stderr=subprocess.PIPE,
            text=True,
        )
        for each in given
    ]
    try:
        said = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes), "\n".join(said)


@pytest.fixture(params=[2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def found(request: pytest.FixtureRequest, once: Once, commands: Path) -> Found:
    python = commands / "python-once"
    folder = once(f"ranks-{request.param}", lambda folder: start(request.param, folder, python))
    return [json.loads((folder / f"{k}.json").read_text()) for k in range(request.param)]


@pytest.mark.parametrize("name", [*sorted(LOSSES), "sum"])
def test_loss_and_every_gradient_are_those_of_one_process(found: Found, name: str) -> None:
    cases = [case for case in found[0] if case.split()[0] == name]
    assert len(cases) >= 3
    for case in cases:
        for rank in found:
            assert rank[case]["finite"], case
            limit = 1e-12 if case.endswith("float64") else 1e-5
            assert max(rank[case]["off"].values()) < limit, (case, rank[case]["off"])
    gradients = {key for case in cases for key in found[0][case]["off"]}
    assert "loss" in gradients
    assert ("0.log_temperature" in gradients) == hasattr(LOSSES[name](), "temperature") if name != "sum" else True
    assert ("0.logit_bias" in gradients) == (name in ("siglip", "relation"))
    assert ("0.absent" in gradients) == (name == "symile")


def test_sums_out_of_the_trusted_range_on_all_ranks_or_on_one(found: Found) -> None:
    """Some ranks then take running maxima, which no other has to know: what is sent is the same."""
    for kind in ("cross", "rows", "cube", "four", "gram", "apart", "self", "led"):
        assert not any(rank[f"{kind} 1"]["maxima"] for rank in found)
    for kind in ("cross", "rows", "cube", "four", "gram", "apart"):
        assert all(rank[f"{kind} 60"]["maxima"] for rank in found)
    for kind in ("rows", "self", "led"):
        assert {rank[f"{kind} half"]["maxima"] for rank in found} == {False, True}
    for kind in ("cross", "rows", "cube", "four", "gram", "same", "apart", "self", "led", "nothing left"):
        cases = [f"{kind} {scale}" for scale in ("1", "60", "half")]
        for rank in found:
            assert len({(rank[case]["collectives"], rank[case]["bytes"]) for case in cases}) == 1
            for case in cases:
                # with logits up to 1e5, rounding them costs 1e-11
                assert max(rank[case]["off"].values()) < 1e-11, (case, rank[case]["off"])


def test_all_ranks_have_the_same_digits_and_send_the_same(found: Found) -> None:
    for case, first in found[0].items():
        for rank in found[1:]:
            for key in ("digest", "forward", "collectives", "bytes"):
                assert rank[case][key] == first[key], (case, key)


def test_what_is_sent_depends_on_no_number(found: Found) -> None:
    others = [case for case in found[0] if " other rows " in case]
    assert len(others) == 10
    for case in others:
        first, other = found[0][case.replace(" other rows", "")], found[0][case]
        assert first["digest"] != other["digest"]
        assert (first["collectives"], first["bytes"]) == (other["collectives"], other["bytes"])


PAIRS, B, D, V = 3, 19, 8, 3
# collectives and bytes of float64, for three names
SENT = {
    "clip": (3 * PAIRS, PAIRS * 8 * (2 * 2 * B + 2 * B * D)),
    "infonce": (3 * PAIRS, PAIRS * 8 * (2 * B + 2 * B * D)),
    "nt-xent": (3 * PAIRS, PAIRS * 8 * (2 * 2 * B + 2 * B * D)),
    "siglip": (PAIRS, PAIRS * 8 * (2 + 2 * B * D)),
    "relation": (2 * PAIRS, 2 * PAIRS * 8 * (2 + 2 * B * D + 1)),  # and the gradient of the temperature
    "supcon": (3, 8 * (2 * V * B + V * B * D)),
    "mv-dhel": (3 * V, V * 8 * (2 * B + B * D)),
    "symile": (3, 8 * (2 * V * B + V * B * D)),
}


@pytest.mark.parametrize("name", SENT)
def test_bytes_are_as_the_guide_says(found: Found, name: str) -> None:
    case = found[0][f"{name} {B} float64"]
    assert (case["collectives"], case["bytes"]) == SENT[name]


def test_a_side_without_gradient_sends_none(found: Found) -> None:
    assert found[0]["frozen"]["off"].keys() == {"loss", "x"}
    assert found[0]["frozen"]["bytes"] == 8 * (2 * 23 + 23 * 5)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_shared_or_whole(found: Found, name: str) -> None:
    cases = {f"{name} {B}{gaps} {kind}" for gaps in ("", " with gaps") for kind in ("float64", "float32")}
    assert {bool(found[0][case]["collectives"]) for case in cases & found[0].keys()} == {name not in WHOLE | HEADS}


def test_few_rows_are_not_shared(found: Found) -> None:
    assert found[0]["by size 300"]["collectives"] == 0
    assert found[0]["by size 800"]["collectives"] == 3
    assert found[0]["by size 800"]["forward"] == 2


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 40, 41])
def test_each_pair_is_computed_once_and_all_ranks_have_as_many(size: int, n: int) -> None:
    def covered(blocks: list[tuple[slice, slice]]) -> torch.Tensor:
        count = torch.zeros(n, n, dtype=torch.long)
        for i, j in blocks:
            count[i, j] += 1
        return count

    worlds = [ranks.World(rank, size) for rank in range(size)]
    assert (sum(covered(world.rectangle(n, n)) for world in worlds) == 1).all()
    mine = []
    for world in worlds:
        (own, same), *others = world.triangle(n)
        assert own == same
        mine.append(covered([(own, own)]) + (between := covered(others)) + between.T)
    assert (sum(mine) == 1).all()
    if n >= 5 * size:
        assert max(int(each.sum()) for each in mine) <= 1.25 * n * n / size


def test_one_rank_is_no_sharing() -> None:
    assert ranks.sharers(torch.zeros(4, 2), 1 << 40) is ranks.alone
    grid = tiles.Grid(torch.zeros(700, 4), torch.zeros(700, 4), 1.0, None)
    assert grid.world is ranks.alone
    total = torch.arange(3.0)
    ranks.alone.add_up(total)
    assert grid.touched(total, 0) is total
