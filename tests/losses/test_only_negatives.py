"""Rows that are negatives and nothing else, in losses of pairs: loops, what is missing, repeats, tiles."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from clx.losses.base import LOSSES
from clx.losses.pgrank import discounted, gumbel, log_probabilities, weights_of
from clx.losses.primitives import tiles

B, D = 6, 4
NAMES = ("image", "text", "audio")
WRONG = ("wrong/0", "wrong/1")
GRAM = ("nt-xent", "dcl", "dclw", "debiased", "hcl")
"""Whose anchors, the rows of both inputs, look at the rows of both."""
LOSS = pytest.mark.parametrize("name", ["infonce", "clip", "siglip"])
EVERY = pytest.mark.parametrize("name", ["infonce", "clip", "siglip", "dcl", "hcl", "prime", "late", "pg-rank"])
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


def steps_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two steps of each row, of which some rows lack the second."""
    every = torch.ones(len(x), 1, dtype=torch.bool)
    return x[:, torch.tensor([[0, 1, 2, 3], [3, 0, 1, 2]])], torch.cat([every, x[:, :1] > 0], 1)


def call(loss: Any, d: dict[str, Any], further: tuple[str, ...] | None = WRONG, **more: Any) -> Tensor:
    """The loss of the batch with the negatives `further`, the argument left out where None."""
    if "steps" in loss.needs():
        more["steps"] = {n: steps_of(x) for n, x in d["z"].items()}
    if "generator" in loss.needs() and "labels" not in more:
        more["generator"] = torch.Generator().manual_seed(1)
    if further is not None:
        more["negatives"] = {n: d["z"][n] for n in further}
    value: Tensor = loss(
        {n: d["z"][n] for n in NAMES},
        present=d["present"],
        contents=d["contents"],
        **more,
    )
    return value


def loops(name: str, d: dict[str, Any], t: Tensor, ids: list[int] | None = None) -> Tensor:
    """The formula by hand: anchors of the first of two names look at all negatives there are, those of the second at
    none."""
    present, terms = d["present"], []
    similarity = late_similarity if name == "late" else cosine
    for k, a in enumerate(NAMES):
        for b in NAMES[k + 1 :]:
            rows = [i for i in range(B) if present[a][i] and present[b][i]]
            ways = [(a, b, True)] if name in ("infonce", "siglip") else [(a, b, True), (b, a, False)]
            alike = torch.stack([similarity(d, a, i, b, i) for i in rows])
            weights = 2 - len(rows) * (alike / 0.5).softmax(0).detach() if name == "dclw" else torch.ones_like(alike)
            found = []
            for (x, y, asks), (i, w) in itertools.product(ways, zip(rows, weights, strict=True)):
                others = [(n, j) for n in ((x, y) if name in GRAM else (y,)) for j in rows if j != i]
                others = [(n, j) for n, j in others if ids is None or ids[i] != ids[j]]
                others += [(n, j) for n, j in negatives_of(d, y, i) if asks]
                backwards = name == "late" and not asks  # the first asks, whoever chooses
                found.append(
                    term(
                        name,
                        w * similarity(d, *((y, i, x, i) if backwards else (x, i, y, i))) / t,
                        [similarity(d, *((n, j, x, i) if backwards else (x, i, n, j))) / t for n, j in others],
                        t,
                    )
                )
            valid = [each for each in found if each is not None]
            terms.append(torch.stack(valid).mean())
    return torch.stack(terms).mean()


def negatives_of(d: dict[str, Any], partner: str, i: int) -> list[tuple[str, int]]:
    """The further negatives of row i's anchor, by name and row."""
    there = [(n, j) for n in WRONG for j in range(B) if d["present"][n][j]]
    contents = d["contents"]
    return [(n, j) for n, j in there if contents is None or contents[n][j] != contents[partner][i]]


def cosine(d: dict[str, Any], a: str, i: int, b: str, j: int) -> Tensor:
    return torch.cosine_similarity(d["z"][a][i], d["z"][b][j], 0)


def late_similarity(d: dict[str, Any], a: str, i: int, b: str, j: int) -> Tensor:
    (x, x_there), (y, y_there) = steps_of(d["z"][a]), steps_of(d["z"][b])
    x, y = x[i][x_there[i]], y[j][y_there[j]]
    return torch.cosine_similarity(x[:, None], y[None], 2).amax(1).mean()


def term(name: str, positive: Tensor, negatives: list[Tensor], t: Tensor) -> Tensor | None:
    """Of one anchor; None where it has none."""
    if name == "siglip":
        return (1 + (-positive - BIAS).exp()).log() + sum((1 + (each + BIAS).exp()).log() for each in negatives)
    if not negatives:
        return None if name in ("dcl", "dclw") else positive * 0
    s = torch.stack(negatives)
    if name in ("dcl", "dclw"):
        return s.logsumexp(0) - positive
    if name in ("debiased", "hcl"):
        p, w = positive.exp(), s.exp() if name == "hcl" else torch.ones_like(s)
        corrected = ((w * s.exp()).mean() / w.mean() - 0.1 * p) / 0.9
        return (1 + len(s) * torch.maximum(corrected, (-1 / t).exp()) / p).log()
    return torch.cat([positive[None], s]).logsumexp(0) - positive


@pytest.mark.parametrize("name", ["infonce", "clip", "siglip", "late", *GRAM])
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


