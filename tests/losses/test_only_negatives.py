"""Rows that are negatives and nothing else, in `infonce`, `clip`, `siglip`: loops, what is missing, repeats, tiles."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from clx.losses.base import LOSSES
from clx.losses.primitives import tiles

B, D = 6, 4
NAMES = ("image", "text", "audio")
WRONG = ("wrong/0", "wrong/1")
LOSS = pytest.mark.parametrize("name", ["infonce", "clip", "siglip"])
BIAS = torch.tensor(-10.0, dtype=torch.float64)


@pytest.fixture(params=["small batch", "tiles"])
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The batch all at once, or in tiles of three rows."""
    if request.param == "tiles":
        monkeypatch.setattr(tiles, "small_side", 0)
        monkeypatch.setattr(tiles, "tile_side", lambda x: 3)
    return str(request.param)


def batch(size: int = B, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """Three inputs and two columns of negatives, with holes in both."""
    g = torch.Generator().manual_seed(3)
    z = {n: torch.randn(size, D, generator=g, dtype=torch.float64).to(dtype) for n in (*NAMES, *WRONG)}
    present = {n: torch.ones(size, dtype=torch.bool) for n in (*NAMES, *WRONG)}
    present["text"][1] = present["wrong/0"][2] = present["wrong/1"][:4] = False
    contents = {n: torch.arange(size) + 100 * k for k, n in enumerate(present)}
    contents["wrong/0"][0] = contents["text"][4]  # the text of row 4 is a negative of row 0
    contents["wrong/1"][5] = contents["audio"][2]
    return {"z": z, "present": present, "contents": contents}


def call(loss: Any, d: dict[str, Any], **more: Any) -> Tensor:
    value: Tensor = loss(
        {n: d["z"][n] for n in NAMES},
        negatives={n: d["z"][n] for n in WRONG},
        present=d["present"],
        contents=d["contents"],
        **more,
    )
    return value


def loops(name: str, d: dict[str, Any], t: Tensor, ids: list[int] | None = None) -> Tensor:
    """The formula by hand: from the first of two names among the rows of the second and all negatives there are."""
    z, present, contents = d["z"], d["present"], d["contents"]
    unit = {n: x / x.norm(dim=1, keepdim=True) for n, x in z.items()}
    size, terms = len(z["image"]), []
    for k, a in enumerate(NAMES):
        for b in NAMES[k + 1 :]:
            rows = [i for i in range(size) if present[a][i] and present[b][i]]
            ways = [(a, b, True), (b, a, False)] if name == "clip" else [(a, b, True)]
            found = []
            for x, y, with_negatives in ways:
                for i in rows:
                    logits = [unit[x][i] @ unit[y][i] / t]
                    for j in rows:
                        if j != i and (ids is None or ids[i] != ids[j]):
                            logits.append(unit[x][i] @ unit[y][j] / t)
                    for w in WRONG if with_negatives else ():
                        for j in range(size):
                            if present[w][j] and (contents is None or contents[w][j] != contents[y][i]):
                                logits.append(unit[x][i] @ unit[w][j] / t)
                    found.append(binary(logits) if name == "siglip" else torch.stack(logits).logsumexp(0) - logits[0])
            terms.append(torch.stack(found).mean())
    return torch.stack(terms).mean()


def binary(logits: list[Tensor]) -> Tensor:
    """The terms of a row of siglip: its own pair, and all others."""
    return (1 + (-logits[0] - BIAS).exp()).log() + sum((1 + (logit + BIAS).exp()).log() for logit in logits[1:])


@LOSS
@pytest.mark.parametrize("with_contents", [False, True])
@pytest.mark.parametrize("exclude", ["none", "labels"])
def test_equals_the_loops(name: str, with_contents: bool, exclude: str, cut: str) -> None:
    d = batch()
    d["contents"] = d["contents"] if with_contents else None
    ids = [0, 1, 0, 2, 1, 0]
    loss = LOSSES[name](temperature=0.3, learn_temperature=True, exclude=exclude).double()
    leaves = [x.requires_grad_() for x in d["z"].values()]
    value = call(loss, d, labels=torch.tensor(ids))
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    expected = loops(name, d, t, ids if exclude == "labels" else None)
    torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-9)
    got = torch.autograd.grad(value, [*leaves, loss.log_temperature])
    wanted = torch.autograd.grad(expected, [*leaves, t])
    for a, b in zip(got, [*wanted[:-1], wanted[-1][None] * 0.3], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_weights_of_siglip(cut: str) -> None:
    """A pair by the mean of its two rows', one with a further negative by its anchor's."""
    d, w = batch(), torch.linspace(0.5, 2.0, B, dtype=torch.float64)
    value = call(LOSSES["siglip"](temperature=0.3), d, weights=w)
    unit, terms = {n: x / x.norm(dim=1, keepdim=True) for n, x in d["z"].items()}, []
    for a, b in (("image", "text"), ("image", "audio"), ("text", "audio")):
        rows = [i for i in range(B) if d["present"][a][i] and d["present"][b][i]]
        total = torch.zeros((), dtype=torch.float64)
        for i in rows:
            for j in rows:
                logit = unit[a][i] @ unit[b][j] / 0.3 + BIAS
                total = total + (w[i] + w[j]) / 2 * softplus(-logit if i == j else logit)
            for n, j in ((n, j) for n in WRONG for j in range(B)):
                if d["present"][n][j] and d["contents"][n][j] != d["contents"][b][i]:
                    total = total + w[i] * softplus(unit[a][i] @ unit[n][j] / 0.3 + BIAS)
        terms.append(total / len(rows))
    torch.testing.assert_close(value, torch.stack(terms).mean())


@LOSS
def test_gradcheck(name: str, cut: str) -> None:
    loss, d = LOSSES[name](temperature=0.5).double(), batch()

    def value(*tensors: Tensor) -> Tensor:
        return call(loss, d | {"z": dict(zip(d["z"], tensors, strict=True))})

    assert torch.autograd.gradcheck(
        value, tuple(x.requires_grad_() for x in d["z"].values()), atol=1e-6, fast_mode=True
    )


@LOSS
def test_a_repeat_of_the_partner_is_no_negative_of_that_anchor_alone(name: str, cut: str) -> None:
    """Row 0's negative is row 1's partner: it counts for row 0, which it was mined for, and not for row 1."""
    z = {n: torch.eye(2, dtype=torch.float64).requires_grad_() for n in ("image", "text")}
    wrong = torch.tensor([[0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    contents = {"image": torch.tensor([1, 2]), "text": torch.tensor([3, 4]), "wrong": torch.tensor([4])}
    loss = LOSSES[name](temperature=1.0)
    value = loss(z, negatives={"wrong": wrong}, contents=contents)
    plain, more = torch.tensor(1 + 1 / torch.e).log(), torch.tensor(1 + 2 / torch.e).log()
    ways = [more, plain] if name == "infonce" else [more, plain, plain, plain]
    expected = torch.stack(ways).mean()
    if name == "siglip":  # two partners, and three pairs at right angles that do not belong together
        expected = (2 * softplus(-1 - BIAS) + 3 * softplus(BIAS)) / 2
    assert value.item() == pytest.approx(expected.item())
    assert loss(z, negatives={"wrong": wrong}).item() > value.item() + 5e-5


@LOSS
def test_absent_negatives_are_never_looked_at(name: str, cut: str) -> None:
    d, other = batch(dtype=torch.float32), batch(dtype=torch.float32)
    for each, filler in ((d, torch.nan), (other, 7.0)):
        for n in (*NAMES, *WRONG):
            each["z"][n][~each["present"][n]] = filler
            each["z"][n].requires_grad_()
    value = call(LOSSES[name](), d)
    assert value.isfinite()
    torch.testing.assert_close(value, call(LOSSES[name](), other))
    for n, g in zip(d["z"], torch.autograd.grad(value, list(d["z"].values())), strict=True):
        assert g.isfinite().all()
        assert (g[~d["present"][n]] == 0).all()
        assert g.any()


@LOSS
def test_without_a_row_that_has_one_it_is_the_loss_without_negatives(name: str) -> None:
    d = batch()
    for n in WRONG:
        d["present"][n][:] = False
        d["z"][n][:] = torch.nan
    loss = LOSSES[name]()
    z = {n: d["z"][n] for n in NAMES}
    assert torch.equal(call(loss, d), loss(z, present=d["present"]))
    assert torch.equal(loss(z, negatives={}), loss(z))


@LOSS
def test_one_anchor_has_something_to_learn(name: str, cut: str) -> None:
    z = {n: torch.tensor([[1.0, 0.0]], requires_grad=True) for n in ("image", "text")}
    loss = LOSSES[name](temperature=1.0)
    value = loss(z, negatives={"wrong": torch.tensor([[0.0, 1.0]])})
    share = 1 if name == "infonce" else 2  # the way back has one candidate
    expected = torch.tensor(1 + 1 / torch.e).log() / share
    expected = softplus(-1 - BIAS) + softplus(BIAS) if name == "siglip" else expected
    assert value.item() == pytest.approx(expected.item())
    assert loss(z) == 0
    assert loss.log == {"skipped_pairs": 1}


@LOSS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    d = batch(dtype=dtype)
    exact = d | {"z": {n: x.float() for n, x in d["z"].items()}}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = call(LOSSES[name](), d)
    torch.testing.assert_close(value.float(), call(LOSSES[name](), exact), rtol=1e-5, atol=1e-6)


@LOSS
@pytest.mark.parametrize("temperature", [0.005, 0.07, 10.0])
def test_repeats_and_extreme_temperatures_stay_finite(name: str, temperature: float, cut: str) -> None:
    d = batch(dtype=torch.float32)
    for n in ("text", *WRONG):
        d["z"][n] = d["z"]["image"].clone()
    d["z"]["audio"] = -d["z"]["image"]
    leaves = [x.requires_grad_() for x in d["z"].values()]
    for contents in (None, {n: torch.zeros(B, dtype=torch.long) for n in d["z"]}):  # all are repeats: none is left
        value = call(LOSSES[name](temperature=temperature, min_temperature=0.001), d | {"contents": contents})
        assert value.isfinite()
        assert all(g.isfinite().all() for g in torch.autograd.grad(value, leaves, allow_unused=True) if g is not None)


@LOSS
def test_nan_shows_and_an_incoming_gradient_arrives_as_it_is(name: str, cut: str) -> None:
    d = batch(dtype=torch.float32)
    leaves = [x.requires_grad_() for x in d["z"].values()]
    value = call(LOSSES[name](), d)

    def gradient(incoming: float) -> tuple[Tensor, ...]:
        return torch.autograd.grad(value, leaves, value.new_tensor(incoming), retain_graph=True)

    once = gradient(1.0)
    for a, b in zip(once, gradient(2.0), strict=True):
        assert torch.equal(2 * a, b)
    for incoming in (torch.nan, torch.inf):
        for a, b in zip(once, gradient(incoming), strict=True):
            assert a.any()
            assert not b[a != 0].isfinite().any(), f"{incoming} became {b}"
    with torch.no_grad():
        d["z"]["wrong/0"][0, 1] = torch.nan
    assert call(LOSSES[name](), d).isnan()


@LOSS
def test_row_order_does_not_matter(name: str) -> None:
    d, order = batch(), torch.tensor([3, 0, 5, 1, 2, 4])
    moved = {key: {n: x[order] for n, x in d[key].items()} for key in d}
    torch.testing.assert_close(call(LOSSES[name](), moved), call(LOSSES[name](), d))
