"""Losses on tokens, places and layers against plain loops and authors' numbers; what they leave alone; tiles."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from clx.losses import late as file
from clx.losses.attention import Attention, attention_information
from clx.losses.infonce import infonce
from clx.losses.late import Late, late_scores
from clx.losses.local_contrast import Dense
from clx.losses.primitives.functional import unit, unit_steps
from clx.losses.self_guided import SelfGuided, self_guided
from golden_case import GOLDEN, Case

B, T, D, TEMPERATURE = 4, 3, 5, 0.4
NAMES = ("image/0", "image/1", "image/2")


def given(masked: bool, names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    g = torch.Generator().manual_seed(3)
    long = dict(zip(names, (T, T + 1, T), strict=False))
    steps, states = {}, {}
    for name in names:
        x, s = torch.randn(2, B, long[name], D, generator=g, dtype=torch.float64).unbind(0)
        mask = torch.ones(B, long[name], dtype=torch.bool)
        if masked:
            mask[0, 1:] = mask[2, -1:] = False
        steps[name], states[name] = (x.requires_grad_(), mask), s
    present = {name: torch.ones(B, dtype=torch.bool) for name in names}
    if masked:
        present[names[1]][3] = False
    z = {name: torch.zeros(B, D, dtype=torch.float64) for name in names}
    return {"z": z, "steps": steps, "states": states, "present": present if masked else None}


def lists(d: dict[str, Any]) -> dict[str, list[list[int]]]:
    """By name and row, the numbers of the steps that are there."""
    return {
        n: [
            [t for t in range(mask.shape[1]) if mask[i, t] and (d["present"] is None or d["present"][n][i])]
            for i in range(B)
        ]
        for n, (_, mask) in d["steps"].items()
    }


def dense(d: dict[str, Any], other_view: bool, weights: Tensor | None) -> Tensor:
    there, terms = lists(d), []
    x = {n: normalize(rows, dim=-1) for n, (rows, _) in d["steps"].items()}
    for a, b in itertools.permutations(NAMES, 2):
        each = []
        for i in range(B):
            for s in there[a][i]:
                if not there[b][i]:
                    continue
                alike = [cosine_similarity(d["states"][a][i, s], d["states"][b][i, t], dim=0) for t in there[b][i]]
                m = there[b][i][int(torch.stack(alike).argmax())]
                found = [x[n][j, t] for n in NAMES for j in range(B) if j != i for t in there[n][j]]
                if other_view:
                    found += [x[b][i, t] for t in there[b][i] if t != m]
                p = x[a][i, s] @ x[b][i, m] / TEMPERATURE
                logits = torch.stack([p, *(x[a][i, s] @ other / TEMPERATURE for other in found)])
                each.append((1 if weights is None else weights[i]) * (logits.logsumexp(0) - p))
        terms.append(torch.stack(each).mean())
    return torch.stack(terms).mean()


def equal(found: Tensor, expected: Tensor, d: dict[str, Any]) -> None:
    torch.testing.assert_close(found, expected)
    leaves = [rows for rows, _ in d["steps"].values()]
    for a, b in zip(*(torch.autograd.grad(value, leaves) for value in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("masked", "other_view"), [(False, False), (True, False), (True, True)])
def test_dense_is_the_loops(masked: bool, other_view: bool) -> None:
    d, weights = given(masked), torch.tensor([1.0, 2, 0.5, 0.25], dtype=torch.float64) if masked else None
    loss = Dense(temperature=TEMPERATURE, other_view=other_view)
    equal(loss(**d, weights=weights), dense(d, other_view, weights), d)


def score(x: list[Tensor], y: list[Tensor], softness: float, pool: str) -> Tensor:
    best = []
    for u in x:
        cosines = torch.stack([cosine_similarity(u, v, dim=0) for v in y])
        shares = torch.stack([u @ v for v in y]).div(softness).softmax(0) if softness else cosines == cosines.max()
        best.append((shares * cosines).sum())
    return torch.stack(best).sum() if pool == "sum" else torch.stack(best).mean()


def late(d: dict[str, Any], asks: str, softness: float, pool: str, labels: Tensor | None) -> Tensor:
    there, terms = lists(d), []
    for a, b in itertools.combinations(NAMES, 2):
        rows = [i for i in range(B) if there[a][i] and there[b][i]]
        x, y = ({i: [d["steps"][n][0][i, t] for t in there[n][i]] for i in rows} for n in (a, b))
        each = []
        for i in rows:
            others = [j for j in rows if j == i or labels is None or labels[i] != labels[j]]
            ahead = torch.stack([score(x[i], y[j], softness, pool) for j in others]) / TEMPERATURE
            back = [
                score(y[i], x[j], softness, pool) if asks == "each" else score(x[j], y[i], softness, pool)
                for j in others
            ]
            for logits in (ahead, torch.stack(back) / TEMPERATURE):
                each.append(logits.logsumexp(0) - logits[others.index(i)])
        terms.append(torch.stack(each).mean())
    return torch.stack(terms).mean()


@pytest.mark.parametrize(
    ("masked", "asks", "softness", "pool"),
    [(False, "first", 0.0, "sum"), (True, "each", 0.0, "mean"), (True, "first", 0.3, "mean")],
)
def test_late_is_the_loops_and_tiles_change_nothing(
    masked: bool, asks: Any, softness: float, pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    d, labels = given(masked), torch.tensor([0, 1, 0, 2]) if masked else None
    loss = Late(
        temperature=TEMPERATURE, asks=asks, softness=softness, pool=pool, exclude="labels" if masked else "none"
    )
    values = {k: v for k, v in d.items() if k != "states"} | {"labels": labels}
    expected = late(d, asks, softness, pool, labels)
    for most in (file.most_pairs, 2 * T * (T + 1)):
        monkeypatch.setattr(file, "most_pairs", most)
        d["steps"] = {n: (x.detach().requires_grad_(), mask) for n, (x, mask) in d["steps"].items()}
        values["steps"] = d["steps"]
        equal(loss(**values), late(d, asks, softness, pool, labels), d)
    assert expected.isfinite()


def test_late_takes_nothing_from_steps_that_there_are_not() -> None:
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, False], [True, True, True]])
    spoiled = x.masked_fill(~mask[..., None], torch.nan).requires_grad_()
    value = late_scores(spoiled, mask, spoiled, mask)
    torch.testing.assert_close(value, late_scores(x, mask, x, mask))
    assert torch.autograd.grad(value.sum(), spoiled)[0].isfinite().all()


def test_rows_without_steps_and_a_batch_of_one() -> None:
    x, none = torch.randn(2, 2, 3), torch.zeros(2, 2, dtype=torch.bool)
    there = torch.ones(2, 2, dtype=torch.bool)
    assert late_scores(x, none, x, there).tolist() == [[0, 0], [0, 0]]
    assert late_scores(x, there, x, none).tolist() == [[-1, -1], [-1, -1]]
    one = {"a": torch.randn(1, 3), "b": torch.randn(1, 3)}
    steps = {n: (rows[:, None].requires_grad_(), torch.ones(1, 1, dtype=torch.bool)) for n, rows in one.items()}
    assert Late()(one, steps=steps) == 0
    assert Dense()(one, steps=steps, states={n: rows for n, (rows, _) in steps.items()}).item() == pytest.approx(0)


def test_words_find_their_part_of_the_image() -> None:
    """Two things in each image, of which the text names one: one vector each cannot tell what it is about."""
    parts = torch.eye(6)
    image = torch.stack([parts[[i, 5]] for i in range(4)])
    text = parts[:4, None]
    scores = late_scores(text, torch.ones(4, 1, dtype=torch.bool), image, torch.ones(4, 2, dtype=torch.bool))
    torch.testing.assert_close(scores, torch.eye(4))
    pooled = normalize(text.mean(1), dim=1) @ normalize(image.mean(1), dim=1).T
    assert pooled.diagonal().max() < 1 / math.sqrt(2) + 1e-6


def of_published_code(c: Case) -> Tensor:
    """SG-OPT and its first variants; the second leaves the first of the other rows out of each row's negatives."""
    if "layers" in c.inputs:
        return self_guided(unit(c.cls), unit_steps(c.layers), c.hyper["temperature"]).mean()
    x, h, t = unit(c.cls), unit(c.pooled)[:, None], c.hyper["temperature"]
    if "opt1" in c.name:
        return self_guided(x, h, t, embeddings=True).mean()
    each = []
    for i in range(len(x)):
        rows = [i, *[j for j in range(len(x)) if j != i][1:]]
        each.append(self_guided(x[rows], h[rows], t)[0])
    return torch.stack(each).mean()