def test_prime_by_hand(cut: str) -> None:
    """The nearest two of the other rows and, for the first of two names, of the further negatives."""
    d, terms = batch(), []
    for a, b in itertools.combinations(NAMES, 2):
        rows = [i for i in range(B) if d["present"][a][i] and d["present"][b][i]]
        found = []
        for (x, y, asks), i in itertools.product([(a, b, True), (b, a, False)], rows):
            others = [(y, j) for j in rows if j != i] + (negatives_of(d, y, i) if asks else [])
            s, p = torch.stack([cosine(d, x, i, n, j) for n, j in others]).topk(2).values, cosine(d, x, i, y, i)
            left = (s - p + (p - s).abs().clamp(0.1, 0.3)).relu()
            found.append((left * (s / 0.1).masked_fill(left == 0, -1e9).softmax(0)).sum())
        terms.append(torch.stack(found).mean())
    value = call(LOSSES["prime"](nearest=2), d)
    torch.testing.assert_close(value, torch.stack(terms).mean())
    assert value != call(LOSSES["prime"](nearest=2), d, further=())


def test_pg_rank_ranks_negatives_among_the_candidates_and_never_a_repeat() -> None:
    d, loss = batch(), LOSSES["pg-rank"](temperature=0.5, samples=3, places=4)
    z = {n: d["z"][n].requires_grad_() for n in ("image", "text", *WRONG)}
    present = {n: torch.ones(B, dtype=torch.bool) for n in z}
    seeds = torch.randint(1 << 62, (2, 3), generator=torch.Generator().manual_seed(1))
    u, total = {n: x / x.norm(dim=1, keepdim=True) for n, x in z.items()}, torch.zeros((), dtype=torch.float64)
    for seed, x, candidates in ((seeds[0], "image", ("text", *WRONG)), (seeds[1], "text", ("image",))):
        scores = u[x] @ torch.cat([u[n] for n in candidates]).T / 0.5
        for k, n in enumerate(candidates[1:], 1):
            repeats = d["contents"]["text"][:, None] == d["contents"][n]
            scores[:, k * B : (k + 1) * B] = scores[:, k * B : (k + 1) * B].masked_fill(repeats, -1e30)
        noise = gumbel(seed[:, None, None], torch.arange(B), scores.shape[1], torch.float64)
        ranking = (scores.detach() + noise).topk(4, 2).indices
        parts = discounted((ranking == torch.arange(B)[:, None]).double())
        logs = log_probabilities(scores.expand_as(noise), ranking)
        surrogate = -(weights_of(parts, "leave-one-out", "gain-to-go") * logs).sum() / 3
        total = total + (1 + (surrogate - surrogate.detach() - parts.sum() / 3) / B) / 2
    more = {"negatives": {n: z[n] for n in WRONG}, "contents": d["contents"], "present": present}
    value = loss({n: z[n] for n in ("image", "text")}, **more, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(value, total)
    pairs = zip(*(torch.autograd.grad(each, list(z.values())) for each in (value, total)), strict=True)
    for got, wanted in pairs:
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("name", [n for n in EVERY.args[1] if n != "pg-rank"])  # whose draws are constants
def test_gradcheck(name: str, cut: str) -> None:
    fixed = {"min_margin": 0.2, "max_margin": 0.2} if name == "prime" else {"temperature": 0.5}
    loss, d = LOSSES[name](**fixed).double(), batch()

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


@EVERY
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


@EVERY
def test_without_a_row_that_has_one_it_is_the_loss_without_negatives(name: str) -> None:
    d = batch()
    for n in WRONG:
        d["present"][n][:] = False
        d["z"][n][:] = torch.nan
    loss = LOSSES[name]()
    without = call(loss, d, further=None)
    assert torch.equal(call(loss, d), without)
    assert torch.equal(call(loss, d, further=()), without)
    whole = d | {"present": None}
    assert torch.equal(call(loss, whole, further=()), call(loss, whole, further=None))


@pytest.mark.parametrize("name", ["siglip", *GRAM, "prime", "late", "pg-rank"])
def test_who_looks_at_them_is_told_as_ours(name: str) -> None:
    assert "egatives" in LOSSES[name].ours


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


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    d = batch(dtype=dtype)
    exact = d | {"z": {n: x.float() for n, x in d["z"].items()}}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = call(LOSSES[name](), d)
    torch.testing.assert_close(value.float(), call(LOSSES[name](), exact), rtol=1e-5, atol=1e-6)


@EVERY
@pytest.mark.parametrize("temperature", [0.005, 0.07, 10.0])
def test_repeats_and_extreme_temperatures_stay_finite(name: str, temperature: float, cut: str) -> None:
    d = batch(dtype=torch.float32)
    for n in ("text", *WRONG):
        d["z"][n] = d["z"]["image"].clone()
    d["z"]["audio"] = -d["z"]["image"]
    leaves = [x.requires_grad_() for x in d["z"].values()]
    for contents in (None, {n: torch.zeros(B, dtype=torch.long) for n in d["z"]}):  # all are repeats: none is left
        fields = {} if name == "prime" else {"temperature": temperature, "min_temperature": 0.001}
        value = call(LOSSES[name](**fields), d | {"contents": contents})
        assert value.isfinite()
        assert all(g.isfinite().all() for g in torch.autograd.grad(value, leaves, allow_unused=True) if g is not None)


@EVERY
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


@pytest.mark.parametrize("name", [n for n in EVERY.args[1] if n != "pg-rank"])  # whose draws are of places
def test_row_order_does_not_matter(name: str) -> None:
    d, order = batch(), torch.tensor([3, 0, 5, 1, 2, 4])
    moved = {key: {n: x[order] for n, x in d[key].items()} for key in d}
    torch.testing.assert_close(call(LOSSES[name](), moved), call(LOSSES[name](), d))
