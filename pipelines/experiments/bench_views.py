"""As `bench_plain`: the losses of views of one modality, of a second model, of relations and of mixtures."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from clx.losses.pgrank import gumbel
from clx.losses.primitives.draws import beta
from clx.pipelines.experiments.bench_plain import Dense, Extras, Views, off, unit


def chosen_first(logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def chosen_own(logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits, torch.arange(len(logits)))


def both_ways(views: Views, extras: Extras) -> list[tuple[Tensor, Tensor]]:
    """Each view with the key of the other."""
    return [(views[0], extras["keys"]["1"]), (views[1], extras["keys"]["0"])]


def groco(views: Views, extras: Extras, loss: Any) -> Tensor:
    """A layer of the sorting network is a matrix of a row's numbers by places."""
    views, total = [unit(v) for v in views], torch.zeros(())
    for x, y in (views, views[::-1]):
        negatives = (x @ x.T.detach()).masked_fill(~off(x @ x.T), -math.inf).topk(min(10, len(x) - 1), 1).values
        numbers = torch.cat([negatives.flip(1), (x * y.detach()).sum(1, keepdim=True)], 1)
        n = numbers.shape[1]
        shares = torch.eye(n).expand(len(x), n, n)
        for layer in range(n):
            low = torch.arange(layer % 2, n - 1, 2)
            keep = torch.atan(numbers[:, low + 1] - numbers[:, low]) / math.pi + 0.5
            swap = torch.eye(n).repeat(len(x), 1, 1)
            swap[:, low, low] = swap[:, low + 1, low + 1] = keep
            swap[:, low, low + 1] = swap[:, low + 1, low] = 1 - keep
            numbers, shares = (numbers[:, None] @ swap)[:, 0], shares @ swap
        last = torch.cat([shares[:, :-1, :-1].sum(2), shares[:, -1:, -1]], 1)
        total = total - last.log().mean() / 2
    return total


def whitened(views: Views, extras: Extras, loss: Any) -> Tensor:
    width, white = views[0].shape[1], []
    for view in (views[0], views[1], views[1]):
        order = torch.randperm(width, generator=extras["generator"])
        centred = (view - view.mean(0))[:, order]
        parts = []
        for part in centred.split(8, 1):
            values, vectors = torch.linalg.eigh(part.T @ part / len(view))
            parts.append(part @ vectors @ torch.diag((values.clamp(min=0) + 1e-3 * values.mean()).rsqrt()) @ vectors.T)
        white.append(unit(torch.cat(parts, 1)[:, order.argsort()]))
    return (chosen_own(white[0] @ white[1].T / 0.05) + chosen_own(white[0] @ white[2].T / 0.05)) / 2


def pg_rank(views: Views, extras: Extras, loss: Any) -> Tensor:
    x, y = map(unit, views)
    seeds, n, total = torch.randint(1 << 62, (2, 16), generator=extras["generator"]), len(x), torch.zeros(())
    places = torch.arange(n)
    for seed, (a, b) in zip(seeds, ((x, y), (y, x)), strict=True):
        scores, count = a @ b.T / 0.05, min(10, n)
        noise = torch.stack([gumbel(each, places, n, scores.dtype) for each in seed])
        order = (scores.detach() + noise).argsort(2, descending=True)
        ranked = scores.expand_as(noise).gather(2, order)
        logs = (ranked - ranked.flip(2).logcumsumexp(2).flip(2))[:, :, :count]
        parts = (order[:, :, :count] == places[:, None]) / (torch.arange(count) + 2.0).log2()
        togo = parts.flip(2).cumsum(2).flip(2)
        weights = togo - (togo.sum(0) - togo) / 15
        surrogate = (weights * logs).sum() / 16 / n
        total = total + 1 - parts.sum() / 16 / n - surrogate + surrogate.detach()
    return total / 2


def moco(views: Views, extras: Extras, loss: Any) -> Tensor:
    total = torch.zeros(())
    for name, (view, key) in zip("10", both_ways(views, extras), strict=True):
        q, k = unit(view), unit(key)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ loss.queues[name].rows.clone().T], 1)
        total = total + chosen_first(logits / 0.2) / 2
    return total


def moco_v3(views: Views, extras: Extras, loss: Any) -> Tensor:
    told = [(unit(loss.predictor(view)), unit(key)) for view, key in both_ways(views, extras)]
    return 2 * sum((chosen_own(q @ k.T) for q, k in told), torch.zeros(()))


def byol(views: Views, extras: Extras, loss: Any) -> Tensor:
    told = [(unit(loss.predictor(view)), unit(key)) for view, key in both_ways(views, extras)]
    return sum(((2 - 2 * (q * k).sum(1)).mean() for q, k in told), torch.zeros(()))


def simsiam(views: Views, extras: Extras, loss: Any) -> Tensor:
    p, q = (unit(loss.predictor(view)) for view in views)
    x, y = (unit(view).detach() for view in views)
    return -((p * y).sum(1).mean() + (q * x).sum(1).mean()) / 2


def swav(views: Views, extras: Extras, loss: Any) -> Tensor:
    scores = [unit(view) @ unit(loss.directions).T for view in views]
    codes = []
    for each in scores:
        with torch.no_grad():
            code = (each / 0.05).exp()
            for _ in range(3):
                code = code / code.sum(0)
                code = code / code.sum(1, keepdim=True)
        codes.append(code)
    told = [(each / 0.1).log_softmax(1) for each in scores]
    return -((codes[0] * told[1]).sum(1).mean() + (codes[1] * told[0]).sum(1).mean()) / 2


