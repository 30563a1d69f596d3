"""As `bench_plain`: the losses of pairs and of views of one batch, of which all rows are compared with all."""

import math
from typing import Any

import torch
from torch import Tensor

from clx.losses.primitives.draws import beta
from clx.pipelines.experiments.bench_plain import Dense, Extras, Views, off, unit
from clx.pipelines.experiments.bench_views import chosen_own


def pairs_of_views(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    """Each of the 2 B rows chooses its partner among all others, `[2B]`."""
    s = torch.cat([x, y]) @ torch.cat([x, y]).T / temperature
    positive = s.diagonal(len(x)).repeat(2)
    return s.masked_fill(~off(s), -math.inf).logsumexp(1) - positive


def infonce(views: Views, extras: Extras, loss: Any) -> Tensor:
    x, y = map(unit, views)
    return chosen_own(x @ y.T / 0.07)


def joint(views: Views, extras: Extras, loss: Any) -> Tensor:
    """All four directions, and every negative's cosine nine times more, as a constant."""
    x, y = map(unit, views)
    s, others = x @ y.T / 0.07, off(x @ y.T)
    harder = s + (9 * s * 0.07 * others).detach()
    within = [(u @ u.T / 0.07).masked_fill(~others, -math.inf) for u in (x, y)]
    return (torch.cat([harder, s.T, *within], 1).logsumexp(1) - s.diagonal()).mean()


def clusterns(views: Views, extras: Extras, loss: Any) -> Tensor:
    """With centroids that are there and stay as they are."""
    x, y = map(unit, views)
    s, positive = x @ y.T, (x * y).sum(1)
    own, second = (x.detach() @ loss.centroids.T).topk(2, 1).indices.unbind(1)
    beside = (x * loss.centroids[second]).sum(1)
    total = torch.cat([s, beside[:, None]], 1).div(0.05).logsumexp(1) - positive / 0.05
    below = s - positive[:, None]
    counted = (own[:, None] == own) & off(s)
    band = (below + 0.2).relu() + (-below - 0.5).relu()
    value: Tensor = total.mean() + 1e-4 * (band * counted).sum() / counted.sum().clamp(min=1)
    return value


def debiased(views: Views, extras: Extras, loss: Any) -> Tensor:
    x, y = map(unit, views)
    z, count, beta = torch.cat([x, y]), 2 * len(x) - 2, getattr(loss, "beta", 0.0)
    s = z @ z.T / 0.5
    item = torch.arange(len(x)).repeat(2)
    other = item[:, None] != item
    positive, e = s.diagonal(len(x)).repeat(2).exp(), s.exp() * other
    if beta:
        w = (beta * s).exp() * other
        e = e * w / (w.sum(1, keepdim=True) / count)
    g = ((e.sum(1) / count - 0.1 * positive) / 0.9).clamp(min=math.exp(-2))
    return (1 + count * g / positive).log().mean()


def dclw(views: Views, extras: Extras, loss: Any) -> Tensor:
    x, y = map(unit, views)
    s = torch.cat([x, y]) @ torch.cat([x, y]).T / 0.1
    item = torch.arange(len(x)).repeat(2)
    positive = s.diagonal(len(x))
    w = 2 - len(x) * ((x * y).sum(1) / 0.5).softmax(0).detach()
    others = s.masked_fill(item[:, None] == item, -math.inf).logsumexp(1)
    value: Tensor = (others - (w * positive).repeat(2)).mean()
    return value


def pairwise(views: Views, extras: Extras, loss: Any) -> Tensor:
    u = [unit(v) for v in views]
    pairs = [(a, b) for k, a in enumerate(u) for b in u[k + 1 :]]
    return torch.stack([pairs_of_views(a, b, 0.5).mean() for a, b in pairs]).mean()


def average_view(views: Views, extras: Extras, loss: Any) -> Tensor:
    u = torch.stack([unit(v) for v in views])
    means = (u.sum(0) - u) / (len(u) - 1)
    return torch.stack([pairs_of_views(a, b, 0.5).mean() for a, b in zip(u, means, strict=True)]).mean()


def poly_view(views: Views, extras: Extras, loss: Any) -> Tensor:
    u, count = unit(torch.cat(views)), len(views)
    s, item = u @ u.T / 0.5, torch.arange(len(views[0])).repeat(count)
    others = s.masked_fill(item[:, None] == item, -math.inf).logsumexp(1)
    positive = s.masked_select((item[:, None] == item) & off(s)).view(len(u), count - 1)
    return (1 + (others[:, None] - positive).exp()).log().mean()


def align_uniform(views: Views, extras: Extras, loss: Any) -> Tensor:
    x, y = map(unit, views)
    spread = torch.zeros(())
    for z in (x, y):
        far = torch.cdist(z, z, compute_mode="use_mm_for_euclid_dist").square()
        spread = spread + (-2 * far).masked_fill(~off(far), -math.inf).flatten().logsumexp(0) / 2
    return (x - y).square().sum(1).mean() + spread - math.log(len(x) * (len(x) - 1))


def dbpm(views: Views, extras: Extras, loss: Any) -> Tensor:
    """Without a word of its memory, since each row is seen for the first time."""
    x, y = map(unit, views)
    return pairs_of_views(x, y, 0.2).mean()


def nspt(views: Views, extras: Extras, loss: Any) -> Tensor:
    x, teacher = unit(views[0]), unit(extras["keys"]["0"])
    s, same = x @ x.T / 0.1, (extras["labels"][:, None] == extras["labels"]).float()
    positive = (x @ teacher.T / 0.1 * same).sum(1) / same.sum(1)
    value: Tensor = (s.masked_fill(~off(s), -math.inf).logsumexp(1) - positive).mean()
    return value


def supremix(views: Views, extras: Extras, loss: Any) -> Tensor:
    """Every anchor with every two rows."""
    z, y, g = unit(views[0]), extras["targets"][:, 0], extras["generator"]
    share, window = beta(2.0, 8.0, (len(z), len(z)), z, g), 0.3 * y.std()
    s, fixed, far = z @ z.T / 0.3, z @ z.detach().T / 0.3, (y[:, None] - y).abs()
    mixed = share * fixed.diagonal()[:, None] + (1 - share) * fixed + (1 + (1 - share) * far).log()
    gap = y[:, None] - y
    below, above = (gap > 0) & (gap < window), (gap < 0) & (-gap < window)
    both = below[:, :, None] & above[:, None]
    a = torch.where(both, -gap[:, None] / (y - y[:, None]), 0)
    hard = (a * fixed[:, :, None] + (1 - a) * fixed[:, None]) * both
    columns = [(s + far.log1p()).masked_fill(~off(s), -math.inf), mixed.masked_fill(far == 0, -math.inf)]
    count, total = both.sum((1, 2)), hard.sum((1, 2))
    alone = count == 0
    columns += [
        hard.masked_fill(~both, -math.inf).flatten(1),
        s.diagonal()[:, None].masked_fill(~alone[:, None], -math.inf),
    ]
    positive = torch.where(alone, s.diagonal(), total / count.clamp(min=1))
    return (torch.cat(columns, 1).logsumexp(1) - positive).mean()


def core_tuning(views: Views, extras: Extras, loss: Any) -> Tensor:
    f, labels, g = views[0], extras["labels"], extras["generator"]
    s, same, n = unit(f.detach()) @ unit(f.detach()).T, labels[:, None] == labels, len(f)
    positive = s.masked_fill(~same | ~off(s), math.inf).argmin(1)
    negative = s.masked_fill(same, -math.inf).argmax(1)
    order = torch.randperm(n, generator=g)
    near, apart = beta(1.0, 1.0, (2, n), f, g)
    near = near.clamp(min=0.8)
    rows, one, other, share = [f.detach()], [labels], [labels], [torch.ones(n)]
    for i, j, each in ((order, torch.arange(n), near), (positive, negative, apart)):
        rows.append(each[:, None] * f[i] + (1 - each[:, None]) * f[j])
        one.append(torch.minimum(labels[i], labels[j]))
        other.append(torch.maximum(labels[i], labels[j]))
        mine = torch.where(labels[i] < labels[j], each, 1 - each)
        share.append(torch.where(labels[i] == labels[j], 1, mine))
    mixed, first, second, shares = torch.cat(rows), torch.cat(one), torch.cat(other), torch.cat(share)
    logs = extras["head"](mixed).log_softmax(1)
    told = shares * logs.gather(1, first[:, None])[:, 0] + (1 - shares) * logs.gather(1, second[:, None])[:, 0]
    z = unit(loss.head_of_contrast(mixed))
    logits = (z @ z.T / 0.07).masked_fill(~off(z @ z.T), -math.inf).log_softmax(1)
    alike = (first[:, None] == first) & (second[:, None] == second) & (shares[:, None] == shares) & off(logits)
    terms = (logits.exp() - 1) * logits.masked_fill(~alike, 0) * alike
    value: Tensor = 0.1 * terms.sum() / len(z) / alike.any(1).sum() - told.mean()
    return value


def linear_head(extras: Extras, width: int) -> None:
    weights = torch.randn(len(extras["labels"].unique()), width)
    extras["head"] = lambda rows: rows @ weights.T


def begin_centroids(loss: Any) -> None:
    loss.centroids.copy_(unit(torch.randn(loss.centroids.shape)))
    loss.started.fill_(True)


FOUR = ["first-second", "second-first", "first-first", "second-second"]
PAIRS: dict[str, Dense] = {
    "infonce": Dense(infonce),
    "infonce joint": Dense(joint, options={"directions": FOUR, "hardness": 9.0}),
    "clusterns": Dense(clusterns, begin=begin_centroids),
    "debiased": Dense(debiased),
    "hcl": Dense(debiased),
    "dclw": Dense(dclw),
    "pairwise": Dense(pairwise, views=4, batch=1024),
    "average-view": Dense(average_view, views=4, batch=1024),
    "poly-view": Dense(poly_view, views=4, batch=1024),
    "align-uniform": Dense(align_uniform),
    "dbpm": Dense(dbpm, options={"temperature": 0.2}),
    "nspt": Dense(nspt, views=1),
    "core-tuning": Dense(core_tuning, views=1, batch=1024, more=linear_head),
    "supremix": Dense(supremix, views=1, options={"max_positives": 1 << 30}, batch=128),
}
