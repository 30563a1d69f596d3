"""What a run makes of some rows, as JSON values for a page to draw: its space, its answers, its mistakes.

Coordinates and similarities are whole thousandths, items (previews) and rows are numbers into lists of their own, so
that a thousand points with their thumbnails stay below a megabyte or two.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clx.losses.base import Loss
from clx.modalities.base import CellError, Input, LearnedView
from clx.pipelines.batch import BadRow
from clx.pipelines.build import Run
from clx.pipelines.cells import cell_at
from clx.pipelines.embedded import Embedded, contents, embed_manifest, head_says, queries_of
from clx.pipelines.errors import BadInput
from clx.pipelines.manifest import Manifest
from clx.pipelines.overview import CLASSES
from clx.pipelines.previews import KINDS, STEPS, Preview, preview
from clx.pipelines.regression import numbers
from clx.pipelines.zeroshot import alone_and_together, class_embeddings, native_scale, text_modality

MISTAKES = 12
EXAMPLES, NEIGHBOURS = 4, 5
VIEWS = 4
SAMPLES = 6
COMPONENTS, FEATURES = 3, 16
VOTERS = 10


@dataclass
class Seen:
    """Some rows of a manifest in a run's space, and the previews that were asked for."""

    run: Run
    manifest: Manifest
    embedded: Embedded
    targets: Tensor
    """`[N]`: the first target of each row, NaN where there is none."""
    unit: dict[str, Tensor]
    """`[N, D]` unit rows by modality."""
    things: dict[str, Tensor]
    """`[N]`: rows of equal content have equal numbers."""
    items: list[Preview] = field(default_factory=list)
    rows: dict[int, list[Any]] = field(default_factory=dict)
    """By row: where it stands, its class number or -1, its target or None."""
    shelf: dict[tuple[int, str], int] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return list(self.unit)

    def __len__(self) -> int:
        return len(self.targets)

    def here(self, *names: str) -> Tensor:
        """`[N]`: rows that have all these modalities."""
        return torch.stack([self.embedded.present[name] for name in names]).all(0)

    def read(self, i: int, name: str) -> tuple[Any, Any]:
        """Cell and sample of row `i`."""
        modality, at = self.run.modalities[name], int(self.embedded.rows[i])
        cell = cell_at(self.manifest, at, name, modality)
        return cell, modality.read(cell)

    def item(self, i: int, name: str) -> int:
        """The number of the preview of row `i`."""
        self.note(i)
        if (i, name) not in self.shelf:
            cell, sample = self.read(i, name)
            self.shelf[i, name] = len(self.items)
            seen = preview(self.run.modalities[name], sample, cell)
            self.items.append({"row": i, "modality": self.names.index(name), **seen})
        return self.shelf[i, name]

    def note(self, i: int) -> None:
        """Remember what there is to say of row `i`."""
        if i not in self.rows:
            target = self.targets[i].item()
            where = self.manifest.where(int(self.embedded.rows[i]))
            where = where.removeprefix(f"{Path(self.manifest.name).parent}/")  # row and file are enough on a page
            self.rows[i] = [where, int(self.embedded.labels[i]), None if np.isnan(target) else target]

    def ask(self, names: list[str], candidate: str, rows: Tensor) -> Tensor:
        """Unit queries `[n, D]` of several modalities together, for candidates of another."""
        return F.normalize(queries_of(self.run, self.embedded, names, rows, candidate), dim=-1)

    def called(self, asked: list[str]) -> str:
        """What to call several modalities together."""
        return "+".join(asked) if len(asked) < 3 else "all others"

    def directions(self) -> Iterator[tuple[list[str], str]]:
        """What is asked with, and what answers: every ordered pair, each with itself, all others together."""
        for candidate in self.names:
            yield from (([name], candidate) for name in self.names)
            others = [name for name in self.names if name != candidate]
            if len(others) > 1:
                yield others, candidate