def mice(c: Case) -> Tensor:
    """With the recorded choice of weights; rows are sentences, heads and parities of layers."""
    weights = c.attention_logits.softmax(-1)[:, c.hyper["min_layer"] : c.hyper["max_layer"]].unflatten(0, (-1, 2))
    by_parity = torch.stack([weights[:, :, odd::2] for odd in (0, 1)], 4)  # [B, 2, l, H, 2, T, T]
    rows = by_parity.permute(1, 0, 3, 4, 2, 5, 6).flatten(4).flatten(1, 3)
    a, b = (view.gather(1, c.aux["selected"]) for view in rows)
    information = attention_information(a, b, torch.ones_like(a, dtype=torch.bool)).mean()
    return infonce(unit(c.z1), unit(c.z2), 0.05) - c.hyper["lambda"] * information


@pytest.mark.parametrize("name", ["sgopt", "sg_opt1", "sg_opt2", "micse"])
def test_authors_numbers(name: str) -> None:
    paths = sorted(GOLDEN.glob(f"{name}_*.npz"))
    assert paths
    for case in map(Case, paths):
        value = mice(case) if name == "micse" else of_published_code(case)
        rtol = 1e-4 if name == "micse" else 1e-6  # the code is in float32
        torch.testing.assert_close(value, case.expected.to(value.dtype), rtol=rtol, atol=1e-9)
        for part, wanted in case.grads.items():
            (got,) = torch.autograd.grad(value, [case.inputs[part]], retain_graph=True)
            assert (got - wanted).norm() < rtol * wanted.norm()


