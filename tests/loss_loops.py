"""Loops over formulas, for test_oracles.py: losses that compare rows otherwise than by one log-sum-exp."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Rows = dict[str, list[Tensor | None]]
"""Unit rows by name; None where an item lacks that input."""
Given = dict[str, Any]


def lse(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).logsumexp(0)


def mean(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).mean()


def expected(values: list[Tensor], logits: list[Tensor]) -> Tensor:
    """The mean of values by the softmax of logits."""
    return (torch.stack(values) * torch.stack(logits).softmax(0)).sum()


def flat(rows: Rows) -> list[tuple[int, Tensor]]:
    return [(i, r) for n in rows for i, r in enumerate(rows[n]) if r is not None]


def by_pairs(rows: Rows, loss: Callable[[list[int], list[Tensor], list[Tensor]], Tensor]) -> Tensor:
    """Mean over pairs of names of a loss on the items that have both, given their numbers."""
    terms = []
    for a, b in itertools.combinations(rows, 2):
        both = [i for i, (x, y) in enumerate(zip(rows[a], rows[b], strict=True)) if x is not None and y is not None]
        if len(both) > 1:
            terms.append(loss(both, [rows[a][i] for i in both], [rows[b][i] for i in both]))  # type: ignore[misc]
    return mean(terms)


def cacr(rows: Rows, alpha: float, beta: float, near: float, far: float) -> Tensor:
    def cost(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().sum()

    pulls = []
    for i in range(len(next(iter(rows.values())))):
        own = {n: r for n in rows if (r := rows[n][i]) is not None}
        for n, u in own.items():
            costs = [cost(u, v) for m, v in own.items() if m != n]
            if costs:
                pulls.append(expected(costs, [far * c for c in costs]))

    def push(items: list[int], x: list[Tensor], y: list[Tensor]) -> Tensor:
        terms = []
        for i, u in enumerate(x):
            costs = [cost(u, v) for j, v in enumerate(y) if j != i]
            terms.append(expected(costs, [-near * c for c in costs]))
        return -mean(terms)

    return alpha * mean(pulls) + beta * by_pairs(rows, push)


def groco(rows: Rows, nearest: int, steepness: float) -> Tensor:
    """The probabilities of places as products of the layers' matrices of swaps."""
    terms = []
    for n, views in rows.items():
        for i, u in enumerate(views):
            positives = [rows[m][i] for m in rows if m != n and rows[m][i] is not None]
            others = [v.detach() for j, v in enumerate(views) if j != i and v is not None]
            if u is None or not positives or not others:
                continue
            negatives = sorted((u @ v for v in others), key=Tensor.item)[-nearest:]
            x = [*negatives, *sorted((u @ p.detach() for p in positives if p is not None), key=Tensor.item)]
            product = torch.eye(len(x), dtype=u.dtype)
            for layer in range(len(x)):
                for k in range(layer % 2, len(x) - 1, 2):
                    a, b = x[k], x[k + 1]
                    keep = 0.5 + torch.atan(steepness * (b - a)) / math.pi
                    swap = [[float(r == c) + 0 * keep for c in range(len(x))] for r in range(len(x))]
                    swap[k][k] = swap[k + 1][k + 1] = keep
                    swap[k][k + 1] = swap[k + 1][k] = 1 - keep
                    product = product @ torch.stack([torch.stack(row) for row in swap])
                    x[k], x[k + 1] = keep * a + (1 - keep) * b, (1 - keep) * a + keep * b
            last = [product[k, len(negatives) :].sum() for k in range(len(x))]
            right = [p if k >= len(negatives) else 1 - p for k, p in enumerate(last)]
            terms.append(-mean([p.log() for p in right]))
    return mean(terms)