@torch.no_grad()
def look(run: Run, manifest: Manifest, rows: int, say: Callable[[str], None]) -> Seen:
    """Embed `rows` rows of a manifest, drawn at random when it has more. Bad rows are left out and told to `say`."""
    some = manifest
    if len(manifest) > rows:
        some = manifest.take(np.sort(np.random.default_rng(0).choice(len(manifest), rows, replace=False)))

    def report(bad: list[BadRow]) -> None:
        for each in bad:
            say(f"{each.where}: {each.reason}")

    embedded = embed_manifest(run, some, on_bad="skip", report=report)
    targets = torch.full((len(embedded),), float("nan"), dtype=torch.float64)
    if embedded.target:
        targets = embedded.targets[:, 0].double()
    unit = {name: F.normalize(z, dim=-1) for name, z in embedded.z.items() if embedded.present[name].any()}
    things = {name: contents(run, embedded, name) for name in unit}
    return Seen(run, some, embedded, targets, unit, things)


@torch.no_grad()
def pictures(seen: Seen, points: int, train: Manifest | None) -> dict[str, Any]:
    """Everything there is to see. `train` are the training rows, for the density of their targets, where at hand."""
    run = seen.run
    found: dict[str, Any] = {}
    found["classes"] = seen.embedded.classes
    found["modalities"] = [{"name": name, "kind": run.modalities[name].kind} for name in seen.names]
    found["target"] = seen.embedded.target[0] if seen.targets.isfinite().any() else None
    found["map"] = space(seen, points)
    found["similarity"] = similarity(seen)
    found["pairs"] = paired(seen)
    found["neighbours"] = neighbours(seen)
    found["answers"] = answers(seen)
    if found["target"]:
        found["regression"] = regression(seen, train)
    found["views"] = views(seen)
    found["steps"] = over_time(seen)
    return found | {"items": seen.items, "rows": seen.rows}


def thousandths(matrix: Tensor) -> list[list[int | None]]:
    return [[round(value * 1000) if np.isfinite(value) else None for value in line] for line in matrix.tolist()]


def space(seen: Seen, points: int) -> dict[str, Any]:
    """Unit rows of all modalities in two dimensions. Equal things are one point.

    `of` are the points of each row, which a page may join by lines.
    """
    place: dict[tuple[str, int], int] = {}
    rows: list[Tensor] = []
    owners, shown = [], []
    of: list[list[int]] = []
    for i in np.random.default_rng(0).permutation(len(seen)).tolist():
        if len(rows) >= points:
            break
        of.append([])
        for k, name in enumerate(seen.names):
            thing = (name, int(seen.things[name][i]))
            if not seen.embedded.present[name][i]:
                continue
            if thing not in place:
                place[thing] = len(rows)
                rows.append(seen.unit[name][i])
                owners.append(k)
                shown.append(seen.item(i, name))
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


def groups(seen: Seen) -> tuple[list[str], Tensor] | None:
    """Rows by class, or by ranges of the target with equally many rows: names, and numbers `[N]` with -1 for none."""
    labels = seen.embedded.labels
    if (labels >= 0).any():
        common = [k for k, _ in Counter(labels[labels >= 0].tolist()).most_common(CLASSES)]
        number = torch.full((len(seen.embedded.classes) + 1,), -1)  # the last is read by label -1
        number[sorted(common)] = torch.arange(len(common))
        return [seen.embedded.classes[k] for k in sorted(common)], number[labels]
    known = seen.targets.isfinite()
    if int(known.sum()) < 20:
        return None
    inner = torch.quantile(seen.targets[known], torch.linspace(0, 1, 21, dtype=torch.float64)[1:-1]).unique()
    number = torch.bucketize(seen.targets.nan_to_num(), inner, right=True)
    edges = [seen.targets[known].min().item(), *inner.tolist(), seen.targets[known].max().item()]
    names = [f"{a:.3g} to {b:.3g}" for a, b in itertools.pairwise(edges)]
    return names, torch.where(known, number, -1)


def similarity(seen: Seen) -> dict[str, Any]:
    """Mean cosine of all pairs of rows of two groups, for two modalities; without groups that of single rows."""
    known = groups(seen)
    names, number = known or ([], torch.zeros(0))
    several = type(seen.run.objective.leading).fuse is not Loss.fuse  # a space of products: pairs say little
    found = []
    for asked, candidate in seen.directions():
        alone = len(asked) == 1
        if (alone and seen.names.index(asked[0]) > seen.names.index(candidate)) or not (alone or several):
            continue
        here = seen.here(*asked, candidate)
        if known:
            here = here & (number >= 0)
        if not here.any():
            continue
        a, b = seen.ask(asked, candidate, here), seen.unit[candidate][here]
        same = asked == [candidate]
        matrix = _group_means(a, b, number[here], len(names), same) if known else a[:24] @ b[:24].T
        found.append({"from": seen.called(asked), "to": candidate, "values": thousandths(matrix)})
    ordered = "class" if (seen.embedded.labels >= 0).any() else "target" if known else "row"
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


