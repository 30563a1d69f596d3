"""What embeddings of rows that were not trained on say: labels that neighbours deny, and val rows of another kind."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from clx.pipelines.data.manifest import Manifest
from clx.pipelines.evaluation.embeddings import Embedded, embed_manifest
from clx.pipelines.experiments.doctor.from_data import looked_at
from clx.pipelines.experiments.doctor.opened import Opened
from clx.pipelines.system.doctor import Row, row
from clx.pipelines.system.errors import BadInput
from clx.pipelines.training.health import POINT, spread

ROWS = 1500
VOTERS = 30
FEWEST = 100
"""Rows with a label from which on labels are judged."""
NOISE = 0.15
SCATTERED = 0.5
"""Of the votes for other classes than the most voted for, the share that the second has at most where labels are wrong
at random; classes that are hard to tell are few."""
SURE = 0.5
OTHER = 0.95
"""Area under the curve of telling training from val rows."""
NAMED = 10


def space_rows(opened: Opened) -> Iterator[Row]:
    """Findings from embeddings of some rows of each split."""
    opened.learner.model.eval()
    opened.run.model.eval()
    train = embedded(opened, opened.train)
    other = None if opened.held_out is None else embedded(opened, opened.held_out)
    if train is None:
        return
    yield from doubted(opened, train, other)
    if other is not None:
        yield from of_another_kind(opened, train, other)


def embedded(opened: Opened, manifest: Manifest) -> Embedded | None:
    """Some rows, evenly spread; None where their embeddings are not finite, which is another finding."""
    try:
        return embed_manifest(opened.run, manifest.take(looked_at(manifest, ROWS)), on_bad="skip")
    except BadInput:
        return None


def joined(opened: Opened, rows: Embedded, without: set[str]) -> Tensor | None:
    """Unit embeddings of the inputs side by side `[N, D]`, zeros where one is missing."""
    names = [name for name in rows.z if name not in without]
    if not names:
        return None
    parts = [torch.where(rows.present[n][:, None], normalize(rows.z[n], dim=1), 0) for n in names]
    return torch.cat(parts, 1)


def doubted(opened: Opened, train: Embedded, other: Embedded | None) -> Iterator[Row]:
    """The share of labels that are wrong at random, and the rows of which that is likeliest.

    Rows that were not trained on are judged where there are enough: a model may know wrong labels by heart. Neighbours
    of one class agree; where labels are wrong at random no neighbourhood does, and those who differ name all classes.
    """
    label = opened.config.data.label_column
    if label is None or label in opened.config.data.target or train.label_sets is not None or len(train.classes) < 3:
        return
    words = {n for n, m in opened.run.modalities.items() if m.kind == "text" and few_texts(opened, n)}
    x = joined(opened, train, words)
    if x is None or int((train.labels >= 0).sum()) < FEWEST:
        return
    if fallen := [n for n in train.z if n not in words and spread(train.z[n][train.present[n]]) < POINT]:
        said = f"not looked at: embeddings of {', '.join(fallen)} are all but equal, so a row's neighbours say nothing"
        yield row("labels", said)
        return
    own = votes(x, x, train.labels, len(train.classes), itself=True)
    judged, labels = own, train.labels
    if other is not None and int((other.labels >= 0).sum()) >= FEWEST:
        y = joined(opened, other, words)
        assert y is not None
        judged, labels = votes(y, x, train.labels, len(train.classes)), other.labels
    some = judged[labels >= 0]
    ordered = some.sort(1, descending=True).values
    first = ordered[:, 0]
    noise = 1 - float(first.quantile(0.9))
    rest = (1 - first).clamp(min=1e-9)
    second = float((ordered[:, 1] / rest)[first < 1].median()) if bool((first < 1).any()) else 1.0
    said = (
        f"where neighbours agree most {1 - noise:.0%} have one label, half of all places {float(first.median()):.0%}; "
        f"of those who differ {second:.0%} have one other"
    )
    if noise >= NOISE and second <= SCATTERED and float(first.median()) >= SURE * (1 - noise):
        where = likeliest(opened, train, own)
        advice = f"look at the rows most likely mislabelled: {'; '.join(where)}; moit is a loss that doubts labels"
        yield row("labels", f"about {noise:.0%} or more are wrong at random: {said}", "problem", advice)
    else:
        yield row("labels", said)


def few_texts(opened: Opened, name: str) -> bool:
    """Whether a text modality has about as many texts as there are classes: then it says them."""
    column = opened.run.modalities[name].column or name
    if not isinstance(column, str) or column not in opened.train.columns:
        return False
    rows = looked_at(opened.train)
    return len({str(opened.train.cell(i, column)) for i in rows}) <= 3 * len(opened.run.facts.classes)


def votes(queries: Tensor, known: Tensor, labels: Tensor, classes: int, itself: bool = False) -> Tensor:
    """Shares of the classes among the nearest labelled rows, `[Q, C]`."""
    scores = queries @ known.T
    scores[:, labels < 0] = -torch.inf
    if itself:
        scores.fill_diagonal_(-torch.inf)
    near = scores.topk(min(VOTERS, len(known) - 1), dim=1).indices
    return one_hot(labels[near].clamp(min=0), classes).double().mean(1)


def likeliest(opened: Opened, train: Embedded, own: Tensor) -> list[str]:
    """Training rows whose neighbours agree most on another label than theirs."""
    best = own.max(1)
    wrong = (best.indices != train.labels) & (train.labels >= 0)
    order = torch.where(wrong, best.values, -1.0).argsort(descending=True, stable=True)[:NAMED]
    return [
        f"{train.manifest.where(int(train.rows[k]))}: {train.classes[int(train.labels[k])]}, neighbours say "
        f"{train.classes[int(best.indices[k])]}"
        for k in order.tolist()
        if wrong[k]
    ]


def of_another_kind(opened: Opened, train: Embedded, other: Embedded) -> Iterator[Row]:
    """Whether val rows can be told from training rows: by ridge regression on half of them, asked of the other half."""
    x, y = joined(opened, train, set()), joined(opened, other, set())
    if x is None or y is None or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 40:
        return
    draw = np.random.default_rng(0)
    size = min(len(x), len(y))
    rows = torch.cat([x[draw.permutation(len(x))[:size]], y[draw.permutation(len(y))[:size]]]).double()
    truth = torch.cat([torch.zeros(size), torch.ones(size)]).double()
    half = torch.arange(2 * size) % 2 == 0
    mean = rows[half].mean(0)
    a = rows[half] - mean
    weights = torch.linalg.solve(
        a.T @ a + 0.01 * size * torch.eye(a.shape[1], dtype=torch.double), a.T @ (truth[half] - 0.5)
    )
    scores, theirs = (rows[~half] - mean) @ weights, truth[~half] > 0.5
    differences = scores[theirs][:, None] - scores[~theirs]
    area = float(((differences > 0).double() + (differences == 0) / 2).mean())
    said = f"embeddings tell val from training rows with an area under the curve of {area:.2f} (0.5 is chance)"
    if area > OTHER:
        advice = "draw val from the same source: -s data.val.fraction=0.1"
        yield row("val rows", f"of another kind: {said}", "problem", advice)
    else:
        yield row("val rows", said)
