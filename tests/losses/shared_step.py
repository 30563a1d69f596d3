"""python shared_step.py RANK RANKS STORE OUT: one of the processes that test_ranks.py compares with one process alone.

Every case runs twice on the same rows, by this process alone and shared out over all ranks. OUT is JSON: for each case
how far the loss and each gradient lie from those of one process, relative to their size, the digits themselves as a
digest, and what was sent.
"""

import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from test_contract import EVERY, NAMES, TEMPERED, batch, call, make
from torch import Tensor

from clx.losses.base import Loss
from clx.losses.primitives import cube, ranks, tiles
from clx.losses.primitives.edits import DifferentIds, SameIds, off_diagonal
from clx.losses.primitives.functional import unit
from clx.losses.primitives.streaming import cross, cross_rows, gram
from loss_inputs import of_each_kind

Leaves = dict[str, Tensor]
Case = tuple[str, Callable[[], tuple[Tensor, Leaves]]]
DTYPES = {"float64": torch.float64, "float32": torch.float32}
SIZES = (0, 1, 19)
MORE: dict[str, list[dict[str, Any]]] = {
    "supcon": [{"form": "in"}],
    "symile": [{"tuples": "shuffled"}],
    "poly-view": [{"form": "arithmetic"}, {"form": "sufficient"}],
    "average-view": [{"two_view": "mv-dhel"}],
    "clip": [{"exclude": "labels"}, {"exclude": {"by": "second", "above": 0.9}}],
    "infonce": [
        {"directions": ["first-second", "second-second"], "noise": 5, "hardness": 2.0},
        {"exclude": {"by": "second", "above": "partner"}},
    ],
    "dcl": [{"exclude": "labels"}],
    "siglip": [{"exclude": "labels"}],
    "hcl": [{"exclude": "labels"}],
    "relation": [{"form": "sigmoid"}, {"by": "features", "of": "text"}, {"among": "all", "form": "top-k", "k": 3}],
    "conr": [{"window": 1.0, "pushing": 0.5}],
}
BY_TILES = ("clip", "siglip", "nt-xent", "hcl", "supcon", "conr", "mv-infonce", "mv-dhel", "dbpm", "align-uniform")


def rows_of(size: int, gaps: bool, dtype: torch.dtype, seed: int = 1) -> dict[str, Any]:
    """The batch of the contract; with gaps inputs, labels and targets are missing, and negatives are there."""
    data = batch(size, 8, dtype, seed)
    data["targets"] = data["targets"].to(dtype)
    data["repeats"] = torch.arange(size) // 2
    if gaps:
        for k, name in enumerate(NAMES):
            data["present"][name][k :: k + 3] = False
            data["z"][name][~data["present"][name]] = torch.nan
        data["labels"][2::5], data["targets"][1::6], data["weights"] = -1, torch.nan, torch.linspace(0.5, 1.5, size)
        data["negatives"] = {"audio/0": data["z"]["audio/0"].roll(1, 1)}
        data["contents"] = {name: torch.arange(size) % 11 for name in NAMES}
    return data


def step_of(losses: list[Loss], data: dict[str, Any]) -> tuple[Tensor, Leaves]:
    """The sum of the losses, and what may receive a gradient by name."""
    data = data | {"z": {n: x.clone().requires_grad_() for n, x in data["z"].items()}}
    data["predictions"] = data["predictions"].clone().requires_grad_()
    parameters = {f"{k}.{n}": p for k, loss in enumerate(losses) for n, p in loss.named_parameters()}
    value = torch.stack([call(loss, data) for loss in losses]).sum()
    return value, data["z"] | {"predictions": data["predictions"]} | parameters


def objectives(names: list[str], fields: dict[str, Any], data: dict[str, Any]) -> Callable[[], tuple[Tensor, Leaves]]:
    def step() -> tuple[Tensor, Leaves]:
        learned = [fields | ({"learn_temperature": True} if n in TEMPERED else {}) for n in names]
        losses = [make(n, width=8, **f).to(data["z"]["text"].dtype) for n, f in zip(names, learned, strict=True)]
        return step_of(losses, data)

    return step


def all_objectives(quick: bool) -> Iterator[Case]:
    """Objectives by settings, sizes, gaps and dtype; `quick` leaves out much that another case has nearly as well."""
    variants = [(name, fields) for name in EVERY for fields in [{}, *MORE.get(name, [])]]
    sizes = [*((size, "float64") for size in SIZES), (SIZES[-1], "float32")]
    each = [(size, kind, gaps) for size, kind in sizes for gaps in (False, True) if gaps or size == SIZES[-1]]
    kinds = of_each_kind()
    for (name, fields), (size, kind, gaps) in itertools.product(variants, each):
        whole = (size, kind) == (SIZES[-1], "float64")
        if quick and not (whole and gaps if fields else (name in kinds or whole or (size, gaps) == (SIZES[-1], True))):
            continue
        said = " ".join([name, *map(str, fields.values()), f"{size}{' with gaps' * gaps} {kind}"])
        yield said, objectives([name], fields, rows_of(size, gaps, DTYPES[kind]))
    for size, kind in itertools.product((7, 19), DTYPES):
        yield f"sum {size} {kind}", objectives(["clip", "supremix", "l1"], {}, rows_of(size, True, DTYPES[kind]))
    for name in BY_TILES:
        yield f"{name} 19 other rows float64", objectives([name], {}, rows_of(19, False, torch.float64, seed=2))