def dino(views: Views, extras: Extras, loss: Any) -> Tensor:
    total = torch.zeros(())
    for view, key in both_ways(views, extras):
        with torch.no_grad():
            code = ((unit(key) @ unit(loss.slow).T - loss.center) / 0.04).softmax(1)
        told = (unit(view) @ unit(loss.directions).T / 0.1).log_softmax(1)
        total = total - (code * told).sum(1).mean() / 2
    return total


def vicreg(views: Views, extras: Extras, loss: Any) -> Tensor:
    x, y = views
    total, width = 25 * functional.mse_loss(x, y), x.shape[1]
    for view in views:
        total = total + 12.5 * functional.relu(1 - (view.var(0) + 1e-4).sqrt()).mean()
        centred = view - view.mean(0)
        covariance = centred.T @ centred / (len(view) - 1)
        total = total + covariance[off(covariance)].square().sum() / width
    return total


def barlow_twins(views: Views, extras: Extras, loss: Any) -> Tensor:
    x, y = (functional.batch_norm(view, None, None, training=True) for view in views)
    c = x.T @ y / len(x)
    return (c.diagonal() - 1).square().sum() + 0.0051 * c[off(c)].square().sum()


def beclr(views: Views, extras: Extras, loss: Any) -> Tensor:
    """Of a memory without clusters yet, whose neighbours are looked for and do not count."""
    u, total, memory = unit(torch.cat(views)), torch.zeros(()), loss.keys_seen
    for view, key in both_ways(views, extras):
        told, target = unit(loss.predictor(view)), unit(key)
        with torch.no_grad():
            cluster = (target @ memory.prototypes.T).argmax(1)
            near = (target @ memory.rows.T).masked_fill(cluster[:, None] != memory.of, -math.inf).topk(5, 1)
            rows, known = memory.rows[near.indices], near.values.isfinite() & memory.begun
        found = (told * target).sum(1) + ((told[:, None] * rows).sum(2) * known).sum(1)
        total = total - (found / (1 + known.sum(1))).mean() / 2
    items = torch.arange(len(views[0])).repeat(2)
    s = (u @ u.T / loss.uniformity_temperature).masked_fill(items[:, None] == items, -math.inf)
    n = len(views[0])
    value: Tensor = total + loss.uniformity * (s.flatten().logsumexp(0) - math.log(4 * n * (n - 1)))
    return value


def distil(views: Views, extras: Extras, loss: Any) -> Tensor:
    x, y = map(unit, views)
    s, t = x @ y.T / 0.07, unit(extras["keys"]["0"]) @ unit(extras["keys"]["1"]).T / 0.07
    there, back = ((t.softmax(d) * s.log_softmax(d)).sum(d).mean() for d in (1, 0))
    return -(there + back) / 2


def relation(views: Views, extras: Extras, loss: Any) -> Tensor:
    x, y = map(unit, views)
    s, w = x @ y.T / 0.07, (extras["labels"][:, None] == extras["labels"]).float()
    q = w / w.sum(1, keepdim=True)
    there, back = ((each.logsumexp(1) - (q * each).sum(1)).mean() for each in (s, s.T))
    value: Tensor = (there + back) / 2
    return value


def m3col(views: Views, extras: Extras, loss: Any) -> Tensor:
    total, g = torch.zeros(()), extras["generator"]
    for x, y in (views, views[::-1]):
        order = torch.randperm(len(x), generator=g)
        share = beta(0.15, 0.15, (len(x),), x, g)
        share = torch.where(torch.rand(len(x), generator=g) < 0.5, share, 1)
        s = unit(share[:, None] * x + (1 - share[:, None]) * x[order]) @ unit(y).T / 0.1
        target = torch.diag(share).scatter_add(1, order[:, None], 1 - share[:, None])
        total = total - ((target * s.log_softmax(1)).sum(1) + (target * s.log_softmax(0)).sum(0)).mean() / 2
    return total


def soft_clip(views: Views, extras: Extras, loss: Any) -> Tensor:
    total = torch.zeros(())
    for x, y in (views, views[::-1]):
        x, y = unit(x), unit(y)
        s, target = x @ y.T / 0.125, (y @ y.T / 0.125).softmax(1)
        total = total + (functional.cross_entropy(s, target) + functional.cross_entropy(s.T, target)) / 2
    return total


VIEWS: dict[str, Dense] = {
    "groco": Dense(groco),
    "whitened": Dense(whitened, options={"channels": 8}),
    "pg-rank": Dense(pg_rank, batch=512),
    "moco": Dense(moco, options={"queue": 4096}),
    "moco-v3": Dense(moco_v3),
    "byol": Dense(byol),
    "simsiam": Dense(simsiam),
    "swav": Dense(swav, options={"prototypes": 64}),
    "dino": Dense(dino, options={"prototypes": 64}),
    "vicreg": Dense(vicreg),
    "barlow-twins": Dense(barlow_twins),
    "beclr": Dense(beclr, options={"memory_rows": 1024, "prototypes": 32, "uniformity_temperature": 0.1}),
    "distil": Dense(distil),
    "relation": Dense(relation),
    "m3col": Dense(m3col, options={"mixed": 1.0}),
    "m3col soft": Dense(soft_clip, options={"mixed": 0.0}),
}
"""By the name of the loss, and what of it where there is more than one comparison."""