def mann_whitney(x: list[Tensor], y: list[Tensor], t: Tensor, keep: Callable[[int, int], bool]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for i, u in enumerate(x):
        for j, k in itertools.product(range(len(x)), repeat=2):
            if keep(j, k):
                total = total + torch.log1p(torch.exp((x[j] @ y[k] - u @ y[i]) / t))
    return total / len(x)


def energy_hinge(x: list[Tensor], y: list[Tensor], margin: float) -> Tensor:
    terms = []
    for i, u in enumerate(x):
        nearest = torch.stack([u @ v for j, v in enumerate(y) if j != i]).max()
        terms.append((margin - u @ y[i] + nearest).clamp(min=0))
    return mean(terms)


def grouped(rows: Rows, labels: Tensor) -> list[tuple[int, Tensor, list[Tensor], list[Tensor]]]:
    """Each row with its positives and its negatives by label."""
    every, found = flat(rows), []
    for k, (i, u) in enumerate(every):
        alike = [m for m, (j, _) in enumerate(every) if j == i or (labels[i] >= 0 and labels[i] == labels[j])]
        positive = [every[m][1] for m in alike if m != k]
        found.append((i, u, positive, [v for m, (_, v) in enumerate(every) if m not in alike]))
    return found


def multi_similarity(rows: Rows, labels: Tensor, a: float, b: float, base: float, mining: float | None) -> Tensor:
    terms = []
    for _, u, positive, negative in grouped(rows, labels):
        pull, push = [u @ p for p in positive], [u @ n for n in negative]
        if mining is not None:
            far, near = min(x.item() for x in pull), max(x.item() for x in push)
            pull, push = [x for x in pull if x < near + mining], [x for x in push if x > far - mining]
        one = torch.ones((), dtype=u.dtype)
        total = sum((torch.exp(-a * (x - base)) for x in pull), one).log() / a
        terms.append(total + sum((torch.exp(b * (x - base)) for x in push), one).log() / b)
    return mean(terms)


def triplets(rows: Rows, labels: Tensor, margin: float, mining: str, euclidean: bool) -> Tensor:
    def near(a: Tensor, b: Tensor) -> Tensor:
        return -(a - b).norm() if euclidean else a @ b

    terms = []
    for _, u, positive, negative in grouped(rows, labels):
        pull, push = [near(u, p) for p in positive], [near(u, n) for n in negative]
        if mining == "hard" and pull:
            pairs = [(min(pull, key=Tensor.item), max(push, key=Tensor.item))]
        elif mining == "semi-hard":
            pairs = [(p, max(below, key=Tensor.item)) for p in pull if (below := [n for n in push if n < p])]
        else:
            pairs = list(itertools.product(pull, push))
        terms += [n - p + margin for p, n in pairs if n - p + margin > 0]
    return mean(terms)


def angle(rows: Rows, scores: Tensor, t: Tensor) -> Tensor:
    def similarity(x: Tensor, y: Tensor) -> Tensor:
        half = len(x) // 2
        a, b = torch.complex(x[:half], x[half:]), torch.complex(y[:half], y[half:])
        w = (a * b.conj()).sum()
        return (w.real + w.imag).abs()

    def ordered(items: list[int], x: list[Tensor], y: list[Tensor]) -> Tensor:
        found = [similarity(a, b) for a, b in zip(x, y, strict=True)]
        both = itertools.product(range(len(items)), repeat=2)
        logits = [(found[i] - found[j]) / t for i, j in both if scores[items[i]] < scores[items[j]]]
        return torch.log1p(sum((x.exp() for x in logits), torch.zeros((), dtype=torch.float64)))

    return by_pairs(rows, ordered)


def sepclr(
    given: Given, kernel: float, share: float, weights: tuple[float, float, float], follow: tuple[float, float]
) -> Tensor:
    """Of raw rows, label 0 the background."""
    z, labels, terms = given["z"], given["labels"], []
    zero = torch.zeros((), dtype=torch.float64)

    def spread(rows: list[Tensor]) -> Tensor:
        return mean([torch.exp(-kernel * (a - b).square().sum()) for a, b in itertools.combinations(rows, 2)]).log()

    for names in itertools.combinations(z, 2):
        both = [i for i in range(len(labels)) if labels[i] >= 0 and all(given["present"][n][i] for n in names)]
        target = [i for i in both if labels[i] != 0]
        cut = z[names[0]].shape[1] - round(share * z[names[0]].shape[1])
        c = [{i: z[n][i, :cut] / z[n][i, :cut].norm() for i in both} for n in names]
        s = [{i: z[n][i, cut:] for i in both} for n in names]
        zeroed = [{i: x[i] if i in target else 0 * x[i].detach() for i in both} for x in s]
        total = kernel * mean([(c[0][i] - c[1][i]).square().sum() for i in both])
        total = total + sum((spread(list(x.values())) for x in c), zero)
        pulled = kernel * mean([(s[0][i] - s[1][i]).square().sum() for i in target])
        total = total + weights[0] * (pulled + sum((spread(list(x.values())) for x in zeroed), zero))
        total = total + weights[1] * kernel * mean([x[i].square().sum() for x in s for i in both if i not in target])
        y, known = given["targets"][:, 0], [i for i in both if not given["targets"][i, 0].isnan()]
        for x in s:
            alike = [(torch.exp(-follow[1] * (y[i] - y[j]) ** 2), i, j) for i, j in itertools.combinations(known, 2)]
            total = total + follow[0] * mean([w * (x[i][0] - x[j][0]) ** 2 for w, i, j in alike]) / 2
        for x, y in zip(c, zeroed, strict=True):
            for i in both:
                near = [
                    torch.exp(-kernel * ((x[i] - x[j]).square().sum() + (y[i] - y[j]).square().sum())) for j in both
                ]
                total = total + weights[2] * mean(near).log() / len(both) / 2
        terms.append(total)
    return mean(terms)


def proto_triplet(rows: Rows, labels: Tensor, margin: float) -> Tensor:
    every, terms = flat(rows), []
    kinds = [labels[i].item() if labels[i] >= 0 else f"item {i}" for i, _ in every]
    for k, (_, u) in enumerate(every):
        own = [v for m, (_, v) in enumerate(every) if m != k and kinds[m] == kinds[k]]
        others = [[v for m, (_, v) in enumerate(every) if kinds[m] == c] for c in set(kinds) - {kinds[k]}]
        if own:
            nearest = torch.stack([(u - torch.stack(c).mean(0)).norm() for c in others]).min()
            terms.append(((u - torch.stack(own).mean(0)).norm() - nearest + margin).clamp(min=0))
    return mean(terms)


def icnn(rows: Rows, labels: Tensor, nearest: int) -> Tensor:
    terms = []
    for _, u, positive, negative in grouped(rows, labels):
        if positive and negative:
            same, other = (
                mean(sorted(((u - v).norm() for v in kind), key=Tensor.item)[:nearest]) / 2
                for kind in (positive, negative)
            )
            terms.append((1 - same) * other)
    return -mean(terms).log()


def prime(x: list[Tensor], y: list[Tensor], nearest: int, low: float, high: float, t: float) -> Tensor:
    terms = []
    for a, b in ((x, y), (y, x)):
        for i, u in enumerate(a):
            positive = u @ b[i]
            hard = sorted((u @ v for j, v in enumerate(b) if j != i), key=Tensor.item)[-nearest:]
            left = [(n, n - positive + (n - positive).abs().clamp(low, high).detach()) for n in hard]
            wrong = [(n, each) for n, each in left if each > 0]
            terms.append(expected([e for _, e in wrong], [n / t for n, _ in wrong]) if wrong else 0 * positive)
    return mean(terms)


CASES: dict[str, tuple[str, Given, Any]] = {
    "cacr": (
        "cacr",
        {"alpha": 2.0, "beta": 0.5, "tau_positive": 0.5, "tau_negative": 3.0},
        lambda r, d, t: cacr(r, 2.0, 0.5, 3.0, 0.5),
    ),
    "groco": ("groco", {"nearest": 2, "steepness": 3.0}, lambda r, d, t: groco(r, 2, 3.0)),
    "mann-whitney": (
        "mann-whitney",
        {},
        lambda r, d, t: by_pairs(r, lambda _, x, y: mann_whitney(x, y, t, lambda j, k: j != k)),
    ),
    "energy-hinge": (
        "energy-hinge",
        {"margin": 0.7},
        lambda r, d, t: by_pairs(r, lambda _, x, y: energy_hinge(x, y, 0.7)),
    ),
    "multi-similarity": (
        "multi-similarity",
        {"beta": 5.0, "mining": None},
        lambda r, d, t: multi_similarity(r, d["labels"], 2.0, 5.0, 0.5, None),
    ),
    "multi-similarity mined": (
        "multi-similarity",
        {"beta": 5.0},
        lambda r, d, t: multi_similarity(r, d["labels"], 2.0, 5.0, 0.5, 0.1),
    ),
    **{
        f"triplet {mining} {distance}": (
            "triplet",
            {"mining": mining, "distance": distance, "margin": 0.3},
            lambda r, d, t, mining=mining, distance=distance: triplets(
                r, d["labels"], 0.3, mining, distance == "euclidean"
            ),
        )
        for mining in ("all", "semi-hard", "hard")
        for distance in ("cosine", "euclidean")
    },
    "angle": ("angle", {}, lambda r, d, t: angle(r, d["targets"][:, 0], t)),
    "sepclr": (
        "sepclr",
        {"kernel": 0.7, "beta_salient": 3.0, "beta_background": 2.0},
        lambda r, d, t: sepclr(d, 0.7, 0.5, (3.0, 2.0, 10.0), (0.0, 1.0)),
    ),
    "sepclr attributes": (
        "sepclr",
        {"kernel": 0.7, "beta_salient": 3.0, "beta_background": 2.0, "attributes": 4.0, "attribute_kernel": 0.3},
        lambda r, d, t: sepclr(d, 0.7, 0.5, (3.0, 2.0, 10.0), (4.0, 0.3)),
    ),
    "proto-triplet": ("proto-triplet", {"margin": 0.5}, lambda r, d, t: proto_triplet(r, d["labels"], 0.5)),
    "icnn": ("icnn", {"nearest": 2}, lambda r, d, t: icnn(r, d["labels"], 2)),
    "prime": ("prime", {"nearest": 2}, lambda r, d, t: by_pairs(r, lambda _, x, y: prime(x, y, 2, 0.1, 0.3, 0.1))),
    "groco of all": ("groco", {}, lambda r, d, t: groco(r, 10, 1.0)),
}
ELSEWHERE = {"sogclr", "isogclr", "mutual-information", "sct", "whitened", "hydra", "amcl", "pg-rank"}
"""Losses of files of their own, whose loops are in a test of that name."""