@pytest.mark.parametrize("negatives", ["layers", "both"])
def test_self_guided_is_the_loops(negatives: Any) -> None:
    g = torch.Generator().manual_seed(3)
    x, guide = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((B, D), (B, 3, D)))
    x.requires_grad_()
    loss = SelfGuided(hidden=6, temperature=TEMPERATURE, negatives_of=negatives).double()
    torch.manual_seed(0)
    loss.setup(["text"], D)
    loss.double()
    here, weights = torch.tensor([True, True, False, True]), torch.tensor([1.0, 2, 5, 0.25], dtype=torch.float64)
    found = loss({"text": x}, key_layers={"text": guide}, present={"text": here}, weights=weights)
    c, h, each = normalize(loss.head(x), dim=-1), normalize(loss.head(guide), dim=-1), []
    for i in (0, 1, 3):
        others = [j for j in (0, 1, 3) if j != i]
        columns = [h[j, m] for j in others for m in range(3)]
        columns += [c[j] for j in others] if negatives == "both" else []
        for m in range(3):
            p = c[i] @ h[i, m] / TEMPERATURE
            logits = torch.stack([p, *(c[i] @ column / TEMPERATURE for column in columns)])
            each.append(weights[i] * (logits.logsumexp(0) - p) / 3)
    expected = torch.stack(each).sum() / 3
    torch.testing.assert_close(found, expected)
    leaves = [x, *loss.parameters()]
    for a, b in zip(*(torch.autograd.grad(value, leaves) for value in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_attention_is_the_loops() -> None:
    """Layers 2 to 4 of 4; the views differ in length, one row lacks a view, and a weight that was dropped is 0."""
    g = torch.Generator().manual_seed(3)
    x, y = (torch.rand(B, n, 4, 2, generator=g, dtype=torch.float64).requires_grad_() for n in (9, 16))
    with torch.no_grad():
        x[1, 2, 3, 0] = 0
    here, there = torch.ones(B, 9, dtype=torch.bool), torch.ones(B, 16, dtype=torch.bool)
    here[0, 5:] = False
    present = {"text/0": torch.tensor([True, True, True, False]), "text/1": torch.ones(B, dtype=torch.bool)}
    z = {name: torch.zeros(B, D, dtype=torch.float64) for name in present}
    loss = Attention(first=2, samples=0)
    found = loss(z, attention={"text/0": (x, here), "text/1": (y, there)}, present=present)
    terms = []
    for layers in ((1, 3), (2,)):
        each = []
        for i, head in itertools.product((0, 1, 2), (0, 1)):
            pairs = [(x[i, p, m, head], y[i, p, m, head]) for p in range(9) for m in layers if here[i, p]]
            logs = torch.stack([torch.stack(pair).log() for pair in pairs if pair[0] > 0])
            rho = torch.corrcoef(logs.T)[0, 1]
            each.append(-0.5 * (1 - rho**2).log())
        terms.append(-torch.stack(each).mean())
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(found, expected)
    for a, b in zip(*(torch.autograd.grad(value, [x, y]) for value in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_fewer_weights_are_drawn_than_there_are() -> None:
    x = torch.rand(2, 400, 1, 2, generator=torch.Generator().manual_seed(0))
    y, there = x.square(), torch.ones(2, 400, dtype=torch.bool)  # the logarithms are in line, whichever are drawn
    z = {"text/0": torch.zeros(2, 3), "text/1": torch.zeros(2, 3)}
    views = {"text/0": (x, there), "text/1": (y + 0.1 * torch.rand_like(y), there)}
    draws = [Attention(samples=30)(z, attention=views, generator=torch.Generator().manual_seed(k)) for k in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    same = Attention(samples=30)(z, attention={"text/0": (x, there), "text/1": (y, there)})
    assert same.item() == pytest.approx(0.5 * math.log(1e-6), rel=0.02)
    with pytest.raises(ValueError, match="name no layers of an encoder that has 1"):
        Attention(first=2)(z, attention=views)