def paired(seen: Seen) -> list[dict[str, Any]]:
    """Mean cosine of what belongs together and of everything else, by direction."""
    found = []
    for asked, candidate in seen.directions():
        if candidate in asked or (len(asked) == 1 and seen.names.index(asked[0]) > seen.names.index(candidate)):
            continue
        here = seen.here(*asked, candidate)
        n = int(here.sum())
        if n < 2:
            continue
        a, b = seen.ask(asked, candidate, here).double(), seen.unit[candidate][here].double()
        own = (a * b).sum()
        rest = (a.sum(0) @ b.sum(0) - own) / (n * (n - 1))
        found.append(
            {"inputs": f"{seen.called(asked)} and {candidate}", "paired": own.item() / n, "others": rest.item()}
        )
    return found


def neighbours(seen: Seen) -> dict[str, Any]:
    """The best answers to a few rows, among distinct things: `hits` are [item, cosine, partner]."""
    order = np.random.default_rng(1).permutation(len(seen)).tolist()
    complete = torch.stack([seen.embedded.present[name] for name in seen.names]).sum(0)
    order.sort(key=lambda i: -int(complete[i]))
    examples: list[int] = []
    for i in order:  # of different classes, as far as there are
        if len(examples) < EXAMPLES and all(seen.embedded.labels[i] != seen.embedded.labels[j] for j in examples):
            examples.append(i)
    examples += [i for i in order if i not in examples][: EXAMPLES - len(examples)]
    found = []
    for asked, candidate in seen.directions():
        rows = [i for i in examples if bool(seen.here(*asked)[i])]
        if rows:
            queried = seen.ask(asked, candidate, torch.tensor(rows))
            lines = [_hits(seen, asked, candidate, i, q) for i, q in zip(rows, queried, strict=True)]
            found.append({"from": seen.called(asked), "to": candidate, "lines": lines})
    return {"directions": found}


def _hits(seen: Seen, asked: list[str], candidate: str, i: int, query: Tensor) -> dict[str, Any]:
    scores = seen.unit[candidate] @ query
    scores[~seen.embedded.present[candidate]] = -2
    things, itself = seen.things[candidate], int(seen.things[candidate][i])
    has = bool(seen.embedded.present[candidate][i])
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
            hits.append([seen.item(shown, candidate), round(float(scores[j]) * 1000), int(partner)])
    return {"asked": [seen.item(i, name) for name in asked], "hits": hits}


@torch.no_grad()
def answers(seen: Seen) -> list[dict[str, Any]]:
    """How rows with a class were classified: the confusion, and the most confident mistakes.

    By words where there is a text modality beside others; by the trained head; else by the votes of the nearest
    other rows.
    """
    found = []
    for how, name, rows, chances in _classified(seen):
        truth = seen.embedded.labels[rows]
        sure, said = chances.max(1)
        counts = Counter(zip(truth.tolist(), said.tolist(), strict=True))
        wrong = torch.nonzero(said != truth)[:, 0]
        where = torch.nonzero(rows)[:, 0].tolist()
        mistakes, met = [], set()
        for k in wrong[sure[wrong].argsort(descending=True, stable=True)].tolist():
            given = [n for n in name.split("+") if seen.embedded.present[n][where[k]]]
            things = tuple(int(seen.things[n][where[k]]) for n in given)
            if things in met:
                continue
            met.add(things)
            items = [seen.item(where[k], n) for n in given]
            mistakes.append({"items": items, "row": where[k], "said": int(said[k]), "sure": round(float(sure[k]), 4)})
            if len(mistakes) == MISTAKES:
                break
        cells = [[a, b, n] for (a, b), n in sorted(counts.items())]
        found.append(
            {"how": how, "input": name, "rows": len(truth), "wrong": len(wrong), "cells": cells, "mistakes": mistakes}
        )
    return found


