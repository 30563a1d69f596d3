"""The primitives: tiles equal the dense formula, the shared shift equals the running maximum, precision, stability."""

import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from clx.losses.base import LOSSES
from clx.losses.conr import conr
from clx.losses.geometry import uniformity
from clx.losses.infonce import clip, nt_xent
from clx.losses.multiview import mv_dhel, mv_infonce
from clx.losses.negatives import hard_negatives
from clx.losses.primitives import cube, functional, streaming, tiles
from clx.losses.primitives.edits import DifferentIds, SameIds, off_diagonal, off_items
from clx.losses.primitives.functional import unit
from clx.losses.primitives.streaming import cross, cross_loss, cross_margins, gram, gram_loss, gram_margins
from clx.losses.ranknc import rank_n_contrast
from clx.losses.siglip import siglip
from clx.losses.supcon import supcon
from clx.losses.supremix import supremix
from clx.losses.symile import symile


@pytest.fixture(params=["dense", "one tile", "small tiles", "tiles kept"])
def tiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same primitive cut in different ways."""
    if request.param != "dense":
        monkeypatch.setattr(tiles, "small_side", 0)
    if request.param in ("small tiles", "tiles kept"):
        monkeypatch.setattr(tiles, "tile_side", lambda x: 3)
        monkeypatch.setattr(cube, "slab_shape", lambda y: (6, 2))
    monkeypatch.setattr(tiles, "keep_limit", 1 << 30 if request.param == "tiles kept" else 0)
    return str(request.param)


def rows(*shape: int, scale: float = 1.0, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=g, dtype=torch.float64) * scale).to(dtype).requires_grad_()


def same(got: Tensor, expected: Tensor, leaves: list[Tensor], **tolerance: float) -> None:
    torch.testing.assert_close(got, expected, **tolerance)
    weight = torch.linspace(0.5, 2, got.numel(), dtype=got.dtype).view_as(got)
    for a, b in zip(
        torch.autograd.grad((got * weight).nansum(), leaves),
        torch.autograd.grad((expected * weight).nansum(), leaves, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b, **tolerance)


# scale 1: no shift; 12: shifted; 60: the shifted sums vanish and all is redone with running maxima
@pytest.mark.parametrize("scale", [1.0, 12.0, 60.0])
def test_cross(tiled: str, scale: float) -> None:
    x, y = rows(10, 5, scale=scale), rows(7, 5, scale=scale, seed=1)
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    s = x @ y.T / t
    s = s.masked_fill(torch.eye(10, 7, dtype=torch.bool), -math.inf)
    got = torch.cat(cross(x, y, t, off_diagonal))
    same(got, torch.cat([s.logsumexp(1), s.logsumexp(0)]), [x, y, t])
    same(streaming.cross_rows(x, y, t, off_diagonal), s.logsumexp(1), [x, y, t])


@pytest.mark.parametrize("scale", [1.0, 12.0, 60.0])
@pytest.mark.parametrize("mask", ["diagonal", "apart", "together", "items", "items by place"])
def test_gram(tiled: str, scale: float, mask: str) -> None:
    z = rows(10, 5, scale=scale)
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 0, 2, 1, 0, 2, 2, 1, 0])
    items = torch.arange(5).repeat(2)
    own = torch.eye(10, dtype=torch.bool)
    edit, out = {
        "diagonal": (off_diagonal, own),
        "apart": (DifferentIds(labels), labels[:, None] == labels),
        "together": (SameIds(labels), (labels[:, None] != labels) | own),
        "items": (DifferentIds(items), items[:, None] == items),
        "items by place": (off_items(5), items[:, None] == items),
    }[mask]
    s = z @ z.T / t
    same(gram(z, t, edit)[0], s.masked_fill(out, -math.inf).logsumexp(1), [z, t])
    same(gram([z[:3], z[3:]], t, edit)[0], s.masked_fill(out, -math.inf).logsumexp(1), [z, t])


@pytest.mark.parametrize("scale", [1.0, 12.0, 60.0])
@pytest.mark.parametrize("with_ids", [False, True])
def test_margins(tiled: str, scale: float, with_ids: bool) -> None:
    x, y = rows(10, 5, scale=scale), rows(10, 5, scale=scale, seed=1)
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([0, 1, 0, 2, 3, 4, 5, 6, 7, 8]) if with_ids else torch.arange(10)
    out = ids[:, None] == ids
    edit = DifferentIds(ids) if with_ids else off_diagonal
    s = x @ y.T / t
    left = s.masked_fill(out, -math.inf)
    expected = torch.cat([left.logsumexp(1) - s.diagonal(), left.logsumexp(0) - s.diagonal()])
    same(cross_margins(x, y, t, edit), expected, [x, y, t])
    same(cross_margins(x, y, t, edit, both=False), expected[:10], [x, y, t])
    same(cross_loss(x, y, t, edit), functional.softplus(expected).mean(), [x, y, t])
    same(cross_loss(x, y, t, edit, both=False), functional.softplus(expected[:10]).mean(), [x, y, t])
    z = torch.cat([x, y])
    left = (z @ z.T / t).masked_fill(out.repeat(2, 2), -math.inf)
    expected = left.logsumexp(1) - s.diagonal().repeat(2)
    apart = DifferentIds(ids.repeat(2)) if with_ids else None
    same(gram_margins(x, y, t, apart), expected, [x, y, t])
    same(gram_loss(x, y, t, apart), functional.softplus(expected).mean(), [x, y, t])
    weight = torch.linspace(0.2, 1.5, 10, dtype=torch.float64)
    expected = left.logsumexp(1) - (weight * s.diagonal()).repeat(2)
    same(gram_margins(x, y, t, apart, weight), expected, [x, y, t])


@pytest.mark.parametrize("ids", [None, [0, 0, 0, 0, 0, 1], [0] * 6], ids=["own", "ids", "no negatives"])
@pytest.mark.parametrize("beta", [0.0, 1.5])
@pytest.mark.parametrize("tau_plus", [0.0, 0.1, 0.9])
def test_hard_negatives(tiled: str, tau_plus: float, beta: float, ids: list[int] | None) -> None:
    x, y = unit(rows(6, 4)), unit(torch.cat([rows(3, 4), rows(3, 4, seed=1)]))  # half of them agree: the floor binds
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    same_as_loops(x, y, t, tau_plus, beta, ids)


@pytest.mark.parametrize("beta", [0.0, 1.5])
def test_hard_negatives_that_are_farther_than_the_floor_allows(tiled: str, beta: float) -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.2]], dtype=torch.float64)  # opposite, yet no less than tau_plus p are left
    t = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    same_as_loops(unit(x), unit(x + 0.05), t, 0.1, beta, None)


def same_as_loops(x: Tensor, y: Tensor, t: Tensor, tau_plus: float, beta: float, ids: list[int] | None) -> None:
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    item = torch.tensor(ids or range(len(x))).repeat(2)
    z = torch.cat([x, y])
    positive, terms = ((x * y).sum(1) / t).exp().repeat(2), [0 * z.sum()]
    for row, s in enumerate(z @ z.T / t):
        s = s[item != item[row]]
        if len(s):
            g = ((beta * s).softmax(0) * s.exp()).sum() - tau_plus * positive[row]
            g = torch.maximum(g / (1 - tau_plus), (-1 / t).exp())
            terms.append((1 + len(s) * g / positive[row]).log())
    given = None if ids is None else torch.tensor(ids)
    value = hard_negatives(x, y, t, tau_plus, beta, given)
    same(value, torch.stack(terms).sum() / len(z) + 0 * t, [x, y, t])


@pytest.mark.parametrize("temperature", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_temperature_that_is_not_finite_shows(tiled: str, temperature: float, dtype: torch.dtype) -> None:
    """Its reciprocal would be a factor of NaN, which some CPU libraries take for 0, or 0: a finite loss either way."""
    x, y, w = (unit(rows(10, 8, seed=k, dtype=dtype)).detach().requires_grad_() for k in range(3))
    labels, targets = torch.arange(10) % 3, torch.arange(10, dtype=dtype)[:, None]
    losses: dict[str, Callable[[Tensor], Tensor]] = {
        "rows": lambda t: streaming.cross_rows(x, y, t).sum(),
        "cross": lambda t: torch.cat(cross(x, y, t)).sum(),
        "gram": lambda t: gram([x, y], t)[0].sum(),
        "cross_margins": lambda t: cross_margins(x, y, t).sum(),
        "gram_margins": lambda t: gram_margins(x, y, t).sum(),
        "cross_loss": lambda t: cross_loss(x, y, t),
        "gram_loss": lambda t: gram_loss(x, y, t),
        "cube": lambda t: torch.cat(cube.cube([x, y, w], t)).sum(),
        "siglip": lambda t: siglip(x, y, t, -3.0),
        "debiased": lambda t: hard_negatives(x, y, t),
        "hcl": lambda t: hard_negatives(x, y, t, beta=1.0),
        "mv-dhel": lambda t: mv_dhel([x, y, w], t),
        "rank-n-contrast": lambda t: rank_n_contrast(x, targets, t),
        "supcon": lambda t: supcon(x, labels, t)[0].mean(),
        "supremix": lambda t: supremix(x, targets[:, 0] // 2, t)[0].mean(),
        "symile": lambda t: symile([x, y, w], t),
    }
    for name, loss in losses.items():
        for t in (torch.tensor(temperature, dtype=dtype), temperature):
            value = loss(t)  # type: ignore[arg-type]
            assert value.isnan(), name
            (g,) = torch.autograd.grad(value, [x])
            assert not g.isfinite().any(), name


@pytest.mark.parametrize("kernel", [0.5, 30.0])
def test_uniformity(tiled: str, kernel: float) -> None:
    x = rows(7, 4, scale=0.7)
    expected = torch.pdist(x).square().mul(-kernel).exp().mean().log()
    same(uniformity(x, kernel), expected, [x])


def test_tiles_are_kept_in_proportion_to_the_inputs() -> None:
    def keeps(n: int, d: int, upper: bool = False) -> bool:
        x = torch.empty(n, d)
        inputs = [x] if upper else [x, x]
        return tiles.Grid(x, x, 1.0, None, upper).bytes() <= tiles.budget(*inputs)

    assert keeps(4096, 512)
    assert keeps(8192, 512, upper=True)
    assert not keeps(16384, 128)
    assert not keeps(4096, 128, upper=True)
    assert not keeps(32768, 512)
    with tiles.keeping(0):
        assert not keeps(64, 512)


def test_all_at_once_is_for_the_cpu() -> None:
    x = torch.empty(4, 2)
    assert tiles.is_small(x, 4)
    assert not tiles.is_small(x, 513)
    assert not tiles.is_small(x.to("meta"), 4)  # as Apple's GPUs, which are no CUDA either


def test_gram_adds_up_weighted_logits(tiled: str) -> None:
    z = rows(10, 5)
    w = torch.rand(10, 10, dtype=torch.float64)
    w = w + w.T
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    log_sum, linear = gram(z, t, off_diagonal, lambda i, j: w[i, j].clone())
    s = z @ z.T / t
    own = torch.eye(10, dtype=torch.bool)
    same(log_sum + linear, s.masked_fill(own, -math.inf).logsumexp(1) + (w * s).sum(1), [z, t])


@pytest.mark.parametrize("scale", [1.0, 4.0, 12.0])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_cube(tiled: str, scale: float, count: int) -> None:
    factors = [rows(5, 4, scale=scale, seed=k) for k in range(count)]
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    letters = "ijkl"[:count]
    s = torch.einsum(",".join(f"{c}d" for c in letters) + "->" + letters, *factors) / t
    own = torch.zeros_like(s, dtype=torch.bool)
    own[(torch.arange(5),) * count] = True
    s = s.masked_fill(own, -math.inf)
    expected = torch.cat([s.movedim(m, 0).flatten(1).logsumexp(1) for m in range(count)])
    same(torch.cat(cube.cube(factors, t)), expected, [*factors, t])


def test_siglip_in_both_forms(tiled: str) -> None:
    for scale in (1.0, 30.0):  # beyond logits of 80 the fast form would overflow
        x, y = rows(10, 5, scale=scale), rows(10, 5, scale=scale, seed=1)
        t, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.4, -3.0))
        s = x @ y.T / t + b
        sign = 2 * torch.eye(10, dtype=torch.float64) - 1
        expected = torch.nn.functional.softplus(-sign * s, threshold=1e9 if scale == 1 else 40).sum() / 10
        same(siglip(x, y, t, b), expected, [x, y, t, b])
    assert siglip(x, y, 0.4, -3.0).requires_grad
    torch.autograd.grad(siglip(x, y, 0.4, -3.0), [x])


def test_a_row_with_nothing_left_is_minus_infinity_without_gradient(tiled: str) -> None:
    z = rows(7, 5)
    ids = torch.zeros(7, dtype=torch.long)
    log_sum = gram(z, 0.1, DifferentIds(ids))[0]
    assert (log_sum == -math.inf).all()
    (g,) = torch.autograd.grad(functional.softplus(log_sum).sum(), z)
    assert (g == 0).all()


def test_only_the_inputs_that_need_it_get_a_gradient() -> None:
    x, y = rows(6, 4), rows(6, 4, seed=1).detach()
    (g,) = torch.autograd.grad(streaming.cross_rows(x, y, 0.5).sum(), x)
    expected = ((x @ y.T / 0.5).softmax(1) @ y / 0.5).detach()
    torch.testing.assert_close(g, expected)
    with torch.no_grad():
        assert not cross(x, y, 0.5)[0].requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    x, y = (unit(rows(9, 4, seed=k, dtype=torch.float32)) for k in range(2))
    z = {"image": x, "text": y}
    losses: list[Callable[[], Tensor]] = [
        *(functools.partial(LOSSES[name](), z) for name in ("clip", "nt-xent", "mv-infonce", "symile")),
        *(functools.partial(loss, x, y, 0.05) for loss in (clip, nt_xent)),
        lambda: siglip(x, y, 0.05, -5.0),
        lambda: cross(x, y, 0.05)[0],
        lambda: gram(x, 0.05)[0],
    ]
    for loss in losses:
        exact = loss()
        with torch.autocast("cpu", dtype=dtype):
            got = loss()
        assert got.dtype == torch.float32
        assert torch.equal(got, exact)


def test_wide_logits_are_exact() -> None:
    """Scale 100, cosines from -1 to 1: logits span 200, more than exp has room for in float32."""
    g = torch.Generator().manual_seed(0)
    x = unit(torch.randn(64, 8, generator=g))
    y = x.roll(1, 0) * -1  # no row has a near neighbour on the other side at its own place
    y[::2] = x[::2]
    exact = clip(x.double(), y.double(), 0.01)
    torch.testing.assert_close(clip(x, y, 0.01).double(), exact, rtol=1e-5, atol=0)
    s = (x.double() @ y.double().T) * 100
    target = torch.arange(64)
    dense = (torch.nn.functional.cross_entropy(s, target) + torch.nn.functional.cross_entropy(s.T, target)) / 2
    torch.testing.assert_close(exact, dense)
    for t in (0.01, 0.005):  # opposite rows: everything a row sees may lie at -1 / t
        far = torch.cat([x, -x])
        value, grads = with_gradients(lambda z, t=t: clip(z, -z, t), far)
        exact_value, exact_grads = with_gradients(lambda z, t=t: clip(z, -z, t), far.double())
        torch.testing.assert_close(value.double(), exact_value, rtol=1e-5, atol=1e-5)
        assert off(grads, exact_grads) < 1e-5


def with_gradients(loss: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    z = z.detach().clone().requires_grad_()
    value = loss(z)
    return value.detach(), torch.autograd.grad(value, z)[0]


def off(got: Tensor, exact: Tensor) -> float:
    """Relative 2-norm of the difference."""
    return float((got.double() - exact).norm() / exact.norm())


def test_clip_gradient_late_in_training() -> None:
    """Positives take almost all of the softmax: 1 - p must not be computed as a difference (issue 3, 2e-6)."""
    g = torch.Generator().manual_seed(0)
    item = torch.randn(256, 512, generator=g)
    x, y = (unit(item + 0.3 * torch.randn(256, 512, generator=g)) for _ in range(2))
    stacked = torch.stack([x, y])
    p = (x @ y.T / 0.07).softmax(1).diagonal().mean()
    assert p > 0.98
    _, grads = with_gradients(lambda z: clip(z[0], z[1], 0.07), stacked)
    _, exact = with_gradients(lambda z: clip(z[0], z[1], 0.07), stacked.double())
    assert off(grads, exact) < 2e-6


def test_mv_dhel_where_the_published_product_fails() -> None:
    g = torch.Generator().manual_seed(0)
    views = torch.randn(8, 64, 16, generator=g)
    value, grads = with_gradients(lambda z: mv_dhel([unit(v) for v in z], 0.01), views)
    assert value.isfinite()
    assert grads.isfinite().all()
    views = torch.randn(8, 1024, 64, generator=g)
    _, grads = with_gradients(lambda z: mv_dhel([unit(v) for v in z], 0.2), views)
    _, exact = with_gradients(lambda z: mv_dhel([unit(v) for v in z], 0.2), views.double())
    assert off(grads, exact) < 1e-5


def test_float32_gradients_of_the_others() -> None:
    g = torch.Generator().manual_seed(0)
    views = torch.randn(3, 96, 16, generator=g)
    labels = torch.arange(96) % 7
    targets = torch.rand(288, 1, generator=g, dtype=torch.float64) * 10
    predictions = targets + torch.randn(288, 1, generator=g, dtype=torch.float64)
    losses: dict[str, Callable[[Tensor], Tensor]] = {
        "mv-infonce": lambda z: mv_infonce([unit(v) for v in z], 0.1),
        "supcon": lambda z: supcon(unit(z[0]), labels, 0.1)[0].mean(),
        "supcon in": lambda z: supcon(unit(z[0]), labels, 0.1, "in")[0].mean(),
        "symile": lambda z: symile([unit(v)[:24] for v in z], 0.1),
        "rank-n-contrast": lambda z: rank_n_contrast(z.flatten(0, 1), targets.to(z.dtype), 2.0),
        "conr": lambda z: conr(unit(z.flatten(0, 1)), targets.to(z.dtype), predictions.to(z.dtype), 0.1, 1.0, 0.01)[
            0
        ].mean(),
    }
    for name, loss in losses.items():
        value, grads = with_gradients(loss, views)
        exact, expected = with_gradients(loss, views.double())
        torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)
        assert off(grads, expected) < 1e-5, name


@pytest.mark.parametrize("pushing", [0.1, 300.0])  # the exponential of 300 times 5 is beyond float64
def test_conr_with_rows_that_are_alone(tiled: str, pushing: float) -> None:
    z, y = rows(10, 5), torch.arange(10, dtype=torch.float64)[:, None] % 6
    p = (y + 3) % 6 + 0.5
    alone = torch.arange(10) % 3 == 0
    near, seen = (y - y.T).abs() <= 1, (p - p.T).abs() <= 1
    near &= ~torch.eye(10, dtype=torch.bool) | torch.diag(alone)
    far = seen & ((y - y.T).abs() > 1)
    s = unit(z) @ unit(z).T / 0.3
    columns = torch.where(near, s, torch.where(far, s + pushing * (y - y.T).abs(), -torch.inf))
    expected = columns.logsumexp(1) - (s * near).sum(1) / near.sum(1).clamp(min=1)
    valid = near.any(1) & far.any(1)
    got, anchors = conr(unit(z), y, p, 0.3, 1.0, pushing, alone)
    assert torch.equal(anchors, valid)
    same(got, torch.where(valid, expected, 0), [z])


def test_rank_n_contrast_far_apart() -> None:
    """Distances of hundreds: exponentials of the far rows vanish, and the published code gives -inf."""
    z = rows(12, 4, scale=1e3)
    y = torch.arange(12, dtype=torch.float64)[:, None] % 5
    value, grads = with_gradients(lambda x: rank_n_contrast(x, y, 2.0), z)
    assert value.isfinite()
    single, single_grads = with_gradients(lambda x: rank_n_contrast(x, y.float(), 2.0), z.float())
    torch.testing.assert_close(single.double(), value, rtol=1e-5, atol=0)
    assert off(single_grads, grads) < 1e-4


def test_rank_n_contrast_of_coinciding_rows() -> None:
    z = rows(6, 4)[[0, 0, 1, 1, 2, 3]]
    value, grads = with_gradients(lambda x: rank_n_contrast(x, torch.arange(6.0)[:, None] % 3, 2.0), z)
    assert value.isfinite()
    twin = with_gradients(lambda x: rank_n_contrast(x, torch.arange(6.0)[:, None] % 3, 2.0), z + 0)[1]
    assert torch.equal(grads, twin)


@pytest.mark.parametrize("size", [512, 700])
def test_real_tiles_equal_dense(size: int) -> None:
    """With the sizes in force, not forced ones."""
    g = torch.Generator().manual_seed(1)
    x, y = (unit(torch.randn(size, 32, generator=g)).requires_grad_() for _ in range(2))
    own = torch.eye(size, dtype=torch.bool)
    s = (x @ y.T / 0.1).masked_fill(own, -math.inf)
    expected = torch.cat([s.logsumexp(1), s.logsumexp(0)])
    same(torch.cat(cross(x, y, 0.1, off_diagonal)), expected, [x, y], rtol=1e-4, atol=1e-5)
    s = (x @ x.T / 0.1).masked_fill(own, -math.inf)
    same(gram(x, 0.1, off_diagonal)[0], s.logsumexp(1), [x], rtol=1e-4, atol=1e-5)