def primitive(result: Callable[..., Tensor], leaves: Leaves) -> Callable[[], tuple[Tensor, Leaves]]:
    def step() -> tuple[Tensor, Leaves]:
        fresh = {name: x.clone().requires_grad_() for name, x in leaves.items()}
        value = result(*fresh.values())
        weight = torch.linspace(0.5, 2, len(value), dtype=value.dtype)
        return (value * weight).masked_fill(value.isinf(), 0).sum(), fresh  # a row with nothing left is -inf

    return step


def far_apart() -> Iterator[Case]:
    """Sums that leave the trusted range: on no rank at 1, on all at 60, at "half" on those that have the small rows."""
    g = torch.Generator().manual_seed(0)
    x, y, w = (torch.randn(n, 5, generator=g, dtype=torch.float64) for n in (23, 17, 23))
    labels, t = torch.arange(23) % 5, torch.tensor(0.4, dtype=torch.float64)

    def scale(said: str, small: int, of: int = 23) -> Tensor:
        rows = torch.full((of, 1), 1.0 if said == "1" else 60.0, dtype=torch.float64)
        rows[:small] = 60.0 if said == "60" else 1.0
        return rows

    yield "frozen", primitive(lambda x: cross_rows(x, y, 0.4), {"x": x})
    for said in ("1", "60", "half"):
        all_large = 60.0 if said == "60" else 1.0
        few = {"x": x[:9] * scale(said, 4, 9), "y": y[:9] * all_large, "w": w[:9], "t": t}
        two, one = {"x": x * scale(said, 11), "y": y * all_large, "t": t}, {"x": x * scale(said, 11), "t": t}
        long, led = {"x": unit(x[:1]) * scale(said, 4), "t": t}, {"x": scale(said, 2, 9) ** 2, "t": t}
        yield f"cross {said}", primitive(lambda x, y, t: torch.cat(cross(x, y, t)), two)
        yield f"rows {said}", primitive(lambda x, y, t: cross_rows(x, y, t, off_diagonal), two)
        yield f"cube {said}", primitive(lambda x, y, w, t: torch.cat(cube.cube([x, y, w], t)), few)
        yield f"four {said}", primitive(lambda x, y, w, t: torch.cat(cube.cube([x[:4], y[:4], w[:4], x[4:8]], t)), few)
        yield f"gram {said}", primitive(lambda x, t: gram(x, t, off_diagonal)[0], one)
        yield f"same {said}", primitive(lambda x, t: gram(x, t, SameIds(labels))[0], one)
        yield f"apart {said}", primitive(lambda x, t: gram(x, t, DifferentIds(labels))[0], one)
        yield f"self {said}", primitive(lambda x, t: gram(x, t)[0], long)
        yield f"led {said}", primitive(lambda x, t: torch.cat(cube.cube([x, x * 0 + 1, x * 0 + 1], t)), led)
        yield f"nothing left {said}", primitive(lambda x, t: gram(x, t, DifferentIds(labels * 0))[0], one)


def run(step: Callable[[], tuple[Tensor, Leaves]]) -> dict[str, Tensor]:
    value, leaves = step()
    grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {"loss": value.detach()} | {n: g for n, g in zip(leaves, grads, strict=True) if g is not None}


def compared(step: Callable[[], tuple[Tensor, Leaves]], fewest: int | None) -> dict[str, Any]:
    """One case, alone and shared."""
    expected = run(step)
    ranks.traffic.collectives = ranks.traffic.bytes = 0
    absorb = tiles.ExponentialSum.absorb
    with ranks.sharing(fewest=fewest), patch.object(tiles.ExponentialSum, "absorb", autospec=True) as maxima:
        maxima.side_effect = absorb
        value, leaves = step()
    sent_forward = ranks.traffic.collectives
    grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)  # outside: as a trainer may do it
    got = {"loss": value.detach()} | {n: g for n, g in zip(leaves, grads, strict=True) if g is not None}
    assert got.keys() == expected.keys()
    sizes = {n: float(x.norm()) for n, x in expected.items()}
    return {
        "off": {n: float((x - expected[n]).norm()) / max(sizes[n], 0.1) for n, x in got.items()},
        "finite": all(bool(x.isfinite().all()) for x in got.values()),
        "digest": hashlib.sha256(b"".join(x.numpy().tobytes() for x in got.values())).hexdigest(),
        "maxima": maxima.called,  # whether this rank needed running maxima
        "forward": sent_forward,
        "collectives": ranks.traffic.collectives,
        "bytes": ranks.traffic.bytes,
    }


def main(rank: int, size: int, store: str, out: Path) -> None:
    quick = size == 2
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=size)
    found = {}
    small = (
        patch.object(tiles, "tile_side", lambda x: 5),
        patch.object(cube, "slab_shape", lambda y: (6, 2)),
    )
    with small[0], small[1]:
        for said, step in itertools.chain(all_objectives(quick), far_apart()):
            found[said] = compared(step, 0)
    large = [*((name, "float32") for name in BY_TILES), *((name, "float64") for name in BY_TILES[:5])]
    for name, kind in [("siglip", "float32"), ("supcon", "float32"), ("clip", "float64")] if quick else large:
        step = objectives([name], {}, rows_of(600, name == "clip", DTYPES[kind]))
        found[f"{name} 600 {kind}"] = compared(step, 0)  # in tiles of their usual size
    for count in (300, 800):  # by the rule
        two = batch(count, 8, torch.float32)
        two["z"] = {n: two["z"][n] for n in NAMES[:2]}
        two["present"] = None
        found[f"by size {count}"] = compared(objectives(["clip"], {}, two), None)
    out.write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