def _classified(seen: Seen) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """How, the input, which rows `[N]`, and the chance of each class `[n, C]`."""
    run, known = seen.run, seen.embedded.labels >= 0
    if not known.any():
        return
    try:
        text = text_modality(run)
    except BadInput:
        text = ""
    others = [name for name in seen.names if name != text]
    if text and others:
        classes = class_embeddings(run, {name: [name] for name in seen.embedded.classes}, text=text)
        for group in alone_and_together(others):
            rows = known & torch.stack([seen.embedded.present[name] for name in group]).any(0)
            if rows.any():
                scores = queries_of(run, seen.embedded, group, rows, text) @ classes.T
                yield "by the words of the classes", "+".join(group), rows, native_scale(run).probabilities(scores)
    elif run.model.predictor is not None and not run.config.data.target and run.ahead is None:
        rows = known & (seen.embedded.labels < run.model.predictor.out_features)
        yield "by the trained head", "+".join(seen.names), rows, predicted(seen)[rows].softmax(-1)
    else:
        for name in seen.names:
            rows = known & seen.embedded.present[name]
            if int(rows.sum()) > VOTERS:
                yield f"by the {VOTERS} nearest other rows", name, rows, _votes(seen, name, rows)


def _votes(seen: Seen, name: str, rows: Tensor) -> Tensor:
    """Shares of the classes among the nearest other rows, `[n, C]`."""
    x, labels = seen.unit[name][rows], seen.embedded.labels[rows]
    near = (x @ x.T).fill_diagonal_(-2).topk(VOTERS, dim=1).indices
    return F.one_hot(labels[near], len(seen.embedded.classes)).double().mean(1)


@torch.no_grad()
def predicted(seen: Seen) -> Tensor:
    """The trained head's outputs `[N, outputs]`, on the CPU."""
    z, present = seen.embedded.z, seen.embedded.present
    return head_says(seen.run, {n: z[n] for n in seen.names}, {n: present[n] for n in seen.names})


def regression(seen: Seen, train: Manifest | None) -> dict[str, Any]:
    """Predicted against true values, the error by region of the target, and how many training rows each has."""
    known, column = seen.targets.isfinite(), seen.embedded.target[0]
    place = seen.run.config.data.target.index(column)
    truth = seen.targets[known].numpy()
    if seen.run.model.predictor is not None:
        how, said = "by the trained head", predicted(seen)[known, place].double().numpy()
    else:
        how, said = "by ridge regression on the embeddings, each tenth from the nine others", _ridge(seen, known, truth)
    taught = truth[:0] if train is None else numbers(train, column).double().numpy()
    taught = taught[np.isfinite(taught)]
    both = np.concatenate([truth, taught])
    edges = np.linspace(both.min(), both.max(), 21)
    region = np.clip(np.searchsorted(edges, truth, side="right") - 1, 0, 19)
    error = np.abs(said - truth)
    size = np.bincount(region, minlength=20)
    mean = np.bincount(region, weights=error, minlength=20) / np.maximum(size, 1)
    rows = np.flatnonzero(known.numpy())
    worst = np.argsort(-error, kind="stable")[:MISTAKES].tolist()
    some = np.random.default_rng(0).permutation(len(truth))[:1500].tolist()
    for i in [int(rows[k]) for k in {*worst, *some}]:
        seen.note(i)
    return {
        "how": how,
        "mae": float(error.mean()),
        "edges": edges.tolist(),
        "error": [float(m) if n else None for m, n in zip(mean, size, strict=True)],
        "rows": size.tolist(),
        "train": np.histogram(taught, edges)[0].tolist() if len(taught) else None,
        "points": [[int(rows[k]), float(said[k])] for k in some],
        "worst": [
            {
                "items": [seen.item(int(rows[k]), n) for n in seen.names if seen.embedded.present[n][int(rows[k])]],
                "row": int(rows[k]),
                "said": float(said[k]),
            }
            for k in worst
        ],
    }


