"""How the rows lie in a run's space: a map, similarities between modalities, nearest neighbours."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clx.pipelines.report.confusions import CLASSES
from clx.pipelines.report.snapshot import Snapshot

EXAMPLES, NEIGHBOURS = 4, 5


def thousandths(matrix: Tensor) -> list[list[int | None]]:
    return [[round(value * 1000) if np.isfinite(value) else None for value in line] for line in matrix.tolist()]


def space(snapshot: Snapshot, points: int) -> dict[str, Any]:
    """Unit rows of all modalities in two dimensions. Equal things are one point.

    `of` are the points of each row, which a page may join by lines.
    """
    place: dict[tuple[str, int], int] = {}
    rows: list[Tensor] = []
    owners, shown = [], []
    of: list[list[int]] = []
    for i in np.random.default_rng(0).permutation(len(snapshot)).tolist():
        if len(rows) >= points:
            break
        of.append([])
        for k, name in enumerate(snapshot.names):
            thing = (name, int(snapshot.things[name][i]))
            if not snapshot.embedded.present[name][i]:
                continue
            if thing not in place:
                place[thing] = len(rows)
                rows.append(snapshot.unit[name][i])
                owners.append(k)
                shown.append(snapshot.item(i, name))
            of[-1].append(place[thing])
    x = torch.stack(rows).double()
    centred = x - x.mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    found = {"modality": owners, "item": shown, "of": of}
    if x.shape[1] > 1 and len(x) > 2:
        share = s.square() / s.square().sum().clamp(min=1e-12)
        found["pca"] = {"xy": _fitted((u * s)[:, :2].numpy()), "share": share[:2].tolist()}
    if len(x) >= 30 and float(s[0]) > 1e-6:
        found["tsne"] = {"xy": _fitted(_tsne(centred.numpy()))}
    return found


def _tsne(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """t-SNE (van der Maaten & Hinton 2008) of rows `[N, D]`; on unit rows Euclidean order is cosine order."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(x) - 1) / 3)
    made = TSNE(perplexity=perplexity, init="pca", max_iter=500, random_state=0).fit_transform(x.astype(np.float32))
    return made  # type: ignore[no-any-return]


def _fitted(xy: np.ndarray[Any, Any]) -> list[list[int]]:
    """Points `[N, 2]` as columns of whole numbers within 0 to 999, both axes by one scale."""
    low, high = xy.min(0), xy.max(0)
    scaled = (xy - (low + high) / 2) / (float((high - low).max()) or 1) + 0.5
    return [(scaled[:, k] * 999).round().astype(int).tolist() for k in (0, 1)]


def groups(snapshot: Snapshot) -> tuple[list[str], Tensor] | None:
    """Rows by class, or by ranges of the target with equally many rows: names, and numbers `[N]` with -1 for none."""
    labels = snapshot.embedded.labels
    if (labels >= 0).any():
        common = [k for k, _ in Counter(labels[labels >= 0].tolist()).most_common(CLASSES)]
        number = torch.full((len(snapshot.embedded.classes) + 1,), -1)  # the last is read by label -1
        number[sorted(common)] = torch.arange(len(common))
        return [snapshot.embedded.classes[k] for k in sorted(common)], number[labels]
    known = snapshot.targets.isfinite()
    if int(known.sum()) < 20:
        return None
    inner = torch.quantile(snapshot.targets[known], torch.linspace(0, 1, 21, dtype=torch.float64)[1:-1]).unique()
    number = torch.bucketize(snapshot.targets.nan_to_num(), inner, right=True)
    edges = [snapshot.targets[known].min().item(), *inner.tolist(), snapshot.targets[known].max().item()]
    names = [f"{a:.3g} to {b:.3g}" for a, b in itertools.pairwise(edges)]
    return names, torch.where(known, number, -1)


