"""InfoNCE with more in its denominator, and rows that a second model judges: loops, golden numbers, noise, refusals."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from clx.losses.base import LOSSES
from clx.losses.further_negatives import Negatives
from clx.losses.joint import Harder, InfoNCE, climbing_noise, joint
from clx.losses.pairwise import OverPairs
from clx.losses.primitives import judged, tiles
from clx.losses.primitives.edits import DifferentIds
from clx.losses.primitives.functional import paired_similarity, unit
from clx.losses.primitives.judged import Judged, above_quantile
from clx.losses.primitives.streaming import cross_rows
from golden_case import GOLDEN, Case
from loss_inputs import NAMES, batch, make

B, D, T = 6, 4, 0.3
EVERY_WAY = ("first-second", "second-first", "first-first", "second-second")
TAKERS = sorted(name for name, cls in LOSSES.items() if issubclass(cls, OverPairs) and "keys" in cls.needs())


@pytest.fixture(params=["small batch", "tiles"])
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The batch all at once, or in tiles of three rows."""
    if request.param == "tiles":
        monkeypatch.setattr(tiles, "small_side", 0)
        monkeypatch.setattr(tiles, "tiny_side", 0)
        monkeypatch.setattr(tiles, "tile_side", lambda x: 3)
    return str(request.param)


def rows(seed: int = 0) -> dict[str, Any]:
    """Two inputs, two columns of negatives, and what a guide of another width makes of them; some are missing."""
    g = torch.Generator().manual_seed(seed)
    names = ("text", "passage", "wrong/0", "wrong/1")
    present = {n: torch.ones(B, dtype=torch.bool) for n in names}
    present["text"][1] = present["wrong/0"][2] = present["wrong/1"][3:] = False
    z = {n: torch.randn(B, D, generator=g, dtype=torch.float64) for n in names}
    keys = {n: torch.randn(B, 3, generator=g, dtype=torch.float64) for n in names}
    for n, here in present.items():
        z[n][~here] = keys[n][~here] = torch.nan
    contents = {n: torch.arange(B) + 100 * k for k, n in enumerate(names)}
    contents["wrong/0"][0] = contents["passage"][4]
    return {"z": {n: x.requires_grad_() for n, x in z.items()}, "present": present, "keys": keys, "contents": contents}


def limits(rule: dict[str, Any], guide: dict[str, Tensor], here: list[int]) -> dict[int, float]:
    pairs = {(i, j): float(guide["text"][i] @ guide["passage"][j]) for i in here for j in here}
    if rule.get("above") == "partner":
        return {i: pairs[i, i] - rule.get("margin", 0.0) for i in here}
    if "above" in rule:
        ordered = sorted(value for (i, j), value in pairs.items() if i != j)
        at = rule["above"] * (len(ordered) - 1)
        low, share = math.floor(at), at - math.floor(at)
        return dict.fromkeys(here, ordered[low] + share * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]))
    return dict.fromkeys(here, rule["cosine"] if rule else math.inf)


def loops(
    d: dict[str, Any], t: Tensor, ways: tuple[str, ...], harder: Harder, rule: dict[str, Any], more: float
) -> Tensor:
    z = {n: x / x.norm(dim=1, keepdim=True) for n, x in d["z"].items()}
    guide = {n: x / x.norm(dim=1, keepdim=True) for n, x in d["keys"].items()}
    present, contents = d["present"], d["contents"]
    here = [i for i in range(B) if present["text"][i] and present["passage"][i]]
    limit, terms = limits(rule, guide, here), []

    def logit(a: Tensor, b: Tensor, weighed: bool) -> Tensor:
        cosine = a @ b
        return cosine / t + (harder.strength * cosine.detach() if weighed else 0)

    for i in here:
        positive = z["text"][i] @ z["passage"][i] / t
        found = [positive]

        def keeps(a: str, b: str, j: int, i: int = i) -> bool:
            return float(guide[a][i] @ guide[b][j]) < limit[i]

        for j in (j for j in here if j != i):
            if keeps("text", "passage", j):
                found.append(logit(z["text"][i], z["passage"][j], harder.of != "own"))
            if "second-first" in ways and keeps("passage", "text", j):
                found.append(z["passage"][i] @ z["text"][j] / t)
            if "first-first" in ways and keeps("text", "text", j):
                found.append(z["text"][i] @ z["text"][j] / t)
            if "second-second" in ways and keeps("passage", "passage", j):
                found.append(z["passage"][i] @ z["passage"][j] / t)
        if "second-first" in ways:
            found.append(positive)
        for name, j in itertools.product(("wrong/0", "wrong/1"), range(B)):
            if present[name][j] and contents[name][j] != contents["passage"][i]:
                if keeps("text", name, j):
                    weighed = harder.of == "all" or (harder.of == "own") == (i == j)
                    found.append(logit(z["text"][i], z[name][j], weighed) + more * (i == j))
                if "second-second" in ways and j != i and keeps("passage", name, j):
                    found.append(z["passage"][i] @ z[name][j] / t)
        terms.append(torch.stack(found).logsumexp(0) - positive)
    return torch.stack(terms).mean()


