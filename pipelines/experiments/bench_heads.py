"""As `bench_plain`: the losses of predictions, of scores, of sets of labels, of decoders and of steps.

Not here: `laso` and `moit`, most of which are networks and votes of their own, and `attention`, `masked-token`,
`replaced-token` and `self-guided`, which compare no rows of a batch: nothing of them goes by tiles.
"""

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from clx.pipelines.experiments.bench_plain import STEPS, Dense, Extras, Views, off, unit
from clx.pipelines.experiments.bench_views import chosen_own


def cross_entropy(views: Views, extras: Extras, loss: Any) -> Tensor:
    return functional.cross_entropy(views[0], extras["labels"])


def mutual_information(views: Views, extras: Extras, loss: Any) -> Tensor:
    p = views[0].softmax(1)
    mean = p.mean(0)
    return (mean * mean.log()).sum() - (p * p.log()).sum(1).mean()


def l1(views: Views, extras: Extras, loss: Any) -> Tensor:
    return functional.l1_loss(views[0], extras["targets"])


def mse(views: Views, extras: Extras, loss: Any) -> Tensor:
    return functional.mse_loss(views[0], extras["targets"])


def huber(views: Views, extras: Extras, loss: Any) -> Tensor:
    return functional.huber_loss(views[0], extras["targets"])


def binary_cross_entropy(views: Views, extras: Extras, loss: Any) -> Tensor:
    return functional.binary_cross_entropy_with_logits(views[0], extras["label_sets"])


def asymmetric(views: Views, extras: Extras, loss: Any) -> Tensor:
    y: Tensor = extras["label_sets"]
    p = views[0].sigmoid()
    shifted = (p - 0.05).clamp(min=0)
    own, others = (1 - p).detach() * p.log(), shifted.detach() ** 2 * (1 - shifted).log()
    return -(y * own + (1 - y) * others).mean()


def mlcd(views: Views, extras: Extras, loss: Any) -> Tensor:
    y: Tensor = extras["label_sets"]
    s = views[0]
    return (((-s).exp() * y).sum(1).log1p() + (s.exp() * (1 - y)).sum(1).log1p()).mean()


def sparsemax(views: Views, extras: Extras, loss: Any) -> Tensor:
    z, q = views[0], functional.normalize(extras["label_sets"], p=1, dim=1)
    ordered = z.sort(dim=1, descending=True).values
    count = torch.arange(1, z.shape[1] + 1)
    sizes = (1 + count * ordered > ordered.cumsum(1)).sum(1, keepdim=True)
    tau = (ordered.cumsum(1).gather(1, sizes - 1) - 1) / sizes
    spread = ((z.square() - tau.square()) * (z > tau)).sum(1) / 2
    value: Tensor = (q.square().sum(1) / 2 + spread - (q * z).sum(1)).mean()
    return value


def multilabel_softmax(views: Views, extras: Extras, loss: Any) -> Tensor:
    s, y = views[0], extras["label_sets"]
    others = (s.exp() * (1 - y)).sum(1, keepdim=True).log()
    each = (1 + (others - s).exp()).log() * y
    value: Tensor = (each.sum(1) / y.sum(1).clamp(min=1))[y.any(1)].mean()
    return value


def label_ranking(views: Views, extras: Extras, loss: Any) -> Tensor:
    s, y = views[0], extras["label_sets"] > 0
    every = (1 - s[:, :, None] + s[:, None]).relu()
    value: Tensor = (every * (y[:, :, None] & ~y[:, None])).sum() / len(s)
    return value


def label_prototypes(views: Views, extras: Extras, loss: Any) -> Tensor:
    u, v, y = unit(views[0]), unit(extras["head"].rows), extras["label_sets"]
    together, classes = y.T @ y, torch.arange(y.shape[1]).repeat_interleave(5)
    sizes = together.diagonal()
    overlap = (together / (sizes[:, None] + sizes - together)).fill_diagonal_(1)[classes][:, classes]
    s, g = u @ v.T, v @ v.T
    own = (s.unflatten(1, (-1, 5)).amax(2) * y).sum(1) / y.shape[1]
    other = s.masked_fill(y[:, classes] > 0, -math.inf).amax(1)
    contrast = (g * (1 - overlap)).sum() / (1 - overlap).sum() - (g * overlap).sum() / overlap.sum()
    near = (0.0004 * other - 0.004 * own).mean()
    value: Tensor = near + 250 * (g - torch.eye(len(v))).square().mean() + 300 * contrast / math.sqrt(len(v))
    return value


def cosent(views: Views, extras: Extras, loss: Any) -> Tensor:
    x, y = map(unit, views)
    s, scores = (x * y).sum(1) / 0.05, extras["targets"][:, 0]
    every = (s[:, None] - s).masked_fill(scores[:, None] >= scores, -math.inf)
    return functional.softplus(every.flatten().logsumexp(0))


def codiemb(views: Views, extras: Extras, loss: Any) -> Tensor:
    x, y = map(unit, views)
    s, scores = (x * y).sum(1), extras["targets"][:, 0]
    correlation = torch.corrcoef(torch.stack([s, scores]))[0, 1]
    ranks = scores.argsort().argsort() / (len(s) - 1)
    divergence = functional.kl_div((s / 0.05).log_softmax(0), (ranks / 0.05).softmax(0), reduction="batchmean")
    gaps = scores[:, None] - scores
    lower = gaps > 1e-8
    own = s * gaps.amax(1)
    every = ((gaps * s - own[:, None]) / 0.05).masked_fill(~lower, -math.inf)
    order = torch.cat([torch.zeros_like(own)[:, None], every], 1).logsumexp(1)[lower.any(1)].mean()
    return 2 * (1 - correlation) + 5 * divergence + 0.5 * order