def similarity(snapshot: Snapshot) -> dict[str, Any]:
    """Mean cosine of all pairs of rows of two groups, for two modalities; without groups that of single rows."""
    known = groups(snapshot)
    names, number = known or ([], torch.zeros(0))
    several = snapshot.run.objective.leading.fuses_by_product  # pairs say little then
    found = []
    for asked, candidate in snapshot.directions():
        alone = len(asked) == 1
        if (alone and snapshot.names.index(asked[0]) > snapshot.names.index(candidate)) or not (alone or several):
            continue
        here = snapshot.here(*asked, candidate)
        if known:
            here = here & (number >= 0)
        if not here.any():
            continue
        a, b = snapshot.ask(asked, candidate, here), snapshot.unit[candidate][here]
        same = asked == [candidate]
        matrix = _group_means(a, b, number[here], len(names), same) if known else a[:24] @ b[:24].T
        found.append({"from": snapshot.called(asked), "to": candidate, "values": thousandths(matrix)})
    ordered = "class" if (snapshot.embedded.labels >= 0).any() else "target" if known else "row"
    return {"by": ordered, "names": names, "matrices": found}


def _group_means(a: Tensor, b: Tensor, number: Tensor, count: int, same: bool) -> Tensor:
    """Mean of a_i . b_j over i in one group and j in another, `[count, count]`; NaN for an empty group.

    With `same` both are the same rows, and a row is not compared with itself.
    """
    size = torch.bincount(number, minlength=count).to(a.dtype)
    total_a = a.new_zeros(count, a.shape[1]).index_add(0, number, a)
    total_b = b.new_zeros(count, b.shape[1]).index_add(0, number, b)
    sums, pairs = total_a @ total_b.T, size[:, None] * size
    if same:
        selves = a.new_zeros(count).index_add(0, number, (a * b).sum(1))
        sums, pairs = sums - selves.diag(), pairs - size.diag()
    return sums / pairs


def paired(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Mean cosine of what belongs together and of everything else, by direction."""
    found = []
    for asked, candidate in snapshot.directions():
        if candidate in asked or (len(asked) == 1 and snapshot.names.index(asked[0]) > snapshot.names.index(candidate)):
            continue
        here = snapshot.here(*asked, candidate)
        n = int(here.sum())
        if n < 2:
            continue
        a, b = snapshot.ask(asked, candidate, here).double(), snapshot.unit[candidate][here].double()
        own = (a * b).sum()
        rest = (a.sum(0) @ b.sum(0) - own) / (n * (n - 1))
        found.append(
            {"inputs": f"{snapshot.called(asked)} and {candidate}", "paired": own.item() / n, "others": rest.item()}
        )
    return found


def neighbours(snapshot: Snapshot) -> dict[str, Any]:
    """The best answers to a few rows, among distinct things: `hits` are [item, cosine, partner]."""
    order = np.random.default_rng(1).permutation(len(snapshot)).tolist()
    complete = torch.stack([snapshot.embedded.present[name] for name in snapshot.names]).sum(0)
    order.sort(key=lambda i: -int(complete[i]))
    examples: list[int] = []
    for i in order:  # of different classes, as far as there are
        if len(examples) < EXAMPLES and all(
            snapshot.embedded.labels[i] != snapshot.embedded.labels[j] for j in examples
        ):
            examples.append(i)
    examples += [i for i in order if i not in examples][: EXAMPLES - len(examples)]
    found = []
    for asked, candidate in snapshot.directions():
        rows = [i for i in examples if bool(snapshot.here(*asked)[i])]
        if rows:
            queried = snapshot.ask(asked, candidate, torch.tensor(rows))
            lines = [_hits(snapshot, asked, candidate, i, q) for i, q in zip(rows, queried, strict=True)]
            found.append({"from": snapshot.called(asked), "to": candidate, "lines": lines})
    return {"directions": found}


def _hits(snapshot: Snapshot, asked: list[str], candidate: str, i: int, query: Tensor) -> dict[str, Any]:
    scores = snapshot.unit[candidate] @ query
    scores[~snapshot.embedded.present[candidate]] = -2
    things, itself = snapshot.things[candidate], int(snapshot.things[candidate][i])
    has = bool(snapshot.embedded.present[candidate][i])
    met = {itself} if asked == [candidate] else set()
    hits: list[list[int]] = []
    for j in scores.argsort(descending=True, stable=True).tolist():
        thing = int(things[j])
        if len(hits) == NEIGHBOURS or scores[j] < -1.5:
            break
        if thing not in met:
            met.add(thing)
            partner = has and thing == itself
            shown = i if partner else j  # of equal things the row's own
            hits.append([snapshot.item(shown, candidate), round(float(scores[j]) * 1000), int(partner)])
    return {"asked": [snapshot.item(i, name) for name in asked], "hits": hits}
