"""Losses that no peer has, plainly written in torch: whole matrices of similarities, one operation after the other."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from clx.losses.base import Loss

Views = list[Tensor]
Extras = dict[str, Any]
Plain = Callable[[Views, Extras, Any], Tensor]
"""Of the views, the extras and the loss, whose networks it may use."""


@dataclass(frozen=True)
class Dense:
    """A loss in plain torch, and with which options and extras both are called."""

    of: Plain
    views: int = 2
    options: dict[str, Any] = field(default_factory=dict)
    batch: int = 4096
    """The usual size: smaller where the plain form takes the third power."""
    more: Callable[[Extras, int], None] = lambda extras, width: None
    """What besides both are given, of embeddings of this width."""
    begin: Callable[[Any], None] = lambda loss: None
    """What the loss has learned before."""


def unit(x: Tensor) -> Tensor:
    return functional.normalize(x, dim=1)


def off(s: Tensor) -> Tensor:
    """True but on the diagonal."""
    return ~torch.eye(len(s), dtype=torch.bool)


def groups(views: Views, extras: Extras) -> tuple[Tensor, Tensor, Tensor]:
    """Similarities of all rows, and which are positives and negatives by label."""
    z, labels = unit(torch.cat(views)), extras["labels"].repeat(len(views))
    same = labels[:, None] == labels
    return z @ z.T, same & off(same), ~same


def cacr(views: Views, extras: Extras, loss: Any) -> Tensor:
    x, y = map(unit, views)
    d = 2 - 2 * x @ y.T
    w = (-d).masked_fill(~off(d), -math.inf).softmax(1)
    return (x - y).square().sum(1).mean() - (w * d).sum(1).mean()


def averaged(views: Views, extras: Extras, loss: Any) -> Tensor:
    """SogCLR and iSogCLR, with what they read and would write; each row is seen for the first time."""
    x, y = map(unit, views)
    ids, total, own = extras["sample_id"], torch.zeros(()), type(loss).__name__ == "ISogCLR"
    for k, (a, b) in enumerate(((x, y), (y, x))):
        columns = loss.memory[ids][:, 3 * k : 3 * k + 3] if own else loss.memory[ids][:, k : k + 1]
        tau = columns[:, 1] if own else torch.full((len(x),), 0.07)
        s = a @ b.T
        h = s - s.diagonal()[:, None]
        g = (h / tau[:, None]).exp().masked_fill(~off(h), 0)
        now = g.detach().sum(1) / (len(x) - 1)
        u = torch.where(columns[:, 0] == -math.inf, now, 0.2 * columns[:, 0].exp() + 0.8 * now)
        weights = (g.detach() / u[:, None]) / (len(x) - 1)
        value = (tau * (u.log() + (0.1 if own else 0))).mean()
        if own:
            slope = u.log() + 0.1 - (weights * h.detach()).sum(1) / tau
            mean = 0.1 * columns[:, 2] + 0.9 * slope.clamp(-5, 5)
            torch.stack([u.log(), (tau - 0.01 * mean).clamp(0.005, 1), mean], 1)
        surrogate = (weights * h).sum() / len(x)
        total = total + (value + surrogate - surrogate.detach()) / 2
    return total


def multi_similarity(views: Views, extras: Extras, loss: Any) -> Tensor:
    s, positive, negative = groups(views, extras)
    far = s.masked_fill(~positive, math.inf).amin(1, keepdim=True).detach()
    near = s.masked_fill(~negative, -math.inf).amax(1, keepdim=True).detach()
    negative, positive = negative & (s > far - 0.1), positive & (s < near + 0.1)
    pull = (torch.exp(-2 * (s - 0.5)) * positive).sum(1)
    return (torch.log1p(pull) / 2 + torch.log1p((torch.exp(50 * (s - 0.5)) * negative).sum(1)) / 50).mean()


def triplet(views: Views, extras: Extras, loss: Any) -> Tensor:
    s, positive, negative = groups(views, extras)
    every = (s[:, None] - s[:, :, None] + 0.1).relu() * (positive[:, :, None] & negative[:, None])
    return every.sum() / (every > 0).sum()


def energy_hinge(views: Views, extras: Extras, loss: Any) -> Tensor:
    x, y = map(unit, views)
    s = x @ y.T
    return (0.2 - s.diagonal() + s.masked_fill(~off(s), -math.inf).amax(1)).relu().mean()


def mann_whitney(views: Views, extras: Extras, loss: Any) -> Tensor:
    x, y = map(unit, views)
    s = x @ y.T
    return functional.softplus((s[off(s)][:, None] - s.diagonal()) / 0.01).sum() / len(x)


def angle(views: Views, extras: Extras, loss: Any) -> Tensor:
    half = views[0].shape[1] // 2
    a, b = (torch.complex(u[:, :half].contiguous(), u[:, half:].contiguous()) for u in map(unit, views))
    w = (a * b.conj()).sum(1)
    s, y = (w.real + w.imag).abs() * 20, extras["targets"][:, 0]
    return functional.softplus((s[:, None] - s).masked_fill(y[:, None] >= y, -math.inf).flatten().logsumexp(0))


def sepclr(views: Views, extras: Extras, loss: Any) -> Tensor:
    half, target = views[0].shape[1] // 2, extras["labels"] != 0
    common, salient = [unit(v[:, :half]) for v in views], [v[:, half:] for v in views]
    apart = [s * target[:, None] for s in salient]

    def far(x: Tensor) -> Tensor:
        return torch.cdist(x, x, compute_mode="use_mm_for_euclid_dist").square()

    def spread(x: Tensor) -> Tensor:
        return (-far(x)).masked_fill(~off(x @ x.T), -math.inf).flatten().logsumexp(0) - math.log(len(x) * (len(x) - 1))

    total = (common[0] - common[1]).square().sum(1).mean() + sum(map(spread, common))
    total = total + 1000 * ((salient[0] - salient[1])[target].square().sum(1).mean() + sum(map(spread, apart)))
    total = total + 500 * sum(s[~target].square().sum(1).mean() for s in salient)
    joint = [(-far(c) - far(s)).logsumexp(1).mean() - math.log(len(c)) for c, s in zip(common, apart, strict=True)]
    return total + 5 * sum(joint)


def proto_triplet(views: Views, extras: Extras, loss: Any) -> Tensor:
    z, labels = unit(torch.cat(views)), extras["labels"].repeat(len(views))
    member = functional.one_hot(labels).to(z.dtype)
    sums, sizes = member.T @ z, member.sum(0)
    own = (sums[labels] - z) / (sizes[labels] - 1)[:, None]
    others = (z[:, None] - sums / sizes[:, None]).square().sum(2).sqrt().masked_fill(member > 0, math.inf)
    value: Tensor = ((z - own).norm(dim=1) - others.amin(1) + 0.3).relu().mean()
    return value


def icnn(views: Views, extras: Extras, loss: Any) -> Tensor:
    s, positive, negative = groups(views, extras)
    same, other = (
        (2 - 2 * s.masked_fill(~kind, -math.inf).topk(3, 1).values).sqrt().mean(1) / 2 for kind in (positive, negative)
    )
    return -((1 - same) * other).mean().log()


def prime(views: Views, extras: Extras, loss: Any) -> Tensor:
    x, y = map(unit, views)
    total = torch.zeros(())
    for s in (x @ y.T, y @ x.T):
        p = s.diagonal()[:, None]
        hard = s.masked_fill(~off(s), -math.inf).topk(min(100, len(s) - 1), 1).values
        left = (hard - p + (p - hard).abs().clamp(0.1, 0.3).detach()).relu()
        w = (hard / 0.1).masked_fill(left <= 0, -1e9).softmax(1)
        total = total + (w * left).sum(1).mean() / 2
    return total


def sct(views: Views, extras: Extras, loss: Any) -> Tensor:
    x, y = map(unit, views)
    queues, total = loss.queues.clone(), torch.zeros(())
    for k, (own, other) in enumerate(((x, views[1]), (y, views[0]))):
        columns = torch.cat([queues[k], own.detach()])
        for part in loss.predictor:
            other = part(other)
        teacher = (own.detach() @ columns.T / 0.04).softmax(1)
        total = total + functional.kl_div(
            (unit(other) @ columns.T / 0.05).log_softmax(1), teacher, reduction="batchmean"
        )
    return total


def hydra(views: Views, extras: Extras, loss: Any) -> Tensor:
    z, y = torch.cat(views), extras["labels"].repeat(len(views))
    square = loss.gates(y, y, z).square()
    lengths = (square * z.square()).sum(1, keepdim=True).sqrt() * (square @ z.square().T).sqrt()
    logits, same = (square * z) @ z.T / lengths / 0.1, y[:, None] == y
    against = logits.masked_fill(same, -math.inf).logsumexp(1, keepdim=True)
    return functional.softplus(against - logits)[same].mean()


def amcl(views: Views, extras: Extras, loss: Any) -> Tensor:
    size, total = len(views[0]), torch.zeros(())
    items = torch.arange(size).repeat(2)
    for head in loss.projections:
        z = unit(loss.through(head, torch.cat(views)))
        phi = loss.through(loss.phi, z)
        s, t = z @ z.T, 1e-5 + (2 - 1e-5) * torch.sigmoid(-phi @ phi.T)
        near, place = s.masked_fill(items[:, None] == items, -math.inf).topk(min(100, 2 * size - 2), 1)
        partner = (torch.arange(2 * size) + size) % (2 * size)
        own, ours, theirs = s.gather(1, partner[:, None]), t.gather(1, partner[:, None]), t.gather(1, place)
        pull = -own / ours + 1e-4 * (z.shape[1] / 2 * ours.log() + 1 / ours)
        push = (near / theirs).mean(1) - 1e-4 * (theirs.log() + 1 / theirs).sum(1)
        total = total + pull.mean() + push.mean()
    return total


DENSE: dict[str, Dense] = {
    "cacr": Dense(cacr),
    "sogclr": Dense(averaged, options={"temperature": 0.07}),
    "isogclr": Dense(averaged, options={"rate": 0.0}),
    "multi-similarity": Dense(multi_similarity, views=1),
    "triplet": Dense(triplet, views=1, batch=256),
    "energy-hinge": Dense(energy_hinge),
    "mann-whitney": Dense(mann_whitney, batch=128),
    "angle": Dense(angle),
    "sepclr": Dense(sepclr),
    "proto-triplet": Dense(proto_triplet, views=1),
    "icnn": Dense(icnn, views=1),
    "prime": Dense(prime),
    "sct": Dense(sct, options={"queue": 256, "layers": 1, "hidden": 2}),
    "hydra": Dense(hydra, views=1, options={"partner": "identical"}),
    "amcl": Dense(amcl, options={"heads": 2}),
}


Forward = Callable[[Views], Tensor]
STEPS = 8
"""In which the columns of a view are the embeddings of its steps."""


def both(loss: Loss, dense: Dense, batch: int, width: int) -> tuple[Forward, Forward]:
    """Ours and the plain form, of views."""
    loss.remembers = False  # every call is the first
    names, count = [str(k) for k in range(dense.views)], max(2, batch // 8)
    torch.manual_seed(0)
    of_head = "predictions" in loss.needs()  # as many as the embeddings are wide
    count = width if of_head else min(count, 20) if "label_sets" in loss.needs() else count
    loss.setup(names, width, [str(k) for k in range(count)], batch)
    loss.setup_decoders(dict.fromkeys(names, width))
    dense.begin(loss)
    columns, g = width if of_head else max(1, dense.views - 1), torch.Generator().manual_seed(1)
    extras: Extras = {
        "labels": torch.arange(batch) % count,
        "label_sets": ((torch.arange(batch)[:, None] + torch.arange(count)) % 7 < 2).float(),
        "targets": torch.rand(batch, columns, generator=g),
        "sample_id": torch.arange(batch),
        "keys": {name: torch.randn(batch, width) for name in names},
        "originals": {name: torch.randn(batch, width) for name in names},
        "generator": (draw := torch.Generator()),
        "progress": 0.0,
    }
    dense.more(extras, width)
    there = torch.ones(batch, STEPS, dtype=torch.bool)
    derived: dict[str, Callable[[Views], Any]] = {
        "predictions": lambda views: views[0],
        "steps": lambda views: {n: (v.unflatten(1, (STEPS, -1)), there) for n, v in zip(names, views, strict=True)},
        "states": lambda views: {n: v.detach().unflatten(1, (STEPS, -1)) for n, v in zip(names, views, strict=True)},
    }
    asked = loss.required() | (loss.needs() & {"generator", "progress"})
    given = {
        name: extras[name]
        for name in (asked - derived.keys()) | ({"labels"} if type(loss).__name__ == "Relation" else set())
    }
    made = [(name, make) for name, make in derived.items() if name in asked]

    def ours(views: Views) -> Tensor:
        draw.manual_seed(0)
        more = {name: make(views) for name, make in made}
        value: Tensor = loss(dict(zip(names, views, strict=True)), **given, **more)
        return value

    def plain(views: Views) -> Tensor:
        draw.manual_seed(0)
        return dense.of(views, extras, loss)

    return ours, plain