def distil_scores(views: Views, extras: Extras, loss: Any) -> Tensor:
    query, right, *wrong = views
    s, t = torch.stack([(query * each).sum(1) for each in (right, *wrong)], 1), extras["targets"]
    return functional.mse_loss(s[:, :1] - s[:, 1:], t[:, :1] - t[:, 1:])


def granularities(views: Views, extras: Extras, loss: Any) -> Tensor:
    first, *others = map(unit, views)
    p = torch.stack([(first @ each.T / 0.07).softmax(1) for each in others])
    mean = p.mean(0)
    value: Tensor = (mean * (mean.log() - p.log())).sum(2).mean()
    return value


def reconstruct(views: Views, extras: Extras, loss: Any) -> Tensor:
    said: Tensor = loss.decoders[0](views[0])
    return functional.mse_loss(said, extras["originals"]["0"])


def cmim(views: Views, extras: Extras, loss: Any) -> Tensor:
    mean, x = views[0], extras["originals"]["0"]
    eps, log_scale = torch.randn(mean.shape, generator=extras["generator"]), loss.log_scale(mean)
    z = mean + log_scale.exp() * eps
    s = unit(z) @ unit(z).T / 0.1
    alike = torch.cat([s.new_full((len(s), 1), 10 + math.log(len(s) - 1)), s.masked_fill(~off(s), -math.inf)], 1)
    constant = math.log(2 * math.pi)
    codes = ((eps.square() + z.square()) / 2 + constant).sum(1) + log_scale.sum(1)
    said = ((loss.decoders[0](z) - x).square() + constant).sum(1) / 2
    value: Tensor = (codes / 2 + alike.logsumexp(1) - math.log(len(s) - 1) - 10 + said).mean()
    return value


def steps_of(view: Tensor) -> Tensor:
    return view.view(len(view), STEPS, -1)


def late(views: Views, extras: Extras, loss: Any) -> Tensor:
    x, y = (functional.normalize(steps_of(v), dim=2) for v in views)
    s = torch.einsum("itd,jsd->ijts", x, y).amax(3).mean(2) / 0.07
    return (chosen_own(s) + chosen_own(s.T)) / 2


def dense(views: Views, extras: Extras, loss: Any) -> Tensor:
    rows = [functional.normalize(steps_of(v), dim=2) for v in views]
    every, total = torch.cat([r.flatten(0, 1) for r in rows]), torch.zeros(())
    item = torch.arange(len(views[0])).repeat_interleave(STEPS).repeat(2)
    s = (every @ every.T / 0.2).masked_fill(item[:, None] == item, -math.inf)
    others = s.logsumexp(1).view(2, -1, STEPS)
    for k in (0, 1):
        with torch.no_grad():
            match = (rows[k] @ rows[1 - k].mT).argmax(2)
        positive = (rows[k] @ rows[1 - k].mT / 0.2).gather(2, match[:, :, None])[:, :, 0]
        total = total + functional.softplus(others[k] - positive).mean() / 2
    return total


def ts2vec(views: Views, extras: Extras, loss: Any) -> Tensor:
    x, y = map(steps_of, views)
    levels: list[Tensor] = []
    while True:
        level = torch.zeros(())
        for a, b in ((x.transpose(0, 1), y.transpose(0, 1)), (x, y)):
            n, both = a.shape[1], torch.cat([a, b], 1)
            if n > 1:
                logits = (both @ both.mT).masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf).log_softmax(2)
                own = logits.diagonal(n, 1, 2) + logits.diagonal(-n, 1, 2)
                level = level - own.mean() / 4
        levels.append(level)
        if x.shape[1] == 1:
            return torch.stack(levels).mean()
        x, y = (functional.max_pool1d(each.mT, 2).mT for each in (x, y))


def prototypes(extras: Extras, width: int) -> None:
    extras["head"] = SimpleNamespace(rows=torch.randn(5 * extras["label_sets"].shape[1], width))


def unknown(extras: Extras, width: int) -> None:
    extras["labels"] = torch.full_like(extras["labels"], -1)


HEADS: dict[str, Dense] = {
    "cross-entropy": Dense(cross_entropy, views=1),
    "mutual-information": Dense(mutual_information, views=1, more=unknown),
    "l1": Dense(l1, views=1),
    "mse": Dense(mse, views=1),
    "huber": Dense(huber, views=1),
    "binary-cross-entropy": Dense(binary_cross_entropy, views=1),
    "asymmetric": Dense(asymmetric, views=1),
    "mlcd": Dense(mlcd, views=1),
    "sparsemax": Dense(sparsemax, views=1),
    "multilabel-softmax": Dense(multilabel_softmax, views=1),
    "label-ranking": Dense(label_ranking, views=1, batch=1024),
    "label-prototypes": Dense(label_prototypes, views=1, more=prototypes),
    "cosent": Dense(cosent),
    "codiemb": Dense(codiemb),
    "distil-scores": Dense(distil_scores, views=5),
    "granularities": Dense(granularities, views=3),
    "reconstruct": Dense(reconstruct, views=1, options={"hidden": 64}),
    "cmim": Dense(cmim, views=1, options={"hidden": 64}),
    "late": Dense(late, batch=512),
    "dense": Dense(dense, batch=512),
    "ts2vec": Dense(ts2vec, batch=512),
}
