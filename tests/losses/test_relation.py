"""The loss over how alike rows are: loops over every kernel and form, blocks of any size, what it refuses."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from clx.losses.base import LOSSES
from clx.losses.primitives import blocks, tiles
from clx.losses.relation import Relation

B, D, T = 6, 4, 0.3
NAMES = ("image", "text")
SETS = [{0, 1}, {1}, {0, 2}, None, set(), {0, 1}]
"""Of the labels below; None where they are not known."""
PATHS = [("animal", "dog", "poodle"), ("animal", "dog"), ("plant", "tree")]


def data(missing: bool = False) -> dict[str, Any]:
    g = torch.Generator().manual_seed(4)
    present = {name: torch.ones(B, dtype=torch.bool) for name in NAMES}
    if missing:
        present["text"][1] = present["image"][4] = False
    names = sorted({step for path in PATHS for step in path})
    levels = torch.tensor([[names.index(path[k]) if k < len(path) else -1 for k in range(3)] for path in PATHS])
    sets = [[math.nan] * 3 if held is None else [float(k in held) for k in range(3)] for held in SETS]
    features = torch.randn(B, 3, generator=g, dtype=torch.float64)
    features[2] = torch.nan
    return {
        "z": {n: torch.randn(B, D, generator=g, dtype=torch.float64).requires_grad_() for n in NAMES},
        "present": present,
        "labels": torch.tensor([0, 1, 0, -1, 2, 1]),
        "label_sets": torch.tensor(sets, dtype=torch.float64),
        "levels": levels,
        "targets": torch.tensor([[1.0, 0], [2, 1], [2, 1], [torch.nan, 0], [9, 3], [0, 0]], dtype=torch.float64),
        "features": {"sound": features},
        "weights": torch.tensor([0.5, 2, 1, 1.5, 0.25, 1], dtype=torch.float64),
        "sample_id": torch.arange(B),
        "repeats": torch.tensor([0, 1, 2, 3, 4, 0]),
    }


def above(held: set[int]) -> set[tuple[str, ...]]:
    return {PATHS[k][:n] for k in held for n in range(1, len(PATHS[k]) + 1)}


def runs(held: set[int], start: int, n: int) -> set[tuple[str, ...]]:
    return {PATHS[k][start : start + n] for k in held if len(PATHS[k]) >= start + n}


def jaccard(a: set[Any], b: set[Any]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def likeness(d: dict[str, Any], fields: dict[str, Any], i: int, j: int) -> float:
    """How alike items i and j are, other than one and the same."""
    by, kernel = fields.get("by", "labels"), fields.get("kernel")
    if by == "features":
        a, b = d["features"]["sound"][[i, j]]
        cosine = float(a @ b / a.norm() / b.norm())
        t = fields.get("target_temperature")
        found = (1 + cosine) / 2 if t is None else math.exp((cosine - 1) / t)
        return 0.0 if math.isnan(found) else found
    if by == "targets":
        a, b = d["targets"][[i, j]]
        if (a.isnan() | b.isnan()).any():
            return 0.0
        if kernel == "cosine":
            return max(0.0, float(torch.nn.functional.cosine_similarity(a, b, dim=0)))
        known = d["targets"][~d["targets"].isnan().any(1)]
        h = fields.get("bandwidth") or float((known - known.mean(0)).square().sum(1).mean().sqrt())
        return math.exp(-float((a - b).square().sum()) / 2 / h**2)
    if by == "score":
        return 0.0
    if fields.get("single"):
        a, b = ({int(d["labels"][k])} - {-1} for k in (i, j))
        kernel = "equal" if kernel is None else kernel
        if not a or not b:
            return 0.0
    else:
        if SETS[i] is None or SETS[j] is None:
            return 0.0
        a, b = SETS[i] or set(), SETS[j] or set()
    if kernel == "equal":
        return float(a == b)
    if kernel == "cosine":
        return len(a & b) / math.sqrt(len(a) * len(b)) if a and b else 0.0
    if kernel == "tree":
        return jaccard(above(a), above(b))
    if kernel == "paths":
        kinds = [(runs(a, s, n), runs(b, s, n)) for n in (1, 2, 3) for s in range(4 - n)]
        found = [jaccard(x, y) for x, y in kinds if x | y]
        return sum(found) / len(found) if found else 0.0
    return jaccard(a, b)


def term(s: list[Tensor], w: list[float], fields: dict[str, Any]) -> Tensor | None:
    """Of the logits of one row with the columns that count."""
    form, mass = fields.get("form", "softmax"), sum(w)
    if form == "sigmoid":
        b = fields.get("bias", 0.0)
        each = [torch.log1p((x + b).exp()) - v * (x + b) for x, v in zip(s, w, strict=True)]
        return torch.stack(each).mean() if each else None
    if not mass:
        return None
    if form == "softmax":
        return torch.stack(s).logsumexp(0) - sum((v * x for x, v in zip(s, w, strict=True)), start=s[0] * 0) / mass
    if form == "decoupled":
        negative = sum((x.exp() for x, v in zip(s, w, strict=True) if not v), start=s[0] * 0)
        return sum((v * torch.log1p(negative / x.exp()) for x, v in zip(s, w, strict=True)), start=s[0] * 0) / mass
    k, slope = fields["k"], fields.get("slope", 1.0)
    if len(s) <= k:
        return None
    x = torch.stack(s)
    low, high = torch.tensor(-100.0, dtype=x.dtype), torch.tensor(100.0, dtype=x.dtype)
    for _ in range(200):
        t = (low + high) / 2
        low, high = (t, high) if (slope * (x.detach() + t)).sigmoid().sum() < k else (low, t)
    p = (slope * (x.detach() + t)).sigmoid()
    v = p * (1 - p)
    p = (slope * (x + t - (v * x).sum() / v.sum() + (v * x.detach()).sum() / v.sum())).sigmoid()  # implicit gradient
    return -sum((c * q.log() for c, q in zip(w, p, strict=True)), start=s[0] * 0) / mass


def loops(d: dict[str, Any], fields: dict[str, Any], t: Tensor, weights: Tensor | None) -> Tensor:
    rows = [(n, i, d["z"][n][i] / d["z"][n][i].norm()) for n in NAMES for i in range(B) if d["present"][n][i]]
    within = fields.get("among") == "all"
    terms = []
    for name, i, u in rows:
        columns = [(j, v) for m, j, v in rows if (m, j) != (name, i) and (within or m != name)]
        if not within:
            both = d["present"]["text"] & d["present"]["image"]
            if not both[i] or (name == "text" and not fields.get("both", True)):
                continue
            columns = [(j, v) for j, v in columns if both[j]]
        if fields.get("exclude") == "repeats":
            columns = [(j, v) for j, v in columns if j == i or d["repeats"][i] != d["repeats"][j]]
        w = [1.0 if i == j else likeness(d, fields, i, j) for j, _ in columns]
        if fields.get("by") == "score":
            score = float(d["targets"][i, 0]) / fields["best"]
            columns = [(j, v) for j, v in columns if i != j or not math.isnan(score)]
            w = [min(1.0, score) if i == j else 0.0 for j, _ in columns]
        w = [v if v > fields.get("threshold", 0.0) else 0.0 for v in w]
        found = term([u @ v / t for _, v in columns], w, fields)
        if found is not None:
            terms.append((found, 1.0 if weights is None else weights[i]))
    return torch.stack([x * w for x, w in terms]).sum() / len(terms)


CASES: list[dict[str, Any]] = [
    {},
    {"single": True},
    {"kernel": "equal"},
    {"kernel": "cosine", "form": "sigmoid", "bias": -0.5},
    {"kernel": "tree"},
    {"kernel": "paths"},
    {"single": True, "kernel": "tree", "threshold": 0.3},
    {"single": True, "kernel": "paths", "form": "sigmoid"},
    {"form": "decoupled"},
    {"form": "top-k", "k": 2, "slope": 1.5},
    {"by": "features", "of": "sound"},
    {"by": "features", "of": "sound", "both": False},
    {"by": "features", "of": "sound", "target_temperature": 0.2},
    {"by": "targets"},
    {"by": "targets", "bandwidth": 2.0},
    {"by": "targets", "kernel": "cosine", "form": "decoupled"},
    {"by": "score", "form": "sigmoid", "best": 5.0},
    {"exclude": "repeats"},
]


def made(fields: dict[str, Any], d: dict[str, Any]) -> tuple[Relation, dict[str, Any]]:
    """The loss, and what it is given."""
    own = {key: value for key, value in fields.items() if key != "single"}
    loss = Relation(temperature=T, learn_temperature=True, **own).double()
    given = {key: d[key] for key in loss.needs()}
    if fields.get("single"):
        given["label_sets"] = None
    return loss, given


@pytest.mark.parametrize("among", ["pairs", "all"])
@pytest.mark.parametrize("fields", CASES, ids=lambda fields: " ".join(map(str, fields.values())) or "default")
def test_equals_the_loops(fields: dict[str, Any], among: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once, and in blocks of two rows."""
    fields = fields | {"among": among}
    for missing, small in itertools.product((False, True), (True, False)):
        d = data(missing)
        if not small:
            monkeypatch.setattr(tiles, "small_side", 0)
            monkeypatch.setattr(blocks, "block_rows", lambda x, columns: 2)
        loss, given = made(fields, d)
        given["weights"] = given["weights"] if missing else None
        value = loss(d["z"], **given)
        temperature = torch.tensor(T, dtype=torch.float64, requires_grad=True)
        expected = loops(d, fields, temperature, given["weights"])
        torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-9)
        leaves = list(d["z"].values())
        got = torch.autograd.grad(value, [*leaves, loss.log_temperature])
        wanted = torch.autograd.grad(expected, [*leaves, temperature])
        for a, b in zip(got[:2], wanted[:2], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(got[2], wanted[2][None] * T, rtol=1e-6, atol=1e-8)
        monkeypatch.undo()


def test_the_bias_of_the_sigmoid_is_learned() -> None:
    d = data()
    loss, given = made({"form": "sigmoid", "bias": -0.5}, d)
    (g,) = torch.autograd.grad(loss(d["z"], **given), [loss.logit_bias])
    step = 1e-6
    values = []
    for bias in (-0.5 + step, -0.5 - step):
        with torch.no_grad():
            loss.logit_bias.fill_(bias)
        values.append(loss(d["z"], **given).item())
    assert g.item() == pytest.approx((values[0] - values[1]) / 2 / step, rel=1e-5)
    assert loss.scale()[1] == pytest.approx(-0.5 - step)
    assert set(loss.learned()) == {"temperature", "bias"}


def test_equal_labels_are_supcon() -> None:
    """Softmax of equal labels within one input is SupCon, on the rows that have a positive or not alike."""
    d = data()
    for sets in (None, torch.nn.functional.one_hot(d["labels"].clamp(min=0), 3).double()):
        given = {"labels": d["labels"].clamp(min=0), "label_sets": sets}
        value = Relation(temperature=T, among="all")(d["z"], **given)
        torch.testing.assert_close(value, LOSSES["supcon"](temperature=T)(d["z"], labels=given["labels"]))


def test_one_modality_is_compared_within_and_several_across() -> None:
    d = data()
    views = {"image/0": d["z"]["image"], "image/1": d["z"]["text"]}
    given = {"label_sets": d["label_sets"]}
    assert torch.equal(Relation()(views, **given), Relation(among="all")(views, **given))
    assert torch.equal(Relation()(d["z"], **given), Relation(among="pairs")(d["z"], **given))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kernel": "gaussian"}, "kernel: gaussian does not compare labels; by: labels has equal, cosine"),
        ({"by": "score", "form": "sigmoid", "kernel": "equal"}, "by: score has none"),
        ({"by": "features"}, "by: features needs `of`"),
        ({"of": "text"}, "by: labels takes no `of`"),
        ({"by": "score"}, "form: sigmoid learns it, softmax cannot"),
        ({"k": 3}, "k changes nothing with by: labels and form: softmax: leave it out"),
        ({"form": "top-k", "bias": -1.0}, "bias changes nothing"),
        ({"form": "sigmoid", "bandwidth": 2.0}, "bandwidth changes nothing"),
    ],
)
def test_settings_that_do_not_go_together(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Relation(**fields)


def test_what_a_batch_lacks() -> None:
    d = data()
    for fields, said in (
        ({"kernel": "tree"}, "set data.levels"),
        ({"by": "features", "of": "sound"}, "no features of 'sound'; there are none"),
        ({"by": "targets"}, "has no targets"),
    ):
        with pytest.raises(ValueError, match=said):
            Relation(**fields)(d["z"], label_sets=d["label_sets"])
