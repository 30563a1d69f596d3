"""Losses with keys, and the baselines of self-supervision, against numbers of authors' own code; see test_golden."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clx.losses.beclr import spread
from clx.losses.decorrelation import barlow_twins, vicreg
from clx.losses.distil import like_the_teacher
from clx.losses.further_negatives import Negatives
from clx.losses.infonce import clip, infonce
from clx.losses.local_contrast import local_contrast, matches
from clx.losses.moco import moco
from clx.losses.moco_v3 import moco_v3
from clx.losses.predicted import SimSiam
from clx.losses.primitives.functional import paired_similarity, unit, unit_steps
from clx.losses.primitives.streaming import cross_rows
from clx.losses.prototypes import balanced, cross_entropy
from clx.losses.queue_variants import between, mixed, moved_apart
from clx.losses.queues import Queue
from golden_case import GOLDEN, Case


def mochi(c: Case) -> Tensor:
    """With the recorded draws. The two kinds of mixture come after the queue, as constants."""
    hard, t = c.queue[c.aux["idxs_hard"]], c.hyper["T"]  # [B, n, D]
    rows = torch.arange(len(c.q))[:, None]
    one, two = (hard[rows, c.aux["draw0_randint"][k]] for k in (0, 1))
    led = hard[rows, c.aux["draw2_randint"]]
    with torch.no_grad():
        query = c.q[:, None].expand_as(led)
        made = [mixed(one, two, c.aux["draw1_rand"][..., 0]), mixed(query, led, c.aux["draw3_rand"][..., 0] / 2)]
    return moco(c.q, paired_similarity(c.q, c.k), c.queue, t, None, torch.cat(made, 1)).mean()


def feature_transformation(c: Case) -> Tensor:
    """The last draws that were recorded are those that were used: of positives, then of negatives."""
    both = c.hyper["mix_target"] == "posneg"
    draws = [c.aux[name].to(c.q) for name in sorted(n for n in c.aux if n.startswith("beta_draw"))]
    query, key = moved_apart(c.q, c.k.detach(), 1 + draws[-2 if both else -1])
    queue = between(c.queue, draws[-1], c.aux["queue_perm"]) if both else c.queue
    return moco(query, paired_similarity(query, key), queue, c.hyper["T"]).mean()


def swav(c: Case) -> Tensor:
    """Two of three crops give codes. Prototypes are made unit rows in place there, without a gradient of that."""
    directions = unit(c.prototypes.detach()) + c.prototypes - c.prototypes.detach()
    crops = [z @ directions.T for z in c.z.chunk(3)]
    codes = [balanced(s.detach(), c.hyper["epsilon"], c.hyper["iterations"]) for s in crops[:2]]
    t = c.hyper["temperature"]
    told = [cross_entropy(codes[a], s, t) for a in (0, 1) for b, s in enumerate(crops) if b != a]
    return torch.stack(told).mean()


def simsiam(c: Case) -> Tensor:
    loss = SimSiam().double()
    predictions = dict(zip("ab", (c.p1, c.p2), strict=True))
    found = loss.cosine(predictions, dict(zip("ab", (c.z1, c.z2), strict=True)), None)
    assert found is not None
    return -found


def dense(c: Case) -> Tensor:
    """Maps come as channels by places; negatives are the pooled maps of a queue."""
    q, k, q_map, k_map = (x.mT for x in (c.q_grid, c.k_grid, c.q_backbone, c.k_backbone))
    match = matches(q_map, k_map, torch.ones(k.shape[:2], dtype=torch.bool))
    torch.testing.assert_close(match, c.aux["match"].long())
    t, q = c.hyper["temperature"], unit_steps(q)
    others = cross_rows(q.flatten(0, 1), unit(c.queue.T), t).view(match.shape)
    return local_contrast(q @ unit_steps(k).mT, match, others, t).mean()


def two_steps(c: Case) -> Tensor:
    """A linear encoder without an optimiser step: the copy moves, gives keys, and they enter the queue at the end."""
    queue, copy, values = Queue(c.hyper["K"], c.W_q.shape[0]).double(), c.W_k.detach().clone(), []
    queue.rows.copy_(c.queue.T)
    for x_q, x_k in zip(c.x_q, c.x_k, strict=True):
        copy = c.hyper["m"] * copy + (1 - c.hyper["m"]) * c.W_q.detach()
        query, key = unit(x_q @ c.W_q.T), unit(x_k @ copy.T)
        old, _ = queue.now(query)
        values.append(moco(query, paired_similarity(query, key), old, c.hyper["T"]).mean())
        queue.put(key, torch.arange(len(key)))
    torch.testing.assert_close(queue.rows, c.aux["queue_after"].T)
    torch.testing.assert_close(copy, c.aux["W_k_after"])
    assert int(queue.at) == int(c.aux["ptr_after"])
    return torch.stack(values)


def distilled(c: Case) -> Tensor:
    teacher = c.t_image.detach(), c.t_text.detach()
    there = like_the_teacher(c.image, c.text, *teacher, 1 / c.logit_scale, float(1 / c.t_scale))
    back = like_the_teacher(c.text, c.image, *teacher[::-1], 1 / c.logit_scale, float(1 / c.t_scale))
    return clip(c.image, c.text, 1 / c.logit_scale) + (there + back) / 2


def beclr(c: Case) -> Tensor:
    """Without neighbours. `ST` spreads view 1 by the student and view 2 by the teacher, which keeps its gradient."""
    size = len(c.p_student) // 2
    told, target = unit(c.p_student), unit(c.z_teacher.detach())
    near = (torch.linalg.vecdot(told, target.roll(size, 0))).mean()
    rows = c.z_student if c.hyper["uniformity"] == "SS" else torch.cat([c.z_student[:size], c.z_teacher[size:]])
    apart = spread(unit(rows), torch.arange(size).repeat(2), c.hyper["temp"])
    return c.hyper["lamb_neg"] * apart - near


def farthest(c: Case) -> Tensor:
    """Defect: the distance itself is what the transport looks for, so that rows go to far prototypes."""
    return balanced(c.aux["distance"], c.hyper["epsilon"], c.hyper["iterations"])


def cocosoda(c: Case) -> Tensor:
    """Six choices, each among the partners of the batch and a queue of their kind; keys and queues are constants. Then
    the rows and keys of the batch enter the queues."""
    code, text, t = unit(c.code), unit(c.text), c.hyper["temperature"]
    enters = {"code": code.detach(), "text": text.detach(), "code_key": c.code_key, "text_key": c.text_key}
    old = {name: c.inputs[f"queue_{name}"] for name in enters}
    for name, rows in enters.items():
        queue = Queue(*old[name].shape).double()
        queue.rows.copy_(old[name])
        queue.put(rows, torch.arange(len(rows)))
        torch.testing.assert_close(queue.rows, c.aux[f"queue_{name}_after"])
    between = [
        (code, "text", text),
        (code, "text_key", c.text_key),
        (text, "code", code),
        (text, "code_key", c.code_key),
    ]
    within = [(code, "code_key", c.code_key), (text, "text_key", c.text_key)]
    return torch.stack([infonce(x, y, t, negatives=Negatives(old[name])) for x, name, y in [*between, *within]]).mean()


CHECKS: dict[str, Callable[[Case], Tensor]] = {
    "moco_2step": two_steps,
    "mocov3": lambda c: sum(
        (moco_v3(unit(q), unit(k.detach()), c.hyper["temperature"]) for q, k in ((c.q1, c.k2), (c.q2, c.k1))),
        start=torch.zeros(()),
    ),
    "contriever_moco": lambda c: moco(
        c.query, paired_similarity(c.query, c.key), c.queue, c.hyper["temperature"]
    ).mean(),
    "mochi_unofficial": mochi,
    "featuretransform": feature_transformation,
    "simsiam": simsiam,
    "swav": swav,
    "densecl": dense,
    "vicreg_official": lambda c: vicreg(c.x, c.y),
    "lightly_vicreg": lambda c: vicreg(c.z0, c.z1),
    "lightly_barlow": lambda c: barlow_twins(c.z0, c.z1, c.hyper["lambda"]),
    "clip_distill": distilled,
    "cocosoda": cocosoda,
    "beclr_loss": beclr,
    "beclr_sinkhorn": farthest,
}


def files() -> list[Path]:
    return [path for path in sorted(GOLDEN.glob("*.npz")) if path.name.startswith(tuple(CHECKS))]


@pytest.mark.parametrize("path", files(), ids=lambda path: path.stem)
def test_matches(path: Path) -> None:
    case = Case(path)
    value = next(check for name, check in CHECKS.items() if path.name.startswith(name))(case)
    if not bool(case.expected.isfinite().all()):  # exp(S / epsilon) out of range there, in logarithms not here
        assert value.item() == pytest.approx(6.03, abs=0.01)
        return
    tolerance = {"rtol": 1e-6, "atol": 1e-9} if case.expected.dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(value.detach(), case.expected, **tolerance)
    if not case.grads:
        return
    leaves = [case.inputs[name] for name in case.grads]
    got = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
    for (name, expected), g in zip(case.grads.items(), got, strict=True):
        g = torch.zeros_like(expected) if g is None else g
        torch.testing.assert_close(g, expected, msg=lambda m, n=name: f"gradient of {n}: {m}", **tolerance)


def test_there_are_cases() -> None:
    assert len({path.name.partition("_")[0] for path in files()}) == 13
