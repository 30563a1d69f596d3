"""Every loss on pretended CUDA: nothing stays on the CPU, and the host hardly ever waits for the device."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from clx.losses.base import LOSSES, Loss
from clx.losses.primitives import cube, tiles
from loss_inputs import EVERY, batch, inner_of, make, name_of
from pretend_cuda import Pretended, pretending

MISSING = {"text": [0, 1], "image": [3]}
"""Rows that lack an input."""


def given(loss: Loss, size: int, missing: bool) -> dict[str, Any]:
    """Embeddings and extras on the CPU, as in the contract; without `present` where nothing is missing."""
    data = batch(size, dtype=torch.float32)
    for name, gone in MISSING.items():
        data["present"][name][gone] = not missing
    data |= inner_of(data["z"], name_of(loss))
    if "predictions" in loss.needs() and "labels" in loss.needs():
        data["predictions"] = data["predictions"] * torch.tensor([1.0, -1.0, 0.5])
    if not missing:
        data["present"] = None
    else:
        data["targets"][1], data["labels"][1], data["label_sets"][1] = torch.nan, -1, torch.nan
    return {key: data[key] for key in ("z", *loss.needs() - {"generator"})}


def value_and_gradients(loss: Loss, data: dict[str, Any]) -> dict[str, Tensor]:
    """The loss, and its gradients by name: of embeddings, of predictions, of steps and of what it learns."""
    data = dict(data)
    z = data.pop("z")
    leaves = dict(z)
    if "predictions" in data:
        leaves["predictions"] = data["predictions"]
    for other in data.keys() & {"steps", "attention", "masked"}:
        leaves |= {f"{name}.{other}": rows for name, (rows, _) in data[other].items()}
    for x in leaves.values():
        x.requires_grad_()
    leaves |= dict(loss.named_parameters())
    if "generator" in loss.needs():
        data["generator"] = torch.Generator().manual_seed(5)
    value = loss(z, **data)
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {"loss": value.detach()} | {name: g for name, g in zip(leaves, found, strict=True) if g is not None}


def on_cuda(name: str, size: int, missing: bool) -> Counter[str]:
    """What the host waited for; the result is that of the CPU."""
    wanted = value_and_gradients(make(name).float(), given(make(name), size, missing))
    with pretending() as pretence:
        loss = make(name).float().to("cuda")
        data = tree_map(
            lambda x: x.to("cuda") if isinstance(x, Tensor | torch.nn.Module) else x, given(loss, size, missing)
        )
        for kept in ("memory", "queues"):
            if hasattr(loss, kept):
                setattr(loss, kept, getattr(loss, kept).to("cuda"))
        pretence.reads.clear()
        found = value_and_gradients(loss, data)
        waited = Counter(pretence.reads)
        assert all(isinstance(g, Pretended) for g in found.values())
        assert all(isinstance(count, int | float) or count.device.type == "cuda" for count in loss.log.values())
        lowered = {key: g.cpu() for key, g in found.items()}
        torch.testing.assert_close(lowered, wanted, rtol=1e-4, atol=1e-5)
        return waited


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles and slabs of a few rows, so that small batches have many."""
    monkeypatch.setattr(tiles, "tile_side", lambda x: 16)
    monkeypatch.setattr(cube, "slab_shape", lambda y: (64, 16))


ONE_TILE, SEVERAL = 6, 20


def sizes(quick: int, slow: int) -> list[Any]:
    return [quick, pytest.param(slow, marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("size", sizes(ONE_TILE, SEVERAL))
def test_the_host_waits_as_often_as_the_loss_says(name: str, size: int, small_tiles: None) -> None:
    waited = on_cuda(name, size, missing=False)
    assert waited.total() <= LOSSES[name].host_reads, waited


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("size", sizes(SEVERAL, ONE_TILE))
def test_missing_inputs_cost_one_wait_each_at_most(name: str, size: int, small_tiles: None) -> None:
    """In several tiles, of which each would have waited."""
    waited = on_cuda(name, size, missing=True)
    assert waited.total() <= LOSSES[name].host_reads + len(MISSING), waited