def _ridge(seen: Seen, known: Tensor, truth: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Predictions `[n]` for rows by a regressor that did not see them: 10 folds, the penalty by leave-one-out."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import cross_val_predict

    x = torch.cat([seen.unit[name][known] for name in seen.names], 1).double().numpy()
    folds = min(10, len(x))
    if folds < 2:
        return np.full_like(truth, truth.mean())
    return cross_val_predict(RidgeCV(np.logspace(-4, 3, 15)), x, truth, cv=folds)  # type: ignore[no-any-return]


@torch.no_grad()
def views(seen: Seen) -> list[dict[str, Any]]:
    """Samples beside random views of them, as training makes them."""
    found = []
    for name in seen.names:
        modality = seen.run.modalities[name]
        if modality.augmentation == "none" or modality.kind not in KINDS:
            continue
        there = torch.nonzero(seen.embedded.present[name])[:, 0].tolist()
        lines = []
        for i in there[:: max(1, len(there) // 3)][:3]:
            try:
                _, sample = seen.read(i, name)
            except (CellError, BadInput):
                continue
            made = [view for (view,) in modality.vary([[sample]] * VIEWS, torch.Generator().manual_seed(i))]
            if (maker := seen.run.model.tower(name).view) is not None:
                made[1:] = _learned(maker, modality.collate(made[1:]), i, seen.run.device)
            lines.append({"sample": preview(modality, sample), "views": [preview(modality, view) for view in made]})
        how = modality.augmentation
        said = how if isinstance(how, str) else ", ".join(f"{change} {strength:g}" for change, strength in how.items())
        found.append({"modality": name, "augmentation": said, "lines": lines})
    return found


def _learned(maker: LearnedView, value: Input, seed: int, device: torch.device) -> list[Tensor]:
    """Series `[T, C]` that a network makes of collated ones, with rows of NaN where there is no step."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        varied, _ = maker(**{key: part.to(device) for key, part in value.items()})
    x, mask = varied["x"].float().cpu(), varied["mask"].cpu()
    return list(x.masked_fill(~mask[..., None], torch.nan))


@torch.no_grad()
def over_time(seen: Seen) -> list[dict[str, Any]]:
    """What an encoder with features per time step makes of a few samples: their first principal components, and the
    features that vary most, as a map of features by time.

    Both are those of all steps of all samples together, and so have one meaning and one scale, -99 to 99: that of a
    component is its own, that of the features one for all.
    """
    found = []
    for name in seen.names:
        modality, stepped = seen.run.modalities[name], getattr(seen.run.model.towers[name].encoder, "steps", None)
        if stepped is None:
            continue
        there = torch.nonzero(seen.embedded.present[name])[:, 0].tolist()
        rows = there[:: max(1, len(there) // SAMPLES)][:SAMPLES]
        value = modality.collate([seen.read(i, name)[1] for i in rows])
        features, mask = stepped(**{key: part.to(seen.run.device) for key, part in value.items()})
        features, mask = features.double().cpu(), mask.cpu()
        x = features[mask]
        if len(x) <= COMPONENTS:
            continue
        features = features - x.mean(0)
        _, s, axes = torch.linalg.svd(features[mask], full_matrices=False)
        share = s.square() / s.square().sum().clamp(min=1e-12)
        parts = features @ axes[:COMPONENTS].T  # [N, T, COMPONENTS]
        parts = parts / parts[mask].abs().amax(0).clamp(min=1e-12) * 99
        most = x.var(0).argsort(descending=True, stable=True)[:FEATURES]
        shown = features[..., most] / features[mask][:, most].abs().max().clamp(min=1e-12) * 99
        lines = [
            {"item": seen.item(i, name), "parts": _rows(part, real), "features": _rows(each, real)}
            for i, part, each, real in zip(rows, parts, shown, mask, strict=True)
        ]
        found.append({"modality": name, "share": share[:COMPONENTS].tolist(), "width": x.shape[1], "lines": lines})
    return found


def _rows(values: Tensor, real: Tensor) -> list[list[int | None]]:
    """`[T, K]` as K rows of at most `STEPS` whole numbers up to the last of the steps that are `real`, None between."""
    end = int(real.nonzero()[-1]) + 1
    at = torch.linspace(0, end - 1, min(STEPS, end)).round().long().tolist()
    kept = values.round().int().tolist()
    return [[kept[t][k] if real[t] else None for t in at] for k in range(values.shape[1])]
