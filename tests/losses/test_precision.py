"""Products of all pairs with factors in bfloat16, as under autocast on CUDA; sums and exponentials are float32."""

import pytest
import torch
from torch import Tensor

from clx.losses.base import LOSSES
from clx.losses.primitives import cube, tiles
from clx.losses.primitives.tiles import multiplying
from pretend_cuda import pretending

ROUNDING = 2**-9  # of a number to bfloat16, relative
TILED = ("infonce", "clip", "nt-xent", "dcl", "hcl", "siglip", "supcon", "mv-infonce", "mv-dhel", "poly-view", "dbpm")


def result(name: str, z: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The loss and its gradient in the embeddings, `[V, B, D]`, with a fixed temperature of 0.1."""
    learned = {"learn_temperature": False} if name != "siglip" else {"learn_temperature": False, "learn_bias": False}
    loss = LOSSES[name](temperature=0.1, **learned)
    data = {"labels": torch.arange(40) % 4, "sample_id": torch.arange(40)}
    leaves = {key: x.clone().requires_grad_() for key, x in z.items()}
    value = loss(leaves, **{key: data[key] for key in loss.required()})
    grads = torch.autograd.grad(value, list(leaves.values()))
    return value.detach(), torch.stack(grads)


@pytest.fixture
def z(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Rows that are alike in pairs; tiles of 16 rows, and none of the matrices that are computed at once."""
    monkeypatch.setattr(tiles, "tile_side", lambda x: 16)
    monkeypatch.setattr(tiles, "small_side", 0)
    g = torch.Generator().manual_seed(3)
    x = torch.randn(40, 24, generator=g)
    return {"image": x, "text": x + torch.randn(40, 24, generator=g)}


@pytest.mark.parametrize("name", TILED)
def test_rounded_factors_change_the_loss_within_their_bound(name: str, z: dict[str, Tensor]) -> None:
    value, gradient = result(name, z)
    with multiplying(torch.bfloat16):
        rounded, other = result(name, z)
    # |u.v| <= 1, so a logit u.v / t changes by 2 roundings / t at most; a log-sum-exp changes by no more than its
    # logits. The losses are sums of this many of them:
    sums = {"siglip": 40, "mv-dhel": 2, "hcl": 3}.get(name, 1)
    bound = sums * 2.01 * ROUNDING / 0.1
    assert 0 < abs(rounded - value) < bound
    assert abs(rounded - value) < 0.01 * abs(value), "and usually by much less"
    assert 0 < (other - gradient).norm() < 0.02 * gradient.norm()


def of_three(z: dict[str, Tensor]) -> dict[str, Tensor]:
    """A third input, like the product of the other two: what Symile looks for."""
    return z | {"speech": z["image"] * z["text"] + 0.5 * z["image"]}


@pytest.mark.parametrize("keep", [0, None])
def test_rounded_factors_change_symile_of_three_within_its_bound(
    keep: int | None, z: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sides of slabs are products of rows, no longer than 1: so the bound is that of a pair. Slabs are kept or not."""
    monkeypatch.setattr(tiles, "keep_limit", keep)
    monkeypatch.setattr(cube, "slab_shape", lambda y: (64, 16))
    z = of_three({key: x[:24] for key, x in z.items()})
    value, gradient = result("symile", z)
    with multiplying(torch.bfloat16):
        rounded, other = result("symile", z)
    assert 0 < abs(rounded - value) < 2.01 * ROUNDING / 0.1
    assert abs(rounded - value) < 0.01 * abs(value)
    assert 0 < (other - gradient).norm() < 0.02 * gradient.norm()


@pytest.mark.parametrize("name", ["clip", "nt-xent", "siglip"])
def test_positives_are_not_rounded(name: str, z: dict[str, Tensor]) -> None:
    """A batch of one has nothing but its positive."""
    one = {key: x[:1] for key, x in z.items()}
    with multiplying(torch.bfloat16):
        rounded = LOSSES[name]()(one)
    assert rounded == LOSSES[name]()(one)


def test_uniformity_is_not_rounded(z: dict[str, Tensor]) -> None:
    with multiplying(torch.bfloat16):
        rounded = LOSSES["align-uniform"]()(z)
    assert rounded == LOSSES["align-uniform"]()(z)


@pytest.mark.parametrize("name", ["clip", "symile"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_autocast_on_cuda_decides(name: str, dtype: torch.dtype | None, z: dict[str, Tensor]) -> None:
    """bfloat16 has the range of float32; in float16 small gradients would be 0, so there float32 stays."""
    z = of_three({key: x[:24] for key, x in z.items()}) if name == "symile" else z
    exact, gradient = result(name, z)
    with multiplying(torch.bfloat16):
        rounded, of_rounded = result(name, z)
    with pretending():
        z = {key: x.to("cuda") for key, x in z.items()}
        with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None):
            value, found = result(name, z)
    wanted, other = (rounded, exact) if dtype == torch.bfloat16 else (exact, rounded)
    assert abs(value.cpu() - wanted) < 1e-6 < abs(value.cpu() - other)
    wanted = of_rounded if dtype == torch.bfloat16 else gradient
    assert (found.cpu() - wanted).norm() < 1e-4 * wanted.norm()