@pytest.mark.parametrize("rule", [{}, {"above": "partner", "margin": 0.1}, {"above": 0.7}, {"cosine": 0.2}], ids=str)
@pytest.mark.parametrize(
    ("ways", "harder", "more"),
    [
        (EVERY_WAY, Harder(), 0.0),
        (("first-second", "second-first"), Harder(2.0, "own"), -0.7),
        (("first-second", "second-second"), Harder(2.0, "others"), 0.7),
        (("first-second",), Harder(3.0), 0.0),
        (("first-second",), Harder(), 0.7),
    ],
    ids=str,
)
def test_equals_the_loops(ways: tuple[str, ...], harder: Harder, more: float, rule: dict[str, Any], cut: str) -> None:
    d = rows()
    exclude = {"by": "second", **rule} if rule else "none"
    fields = {"directions": list(ways), "hardness": harder.strength, "hardness_of": harder.of}
    fields["hard_negative_logit"] = more
    loss = LOSSES["infonce"](temperature=T, learn_temperature=True, exclude=exclude, **fields).double()
    assert ("keys" in loss.requires()) == bool(rule)
    z, leaves = d["z"], list(d["z"].values())
    inputs, wrong = {n: z[n] for n in ("text", "passage")}, {n: z[n] for n in ("wrong/0", "wrong/1")}
    given = {n: d[n] for n in ("present", "contents", "keys")}
    value = loss(inputs, negatives=wrong, **given)
    t = torch.tensor(T, dtype=torch.float64, requires_grad=True)
    expected = loops(d, t, ways, harder, rule, more)
    torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-9)
    got = torch.autograd.grad(value, [*leaves, loss.log_temperature])
    wanted = torch.autograd.grad(expected, [*leaves, t])
    for a, b in zip(got, [*wanted[:-1], wanted[-1][None] * T], strict=True):
        torch.testing.assert_close(a, b.nan_to_num(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", TAKERS)
def test_a_guide_that_sees_the_labels_is_exclude_labels(name: str, cut: str) -> None:
    """So every loss leaves out of all its sums, both ways, what the guide finds alike, and nothing else."""
    d, found = batch(), []
    d["labels"] = torch.tensor([0, 1, 0, 2, 1, 0])
    d["present"]["text"][2] = False
    shown = torch.nn.functional.one_hot(d["labels"], 3).double()
    d["keys"] = dict.fromkeys(NAMES, shown)
    for exclude in ("labels", {"by": "second", "cosine": 0.5}, "none"):
        loss = make(name, exclude=exclude).double()
        leaves = {n: x.clone().requires_grad_() for n, x in d["z"].items()}
        value = loss(leaves, **{key: d[key] for key in loss.needs() & d.keys()})
        found.append([value, *torch.autograd.grad(value, list(leaves.values()))])
    for a, b in zip(*found[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert abs(found[0][0] - found[2][0]) > 1e-4


def test_the_quantile_is_of_all_pairs_of_different_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(0)
    x, y = (unit(torch.randn(40, 5, generator=g, dtype=torch.float64)) for _ in range(2))
    pairs = torch.stack([x[i] @ y[j] for i in range(40) for j in range(40) if i != j])
    torch.testing.assert_close(above_quantile(x, y, 0.9), pairs.quantile(0.9))
    monkeypatch.setattr(judged, "PAIRS", 800)  # of more pairs half of the rows tell
    some = torch.stack([x[i] @ y[j] for i in range(0, 40, 2) for j in range(40) if i != j])
    torch.testing.assert_close(above_quantile(x, y, 0.9), some.quantile(0.9))
    assert above_quantile(x[:1], y[:1], 0.9) == math.inf


def test_equal_rows_are_judged_alike_whatever_their_rounding() -> None:
    """A copy of the partner has the partner's own cosine: it is no negative, in float32 too."""
    g = torch.Generator().manual_seed(0)
    x, y = (unit(torch.randn(200, 48, generator=g)) for _ in range(2))
    y[100:] = y[:100]
    alike = Judged(x, y, torch.linalg.vecdot(x, y)).alike(slice(0, 200), slice(0, 200))
    assert alike[torch.arange(200), torch.arange(200).roll(100)].all()


def test_noise_is_drawn_by_the_generator_and_climbs_the_loss() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = (unit(torch.randn(B, D, generator=g, dtype=torch.float64)).requires_grad_() for _ in range(2))

    def drawn(reach: float) -> Tensor:
        return climbing_noise(x, y, T, 5, reach, torch.Generator().manual_seed(1))

    flat, climbed = drawn(0.0), drawn(0.05)
    assert torch.equal(climbed, drawn(0.05))
    assert not climbed.requires_grad
    torch.testing.assert_close(climbed.norm(dim=1), torch.ones(5, dtype=torch.float64))
    angles = torch.linalg.vecdot(flat, climbed).clamp(max=1).acos()
    assert ((angles > 0.1) & (angles < 4 * 0.05 + 1e-6)).all()
    before, after = (joint(x, y, T, noise=each).mean() for each in (flat, climbed))
    assert after > before + 0.01
    # noise rows are negatives of the first input's rows alone
    loss = LOSSES["infonce"](temperature=T, noise=5)
    value = loss({"text": x, "passage": y}, generator=torch.Generator().manual_seed(1))
    expected = joint(unit(x), unit(y), T, negatives=Negatives(climbed)).mean()
    for a, b in zip((value, *grads(value, x, y)), (expected, *grads(expected, x, y)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def grads(value: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, leaves, retain_graph=True)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"exclude": {"by": "second"}}, "one of above"),
        ({"exclude": {"by": "second", "above": 0.9, "cosine": 0.9}}, "one of above"),
        ({"exclude": {"by": "second", "above": 0.9, "margin": 0.1}}, "margin is of above: partner"),
        ({"directions": ["first-first"]}, "first-second"),
        ({"noise": 3, "label_smoothing": 0.1}, "label_smoothing"),
    ],
)
def test_what_cannot_work_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LOSSES["infonce"](**fields)


def test_smoothing_over_judged_columns_and_a_missing_guide_are_refused() -> None:
    z, rule = {n: torch.eye(3) for n in ("a", "b")}, {"by": "second", "cosine": 0.5}
    with pytest.raises(ValueError, match="label_smoothing"):
        LOSSES["clip"](label_smoothing=0.1, exclude=rule)(z, keys=z)
    with pytest.raises(ValueError, match="second model"):
        LOSSES["clip"](exclude=rule)(z)


def of_case(c: Case, tau: float) -> Tensor:
    """sentence-transformers 6.2: multiple negatives ranking and GISTEmbed."""
    h, x, y = c.hyper, unit(c.anchor), unit(c.positive)
    names = sorted(n for n in c.inputs if n.startswith("negative"))
    more, here = None, torch.arange(len(x))
    if names:
        of = DifferentIds(here, here.repeat(len(names)))
        more = Negatives(unit(torch.cat([c.inputs[n] for n in names])), of=of)
    if c.name.startswith("st_mnr"):
        modes = {"in_batch_negatives": "others", "hard_negatives": "own"}
        harder = Harder(h.get("hardness_strength", 0.0), modes.get(h.get("hardness_mode"), "all"))  # type: ignore[arg-type]
        words = {"query": "first", "doc": "second"}
        ways = ["-".join(words[w] for w in d.split("_to_")) for d in h.get("directions", ["query_to_doc"])]
        return joint(x, y, tau, negatives=more, directions=ways, harder=harder).mean()  # type: ignore[arg-type]
    a, p = unit(c.guide_anchor), unit(c.guide_positive)
    rule = Judged(a, p, torch.linalg.vecdot(a, p) - h["margin"])
    if more is not None:
        more = more._replace(judged=rule.between(a, unit(c.guide_negative), own=None))
    ways = ["first-second", *["first-first"] * h["contrast_anchors"]]
    found = joint(x, y, tau, rule, more, ways)  # type: ignore[arg-type]
    if h["contrast_positives"]:  # theirs has no negatives beside positives, ours has
        positive = paired_similarity(x, y, tau)
        among = cross_rows(y, y, tau, rule.between(p, p))
        found = torch.logaddexp(found + positive, among) - positive
    return found.mean()


@pytest.mark.parametrize("path", sorted([*GOLDEN.glob("st_mnr_[gh]*.npz"), *GOLDEN.glob("st_gist_*.npz")]), ids=str)
def test_sentence_transformers(path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    c = Case(path)
    monkeypatch.setattr(judged, "SLACK", -1e-9)  # theirs keeps what is as near as the partner
    value = of_case(c, c.hyper.get("temperature") or 1 / c.hyper["scale"])
    torch.testing.assert_close(value, c.expected, rtol=1e-6, atol=1e-8)
    got = torch.autograd.grad(value, [c.inputs[n] for n in c.grads])
    for name, grad in zip(c.grads, got, strict=True):
        torch.testing.assert_close(grad, c.grads[name], rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("dclr_*.npz")), ids=str)
def test_dclr_finds_the_same_false_negatives(path: Any) -> None:
    """Its code keeps them at a logit of 0 and takes entries' binary cross-entropy: replayed with our mask. Ours is the
    paper's: they are left out, and the loss is the cross-entropy."""
    c = Case(path)
    size, tau, logits = len(c.z1), c.hyper["temperature"], c.aux["logits"]
    x, y, noise = unit(c.z1), unit(c.z2), unit(c.noise)
    rule = Judged(unit(c.fixed1), unit(c.fixed2), torch.tensor(c.hyper["phi"], dtype=torch.float64))
    alike = rule.alike(slice(0, size), slice(0, size)).fill_diagonal_(False)
    kept = torch.cat([~alike, torch.ones(size, len(noise), dtype=torch.bool)], 1)
    target = torch.eye(*logits.shape, dtype=torch.float64)
    published = torch.nn.functional.binary_cross_entropy((logits * kept).softmax(1), target)
    torch.testing.assert_close(published, c.expected, rtol=1e-6, atol=1e-8)
    clean = torch.cat([x @ y.T, x @ noise.T], 1) / tau
    paper = clean.masked_fill(~kept, -math.inf).log_softmax(1).diagonal().neg()
    torch.testing.assert_close(joint(x, y, tau, rule, noise=noise), paper, rtol=1e-9, atol=1e-9)


def test_hardness_rises_with_the_steps_that_are_done() -> None:
    torch.manual_seed(0)
    z, wrong = {"a": torch.randn(5, 4), "b": torch.randn(5, 4)}, {"c": torch.randn(5, 4)}
    rising = InfoNCE(hardness=8.0, hardness_of="own", rising=True)
    for progress in (0.0, 0.25, 1.0):
        fixed = InfoNCE(hardness=8 * progress, hardness_of="own")
        torch.testing.assert_close(rising(z, negatives=wrong, progress=progress), fixed(z, negatives=wrong))
    assert rising(z, negatives=wrong, progress=0.2) < rising(z, negatives=wrong)
    with pytest.raises(ValueError, match="hard_negative_logit is of a row's own negatives"):
        InfoNCE(hard_negative_logit=1.0)({"a": torch.eye(2), "b": torch.eye(2)})
    with pytest.raises(ValueError, match="rising is of hardness"):
        InfoNCE(rising=True)
